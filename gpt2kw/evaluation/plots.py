"""The pictures of a report, as SVG."""

import base64
import io
from collections.abc import Callable, Iterator

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt2kw.evaluation.bootstrap import Estimate
from gpt2kw.evaluation.form import LONGEST
from gpt2kw.evaluation.report import Report, Row

# Okabe and Ito 2008, "Color Universal Design": what most colour-blind people tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_OF_COMPARISONS = (("#000000", "--"), ("#777777", ":"), ("#777777", "-."), ("#000000", ":"))
_MARKS = ("s", "^", "v")
_BY_NUMBER = "all of "


def draw(report: Report) -> Iterator[tuple[str, str]]:
    """Yield pictures as data URLs, each behind what it shows."""
    coverage = [row for row in report.rows if row.name.startswith(_BY_NUMBER)]
    if coverage:
        yield "Texts that have all their keywords", _picture(_draw_coverage, report, coverage)
    rows = {row.name: row for row in report.rows}
    names = ("self-BLEU-4, same prompt", "all keywords")
    if all(name in rows for name in names):
        title = "Keywords against variety: best is high, and across near people's"
        yield title, _picture(_draw_trade, report, [rows[name] for name in names])
    yield "Length of texts", _picture(_draw_lengths, report)
    if report.similarities:
        yield "Likeness to the nearest training text", _picture(_draw_likeness, report)


def _picture(draw_into: Callable[..., None], report: Report, *rows: list[Row]) -> str:
    figure = Figure(figsize=(5.6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    draw_into(axes, report, *rows)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    file = io.BytesIO()
    # So that the same report gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "gpt2kw"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def _styles(report: Report) -> dict[str, dict[str, str]]:
    """Return colours and line styles by the names of columns."""
    names = (*report.comparisons, "training text")
    styles = {
        name: {"color": colour, "linestyle": line}
        for name, (colour, line) in zip(names, _OF_COMPARISONS, strict=False)
    }
    for number, name in enumerate(report.models):
        styles[name] = {"color": _COLOURS[number % len(_COLOURS)], "linestyle": "-"}
    return styles


def _draw_coverage(axes: Axes, report: Report, rows: list[Row]) -> None:
    columns = [*report.models, *report.comparisons]
    for number, column in enumerate(columns):
        points = [
            (int(row.name.removeprefix(_BY_NUMBER)), row.figures[column])
            for row in rows
            if column in row.figures
        ]
        if not points:
            continue
        # Side by side, so that the intervals can be seen.
        shift = 0.06 * (number - (len(columns) - 1) / 2)
        axes.errorbar(
            [size + shift for size, _ in points],
            [100 * found.value for _, found in points],
            np.transpose([_arms(found) for _, found in points]) * 100,
            label=column,
            marker="o",
            markersize=4,
            capsize=2,
            **_styles(report)[column],
        )
    axes.set(xlabel="keywords", ylabel="% of texts", ylim=(0, 103))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_trade(axes: Axes, report: Report, rows: list[Row]) -> None:
    across, up = rows
    marks = dict(zip(report.comparisons, _MARKS, strict=False))
    for column in (*report.models, *report.comparisons):
        if column in across.figures and column in up.figures:
            x, y = across.figures[column], up.figures[column]
            axes.errorbar(
                x.value,
                100 * y.value,
                np.transpose([_arms(y)]) * 100,
                np.transpose([_arms(x)]),
                label=column,
                marker=marks.get(column, "o"),
                capsize=2,
                color=_styles(report)[column]["color"],
                linestyle="",
            )
    axes.set(xlabel=across.name, ylabel="% of texts with all keywords")


def _arms(found: Estimate) -> tuple[float, float]:
    """Return how far an interval reaches below and above its figure."""
    return max(0.0, found.value - found.low), max(0.0, found.high - found.value)


def _draw_lengths(axes: Axes, report: Report) -> None:
    styles = _styles(report)
    longest = min(LONGEST, max((max(some) for some in report.lengths.values() if some), default=1))
    for column, lengths in report.lengths.items():
        if lengths:
            axes.ecdf(lengths, label=column, linewidth=1.2, **styles[column])
    axes.set(xlabel="words", ylabel="share of texts of at most so many", xlim=(0, longest))


def _draw_likeness(axes: Axes, report: Report) -> None:
    styles = _styles(report)
    for column, values in report.similarities.items():
        if values:
            axes.ecdf(values, complementary=True, label=column, linewidth=1.2, **styles[column])
    axes.set(
        xlabel="Jaccard similarity of runs of 3 words", ylabel="share of texts at least so like"
    )
