"""From the texts of a column of the report to its figures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from gpt2kw.evaluation.bootstrap import Measurement
from gpt2kw.evaluation.coverage import Forms, are_side_by_side, coverage, covered_by_all
from gpt2kw.evaluation.data import Prompt, Texts, Training, text_of
from gpt2kw.evaluation.diversity import distinct, self_bleu
from gpt2kw.evaluation.form import finished, length_counts, length_distance, parsed
from gpt2kw.evaluation.likelihood import Judge, Score, perplexity
from gpt2kw.evaluation.novelty import (
    ORDERS,
    Nearest,
    copies,
    longest_span,
    nearest,
    shared_lengths,
    unseen,
)
from gpt2kw.evaluation.quality import bleu, bleu_counts, cider, rouge_l
from gpt2kw.evaluation.words import Words, words

_DISTINCT = (1, 2, 4)
_CORPUS = 25
"""Prompts whose texts stand for the corpus, whatever the size of the report. The fewer they are,
the more such groups a report has, and the better is known what is chance."""
_FULL = 0.9
"""The share of a group's prompts from which on their texts stand for the corpus."""
_NEAR = 0.5
"""Likeness from which a text counts as nearly a training text."""

Good = Literal["high", "low", "as people"]


@dataclass(frozen=True)
class Figure:
    """A row of the report, for one column."""

    group: str
    name: str
    measured: Measurement
    good: Good
    share: bool
    """Whether it is shown as a percentage."""
    sources: tuple[Callable, ...]
    """The functions whose docstrings say what it is."""


@dataclass(frozen=True)
class Column:
    """Texts for each prompt, from a model or made to compare with."""

    texts: Texts

    @cached_property
    def strings(self) -> list[list[str]]:
        """The texts as such, for each prompt."""
        return [[text_of(document.record) for document in some] for some in self.texts]

    @cached_property
    def words(self) -> list[list[Words]]:
        """Their words."""
        return [[words(text) for text in some] for some in self.strings]

    def draws(self, prompts: Sequence[int]) -> list[list[Words]]:
        """Return the first texts for these prompts, the second ones, and so on.

        Left out are those of which fewer prompts have one: fewer texts differ more.
        """
        chosen = [some for number in prompts if (some := self.words[number])]
        most = max(map(len, chosen), default=0)
        draws = ([some[n] for some in chosen if n < len(some)] for n in range(most))
        return [draw for draw in draws if len(draw) >= _FULL * len(chosen)]


def coverage_figures(
    column: Column, prompts: Sequence[Prompt], forms: Forms, seen: Sequence[bool] | None
) -> Iterator[Figure]:
    """Yield the shares of keywords that the texts have; `seen` says which stood together before."""
    rows = []
    for prompt, texts in zip(prompts, column.words, strict=True):
        found = [coverage(prompt.keywords, text, forms) for text in texts]
        rows.append(
            [
                sum(one.covered == one.keywords for one in found),
                len(found),
                sum(one.covered for one in found),
                sum(one.written for one in found),
                sum(one.keywords for one in found),
            ]
        )
    counts = np.array(rows, np.float64)

    def figure(name: str, *columns: int, units: Sequence[bool] | None = None) -> Figure:
        measured = Measurement(counts[:, columns])
        measured = measured.only(units) if units is not None else measured
        return Figure("coverage", name, measured, "high", True, (coverage,))

    yield figure("all keywords", 0, 1)
    yield figure("each keyword", 2, 4)
    yield figure("each keyword, as written", 3, 4)
    for size in sorted({len(prompt.keywords) for prompt in prompts}):
        units = [len(prompt.keywords) == size for prompt in prompts]
        yield figure(f"all of {size}", 0, 1, units=units)
    if seen is not None:
        # One keyword is no combination, and is both seen and easy.
        several = [len(prompt.keywords) > 1 for prompt in prompts]
        for name, wanted in (("seen", True), ("unseen", False)):
            units = [many and one is wanted for many, one in zip(several, seen, strict=True)]
            found = figure(f"all, {name} combination", 0, 1, units=units)
            yield replace(found, sources=(coverage, Training.has_together))


