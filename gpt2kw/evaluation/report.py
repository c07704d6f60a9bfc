"""What an evaluation found, as it stands in report.json."""

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from gpt2kw.evaluation.bootstrap import Estimate, Measurement, difference, estimate
from gpt2kw.evaluation.figures import Figure, Good

GROUPS = ("coverage", "perplexity", "quality", "diversity", "novelty", "form")
"""Of metrics, in their order on the page."""


@dataclass(frozen=True)
class Row:
    """A metric with its figures by the names of columns."""

    group: str
    name: str
    good: Good
    share: bool
    """Whether figures are shares, of 1, that are shown as percentages."""
    figures: dict[str, Estimate]
    differences: dict[str, Estimate]
    """How much higher a model's figure is than the first model's."""
    sources: tuple[str, ...]
    """What is said of the functions behind it, in `Report.definitions`."""


@dataclass(frozen=True)
class Work:
    """A model at work: what it is and how fast."""

    model: str
    parameters: int
    settings: dict[str, Any]
    texts: int
    seconds: float
    """Of writing, without loading the model."""
    memory: int
    """Bytes that this process has needed at most, until the column was written."""


@dataclass(frozen=True)
class Flagged:
    """A text that is like a training text."""

    text: str
    nearest: str
    similarity: float
    longest: int
    copy: bool


@dataclass(frozen=True)
class Sample:
    """What was written for a prompt, by column; `people` is a column too."""

    category: str | None
    keywords: tuple[str, ...]
    texts: dict[str, list[str]]
    missing: dict[str, list[list[str]]]
    """The keywords that each text has not."""


@dataclass
class Report:
    """An evaluation: models in columns, metrics in rows."""

    source: str
    training: str | None
    judge: str | None
    seed: int
    prompts: int
    nsamples: int
    models: dict[str, Work]
    """By the names of columns; the differences are to the first."""
    comparisons: tuple[str, ...]
    """The columns that no model wrote."""
    rows: list[Row]
    corpus: int
    """The most lists of keywords whose texts stand for the corpus together."""
    left_out: list[str]
    """Metrics for which the comparisons came out alike, so that their figures say nothing here."""
    notes: list[str]
    """What could not be measured, and why."""
    definitions: dict[str, str]
    flagged: dict[str, list[Flagged]]
    """The texts that are copies or nearly so, by column, most alike first."""
    samples: list[Sample]
    lengths: dict[str, list[int]] = field(default_factory=dict)
    """Words of each text, by column; "training text" is one here."""
    similarities: dict[str, list[float]] = field(default_factory=dict)
    """Likeness of each text to its nearest training text, by column."""
    seconds: float = 0.0
    """Of the whole evaluation."""

    def as_json(self) -> dict[str, Any]:
        """Return values that JSON has."""
        return asdict(self)


def compare(
    columns: dict[str, Sequence[Figure]], models: Sequence[str], seed: int
) -> tuple[list[Row], list[str], dict[str, str]]:
    """Return the rows of a report, the metrics that were left out, and the definitions.

    A metric is left out if what people wrote, shuffled words and repeated training texts
    get figures that differ by no more than chance: it says nothing about texts then.
    Those that only a model's column has stay.
    """
    by_row: dict[tuple[str, str], dict[str, Figure]] = {}
    for column, figures in columns.items():
        for figure in figures:
            by_row.setdefault((figure.group, figure.name), {})[column] = figure
    rows, left_out, definitions = [], [], {}
    for (group, name), figures in sorted(by_row.items(), key=lambda row: GROUPS.index(row[0][0])):
        row = _row(figures, models, seed)
        if not row.figures:
            continue
        others = [figures[column].measured for column in row.figures if column not in models]
        if _come_out_alike(others, seed):
            left_out.append(f"{group}: {name}")
            continue
        rows.append(row)
        for figure in figures.values():
            definitions |= {
                _name(source): inspect.getdoc(source) or "" for source in figure.sources
            }
    return rows, left_out, definitions


def _come_out_alike(measured: Sequence[Measurement], seed: int) -> bool:
    """Whether figures differ by no more than chance; not if they are of too few units to tell."""
    pairs = combinations(measured, 2)
    gaps = [gap for one, other in pairs if (gap := difference(one, other, seed))]
    known = [gap for gap in gaps if gap.has_interval]
    return bool(known) and all(gap.may_be_chance for gap in known)


def _row(figures: dict[str, Figure], models: Sequence[str], seed: int) -> Row:
    found = {column: estimate(figure.measured, seed) for column, figure in figures.items()}
    first, *others = models
    differences = {
        column: difference(figures[column].measured, figures[first].measured, seed)
        for column in others
        if column in figures and first in figures
    }
    one = next(iter(figures.values()))
    return Row(
        one.group,
        one.name,
        one.good,
        one.share,
        {column: value for column, value in found.items() if value},
        {column: value for column, value in differences.items() if value},
        tuple(_name(source) for source in one.sources),
    )


def _name(source: Any) -> str:
    return source.__name__
