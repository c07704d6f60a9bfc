"""Training text as token ids, and the order in which a run sees them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.folder import About
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.files import read_chunks
from gpt2kw.text.format import SECTIONS, Record, iter_documents
from gpt2kw.text.tally import Tally

_CATEGORIES_KEPT = 1_000
_POOL = 50
"""Batches whose documents are sorted by length together."""


def read_records(path: Path, tally: Tally, limit: int | None = None) -> Iterator[Record]:
    """Yield the records of the finished documents in a text; count the others.

    Raises:
        UserError: the text can't be read, or has no usable document.
    """
    used = 0
    for number, document in enumerate(iter_documents(read_chunks(path)), start=1):
        if not document.finished:
            tally.add("documents without an end mark, not used", f"document {number}")
        elif document.stray or not (document.record.title or document.record.body):
            tally.add("documents without a title or body, not used", f"document {number}")
        else:
            used += 1
            yield document.record
            if used == limit:
                return
    if not used:
        raise UserError(f"{path} has no usable document", "make it with python -m gpt2kw.encode")


def describe(records: Sequence[Record]) -> About:
    """Return what generation should know about the text that a model was trained on."""
    categories = Counter(record.category for record in records if record.category is not None)
    sections = [s for s in SECTIONS if any(getattr(record, s) is not None for record in records)]
    frequent = categories.most_common(_CATEGORIES_KEPT)
    return About(tuple(category for category, _ in frequent), tuple(sections))


def drop_categories(records: Sequence[Record], share: float, seed: int) -> list[Record]:
    """Return the records, a random `share` of them without their category."""
    dropped = np.random.default_rng(seed).random(len(records)) < share
    return [
        replace(record, category=None) if drop else record
        for record, drop in zip(records, dropped, strict=True)
    ]


class TokenDocuments:
    """Documents as token ids: one array, and where each of them begins."""

    def __init__(
        self, records: Sequence[Record], tokenizer: Tokenizer, context: int, tally: Tally
    ) -> None:
        """Tokenise; cut what is longer than `context` tokens, and count it."""
        parts, lengths = [], []
        encoded = _encode_in_blocks(records, tokenizer)
        for number, ids in enumerate(encoded, start=1):
            if len(ids) > context:
                tally.add(f"documents cut to {context} tokens", f"document {number}")
            parts.append(np.asarray(ids[:context], np.int32))
            lengths.append(len(parts[-1]))
        self._tokens = np.concatenate(parts)
        self.lengths = np.array(lengths)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.lengths)

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int32 ids [documents, longest], padded with zeros, and int32 lengths."""
        lengths = self.lengths[numbers].astype(np.int32)
        ids = np.zeros((len(numbers), lengths.max()), np.int32)
        for row, number in enumerate(numbers):
            start = self._starts[number]
            ids[row, : lengths[row]] = self._tokens[start : start + lengths[row]]
        return ids, lengths


def _encode_in_blocks(records: Sequence[Record], tokenizer: Tokenizer) -> Iterator[list[int]]:
    remaining = iter(records)
    while block := list(islice(remaining, 2048)):
        yield from tokenizer.encode(block)


class BatchOrder:
    """Which documents the n-th step sees: a function of the seed and n alone.

    Each epoch has every document once. Documents of similar length share a batch, so
    that little of it is padding.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[np.ndarray] = []
        self.batches_per_epoch = -(-len(lengths) // batch_size)

    def numbers(self, step: int) -> np.ndarray:
        """Return the numbers of the documents in the batch of `step`, which counts from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._make_epoch(epoch)
        return self._batches[place]

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._lengths))
        batches = []
        for pool in _parts(order, _POOL * self._batch_size):
            by_length = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += _parts(by_length, self._batch_size)
        return [batches[place] for place in rng.permutation(len(batches))]


def _parts(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