def corpus_groups(prompts: int) -> list[np.ndarray]:
    """Return the places of prompts in groups as equal as can be, the largest first.

    Each has `_CORPUS` of them or somewhat more, or all that there are.
    """
    return np.array_split(np.arange(prompts), max(1, prompts // _CORPUS))


def diversity_figures(column: Column) -> Iterator[Figure]:
    """Yield how different texts are: two for the same prompt, and one for each of many prompts.

    Both are sets of about a fixed size, since the more texts there are, the less differ.
    """
    pairs = [list(combinations(some, 2)) for some in column.words]
    corpus = [column.draws(group) for group in corpus_groups(len(column.words))]
    for where, units in (("same prompt", pairs), ("corpus", corpus)):
        for n in _DISTINCT:
            counts = [_summed([distinct(texts, n) for texts in unit], 2) for unit in units]
            measured = Measurement.of(counts)
            yield Figure(
                "diversity", f"distinct-{n}, {where}", measured, "as people", True, (distinct,)
            )
        scores = [[score for texts in unit for score in self_bleu(texts)] for unit in units]
        measured = Measurement.of([(100 * sum(some), len(some)) for some in scores])
        name = f"self-BLEU-4, {where}"
        yield Figure("diversity", name, measured, "as people", False, (self_bleu,))


def _summed(rows: Sequence[Sequence[float]], width: int) -> np.ndarray:
    """Return the sums of columns; zeros if there are no rows."""
    return np.array(rows, np.float64).reshape(-1, width).sum(axis=0)


@dataclass(frozen=True)
class Likeness:
    """What the training text has of a text."""

    copy: bool
    nearest: Nearest | None
    longest: int
    unseen: tuple[tuple[int, int], ...]
    """For each of `ORDERS` the runs that are new, and of how many."""

    @property
    def similarity(self) -> float:
        """That of the nearest training text, 0 to 1."""
        return self.nearest.similarity if self.nearest else 0.0

    @property
    def is_near(self) -> bool:
        """Whether the text is a training text or nearly so."""
        return self.copy or self.similarity >= _NEAR


def likenesses(columns: Sequence[Column], training: Training) -> list[list[list[Likeness]]]:
    """Return the likeness of each text of each prompt of each column, in one pass for all."""
    texts = [text for column in columns for some in column.words for text in some]
    lengths = shared_lengths(texts, training.words)
    found = (
        Likeness(copy, near, longest_span(shared), tuple(unseen(shared, n) for n in ORDERS))
        for copy, near, shared in zip(
            copies(texts, training.words), nearest(texts, training.words), lengths, strict=True
        )
    )
    return [[[next(found) for _ in some] for some in column.words] for column in columns]


def novelty_figures(likenesses: Sequence[Sequence[Likeness]]) -> Iterator[Figure]:
    """Yield how much of the texts the training text has already."""

    def mean(of: Callable[[Likeness], float]) -> Measurement:
        return Measurement.of([(sum(map(of, some)), len(some)) for some in likenesses])

    def figure(name: str, measured: Measurement, share: bool, *sources: Callable) -> Figure:
        return Figure("novelty", name, measured, "as people", share, sources)

    yield figure("exact copies", mean(lambda one: one.copy), True, copies)
    near = mean(lambda one: one.is_near)
    yield figure("near or exact copies", near, True, nearest)
    yield figure("likeness of the nearest", mean(lambda one: one.similarity), True, nearest)
    longest = mean(lambda one: one.longest)
    yield figure("longest shared span, words", longest, False, longest_span, shared_lengths)
    for place, n in enumerate(ORDERS):
        counts = [_summed([one.unseen[place] for one in some], 2) for some in likenesses]
        new = Measurement.of(counts)
        yield figure(f"new runs of {n} words", new, True, unseen, shared_lengths)


def quality_figures(
    column: Column, prompts: Sequence[Prompt], *, by_people: bool
) -> Iterator[Figure]:
    """Yield how near the texts come to what people wrote.

    The first text by people is the one that they are measured by themselves, if these
    texts are `by_people`; the others are the references, for people and models alike.
    """
    references = [[text_of(record) for record in prompt.people[1:]] for prompt in prompts]
    references_words = [[words(text) for text in some] for some in references]
    most = 1 if by_people else None
    strings = [
        some[:most] if their else [] for some, their in zip(column.strings, references, strict=True)
    ]
    texts = [
        some[:most] if their else [] for some, their in zip(column.words, references, strict=True)
    ]
    pairs = list(zip(texts, references_words, strict=True))
    blues = [
        _summed([bleu_counts(text, their) for text in some], 10)
        for some, their in zip(strings, references, strict=True)
    ]
    rouges = [[rouge_l(text, their) for text in some] for some, their in pairs]
    ciders = cider(texts, references_words)
    yield Figure(
        "quality", "BLEU-4", Measurement.of(blues, bleu), "high", False, (bleu_counts, bleu)
    )
    for name, scores, scale, source in (
        ("ROUGE-L", rouges, 100, rouge_l),
        ("CIDEr-D", ciders, 1, cider),
    ):
        measured = Measurement.of([(scale * sum(some), len(some)) for some in scores])
        yield Figure("quality", name, measured, "high", False, (source,))


def form_figures(
    column: Column, prompts: Sequence[Prompt], forms: Forms, data_lengths: Sequence[int]
) -> Iterator[Figure]:
    """Yield lengths, and how often keywords stand side by side."""
    lengths = [[len(text) for text in some] for some in column.words]
    means = Measurement.of([(sum(some), len(some)) for some in lengths])
    yield Figure("form", "words", means, "as people", False, (length_counts,))
    if data_lengths:
        distance = length_distance(length_counts(data_lengths))
        counts = np.array([length_counts(some) for some in lengths])
        measured = Measurement(counts, distance, rises_by_chance=True)
        name = "distance of lengths, words"
        yield Figure("form", name, measured, "low", False, (length_distance,))
    rows = []
    for prompt, texts in zip(prompts, column.words, strict=True):
        found = [are_side_by_side(prompt.keywords, text, forms) for text in texts]
        found = [one for one in found if one is not None]
        rows.append((sum(found), len(found)))
    measured = Measurement.of(rows)
    yield Figure("form", "keywords side by side", measured, "as people", True, (are_side_by_side,))


def finish_figures(texts: Texts, wanted: int) -> Iterator[Figure]:
    """Yield how many of the `wanted` texts a prompt came out well formed, and finished."""
    whole = Measurement.of(parsed(texts, wanted))
    yield Figure("form", "parses", whole, "high", True, (parsed,))
    ended = Measurement.of(finished(texts))
    yield Figure("form", "finished", ended, "high", True, (finished,))


def perplexity_figure(
    name: str,
    scores: Sequence[Sequence[Score | None]],
    per_word: Sequence[Sequence[Words]] | None = None,
) -> Figure:
    """Return the perplexity per token, or per word if the words of the same texts are given."""
    rows = np.zeros((len(scores), 2))
    for row, some in enumerate(scores):
        for place, score in enumerate(some):
            if score is not None:
                units = len(per_word[row][place]) if per_word else score.tokens
                rows[row] += score.nats, units
    measured = Measurement(rows, perplexity)
    return Figure("perplexity", name, measured, "low", False, (perplexity,))


def judge_figures(
    column: Column,
    scores: Sequence[Sequence[Score | None]],
    judge: Judge,
    fair: Sequence[int | None],
) -> Iterator[Figure]:
    """Yield how likely the judge finds the texts, and how much of them it does not know.

    `fair` is for each prompt the place of the text that compares fairly; see `covered_by_all`.
    """
    words = None if judge.tokens_are_words else column.words
    yield perplexity_figure("by the judge, per word", scores, words)
    if any(place is not None for place in fair):
        compared = [
            [score if place == chosen else None for place, score in enumerate(some)]
            for chosen, some in zip(fair, scores, strict=True)
        ]
        yield replace(
            perplexity_figure("by the judge, all covered", compared, words),
            sources=(perplexity, covered_by_all),
        )
    if judge.tokens_are_words:
        found = [[score for score in some if score] for some in scores]
        rows = [
            [sum(s.unknown for s in some), sum(s.unknown + s.tokens for s in some)]
            for some in found
        ]
        measured = Measurement.of(rows)
        yield Figure("perplexity", "unknown to the judge", measured, "low", True, (type(judge),))
