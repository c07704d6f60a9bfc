"""A report as a table for the terminal."""

from collections.abc import Iterator

from gpt2kw.evaluation.bootstrap import Estimate
from gpt2kw.evaluation.report import Report, Row


def number(value: float, share: bool) -> str:
    """Return a figure with three digits that count, or one decimal of a percentage."""
    if share:
        return f"{100 * value:.1f}%"
    size = abs(value)
    return f"{value:,.0f}" if size >= 999.5 else f"{value:.{1 if size >= 9.995 else 2}f}"


def interval(found: Estimate, share: bool) -> str:
    """Return the ends of an interval."""
    low, high = number(found.low, share), number(found.high, share)
    return f"{low.removesuffix('%')} to {high.removesuffix('%')}"


def is_different(row: Row, column: str) -> bool:
    """Whether a model's figure differs from the first one's beyond chance."""
    found = row.differences.get(column)
    return found is not None and not found.may_be_chance


def table_lines(report: Report) -> Iterator[str]:
    """Yield the lines of a table: models with intervals, then what they are compared with."""
    columns = [*report.models, *report.comparisons]
    lines: list[list[str]] = [["", *columns]]
    group = ""
    for row in report.rows:
        if row.group != group:
            group = row.group
            lines.append([group])
        lines.append([f"  {row.name}", *(_cell(report, row, column) for column in columns)])
    lines.append(["speed"])
    works = report.models.values()
    lines.append(["  texts per second", *(f"{w.texts / w.seconds:.1f}" for w in works)])
    lines.append(["  memory so far, MB", *(f"{w.memory / 1e6:,.0f}" for w in works)])
    widths = [max(len(line[n]) for line in lines if n < len(line)) for n in range(len(columns) + 1)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        yield "  ".join(cells).rstrip()


def _cell(report: Report, row: Row, column: str) -> str:
    found = row.figures.get(column)
    if found is None:
        return "-"
    text = number(found.value, row.share)
    if column in report.comparisons or not found.has_interval:
        return text
    mark = " *" if is_different(row, column) else ""
    return f"{text} ({interval(found, row.share)}){mark}"
