"""How likely texts are under a model, in nats, so that models with other tokens compare."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.backend import operations_stay_on_one_core, tf
from gpt2kw.model.cores import usable_cores
from gpt2kw.model.folder import About, Model, load_config
from gpt2kw.model.named import find_model
from gpt2kw.model.runs import Run
from gpt2kw.text.format import Record
from gpt2kw.training.network import Network

_TOKENS = 1024
"""Positions that are computed together: they need some hundred bytes for each of the vocabulary."""
_BUCKET = 16
"""Lengths are padded to a multiple of this many tokens, so that few shapes are compiled for."""


def perplexity(sums: np.ndarray) -> np.ndarray:
    """Return the perplexity per token or word from sums of nats and of those: [..., 2] to [...].

    Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition
    tasks". Per word it compares models with different tokens: the nats of all tokens by
    the number of words.
    """
    return np.exp(sums[..., 0] / sums[..., 1])


class Score(NamedTuple):
    """The summed loss of a text's tokens, how many those are, and how many were left out."""

    nats: float
    tokens: int
    unknown: int = 0


def load_measured(folder: Path) -> Model:
    """Return the model in a folder.

    Raises:
        UserError: it is damaged, or was never fine-tuned here.
    """
    model = Model.load(folder)
    if not model.tokenizer.had_marks:
        raise UserError(
            f"the model {folder} does not know the format",
            f"fine-tune it first: python -m gpt2kw.finetune TEXT --model {folder}",
        )
    return model


class Judge(Protocol):
    """Says how likely the texts of others are."""

    tokens_are_words: bool
    """Whether what it counts are words."""

    def alone(self, texts: Sequence[str]) -> "Sequence[Score | None]":
        """Return the loss of each text by itself, without its end; None if it can't be told."""


def find_judge(name: str, measured: Iterable[Path]) -> Path:
    """Return the folder of the model that judges the texts of others.

    Raises:
        UserError: there is none, it is no GPT-2, or it is one of those `measured`.
    """
    folder = find_model(str(Run.at(name).folder) if Run.at(name).exists else name)
    if folder.resolve() in {path.resolve() for path in measured}:
        raise UserError(
            f"--judge {name} is one of the models that are measured",
            "give another one, which learnt from other texts if there is such",
        )
    # It is loaded late, when it would be too late to say so.
    load_config(folder)
    return folder


class Scorer:
    """Measures texts with a model, in float32 and without dropout."""

    tokens_are_words = False

    def __init__(self, model: Model) -> None:
        weights = {name: tf.constant(weight) for name, weight in model.weights.items()}
        network = Network(weights, model.config, dtype=tf.float32, dropout=0.0, recompute=False)
        types = (tf.int32, tf.int32, tf.float32)
        self._nats = tf.function(
            network.nats_of_rows,
            input_signature=[tf.TensorSpec([None, None], of) for of in types],
        )
        self._compiled: set[int] = set()
        """Lengths of rows that were measured before."""
        self._tokenizer = model.tokenizer
        self._context = model.context
        self._about = model.about

    def after_keywords(self, records: Sequence[Record]) -> list[Score | None]:
        """Return the loss of each text behind its category and keywords, to its end mark.

        None for what is longer than the model's context.
        """
        asked = [_as_known(record, self._about) for record in records]
        tokenizer = self._tokenizer
        ids = list(tokenizer.encode(asked))
        tags = {tokenizer.tag("title"), tokenizer.tag("body")}
        starts = [
            next(place for place, token in enumerate(text) if token in tags) + 1 for text in ids
        ]
        return self._scores(ids, starts)

    def alone(self, texts: Sequence[str]) -> list[Score | None]:
        """Return the loss of each text by itself, without its end.

        A model that knows the format is asked for a text about anything; to another one
        it is text behind an end mark, as in GPT-2's own training.
        """
        tokenizer = self._tokenizer
        about_anything = "" if "keywords" in self._about.sections else None
        records = [Record(keywords=about_anything, title=text) for text in texts]
        ids = list(tokenizer.encode(records, finished=False))
        if tokenizer.had_marks:
            title = tokenizer.tag("title")
            return self._scores(ids, [text.index(title) + 1 for text in ids])
        return self._scores([[tokenizer.end, *text[2:]] for text in ids], [1] * len(ids))

    def _scores(self, ids: Sequence[list[int]], starts: Sequence[int]) -> list[Score | None]:
        scores: list[Score | None] = [None] * len(ids)

        def measure(numbers: list[int], length: int) -> None:
            rows = max(1, _TOKENS // length)
            batch, documents = np.zeros((2, rows, length), np.int32)
            counted = np.zeros((rows, length), np.float32)
            for row, number in enumerate(numbers):
                end = len(ids[number])
                batch[row, :end] = ids[number]
                documents[row, :end] = 1
                counted[row, starts[number] : end] = 1
            nats = self._nats(*map(tf.constant, (batch, documents, counted))).numpy()
            for row, number in enumerate(numbers):
                scores[number] = Score(float(nats[row]), len(ids[number]) - starts[number])

        alike: list[tuple[list[int], int]] = []
        for numbers, length in _batches([len(text) for text in ids], self._context):
            if length in self._compiled:
                alike.append((numbers, length))
            else:
                # By itself, for XLA may crash where two threads compile at the same time.
                measure(numbers, length)
                self._compiled.add(length)
        with ThreadPoolExecutor(usable_cores() if operations_stay_on_one_core() else 1) as pool:
            for _ in pool.map(lambda batch: measure(*batch), alike):
                pass
        return scores


def _batches(lengths: Sequence[int], longest: int) -> Iterator[tuple[list[int], int]]:
    """Yield the numbers of texts that are computed together, and the length for all of them."""
    together: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        if length <= longest:
            padded = min(longest, -(-length // _BUCKET) * _BUCKET)
            together.setdefault(padded, []).append(number)
    for length, numbers in together.items():
        rows = max(1, _TOKENS // length)
        for start in range(0, len(numbers), rows):
            yield numbers[start : start + rows], length


def _as_known(record: Record, about: About) -> Record:
    """Return a record without what the model's training text had not: a category, keywords."""
    if not about.sections:
        return record
    return replace(
        record,
        category=record.category if record.category in about.categories else None,
        keywords=record.keywords if "keywords" in about.sections else None,
    )
