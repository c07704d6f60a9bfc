"""A report as one HTML page that needs nothing else, and as JSON."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from html import escape
from pathlib import Path

from gpt2kw.evaluation.options import setting_name
from gpt2kw.evaluation.plots import draw
from gpt2kw.evaluation.report import Flagged, Report, Row, Sample
from gpt2kw.evaluation.table import interval, is_different, number
from gpt2kw.text.files import atomic_writer, made_folder

log = logging.getLogger(__name__)

_JSON, _PAGE = "report.json", "report.html"
_FEW = 30
_SAMPLES = 25
_TEXTS = 2
_FLAGGED = 20

_LEGEND = """
Small: the 95% interval, if other keywords had been drawn; one without width says only that all
lists of keywords came out alike. n: how many lists, or sets of lists, a figure is of, where they
are few. Bold: different from the first column beyond that chance, by the paired difference shown;
of twenty rows in which nothing differs, one is bold by chance. People: texts by people about the
same keywords. Shuffled: their words in random order. Repeated: a few texts over and over, whatever
the keywords: from the training text, or people's if that is not known. These three show what good
and bad figures look like; what a model makes of them is the first model's. Same prompt: of two
texts for the same keywords.
"""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 76em;
  padding: 0 1.5em; }
h1, h2 { font-weight: 600; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td.good { white-space: nowrap; color: #666; }
th, td { text-align: left; vertical-align: top; padding: .2em .9em .2em 0; }
thead th { border-bottom: 2px solid #888; }
tr.group th { padding-top: .9em; border-bottom: 1px solid #ccc; }
tbody th { font-weight: normal; }
tr.group th, thead th { font-weight: 600; }
.samples td, .samples th { border-bottom: 1px solid #ddd; min-width: 11em; }
td.other { color: #666; }
small { color: #666; white-space: nowrap; }
p small { white-space: normal; }
.pictures { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; flex: 1 1 30em; }
figure img { width: 100%; }
figcaption { font-weight: 600; }
td p { margin: 0 0 .5em; }
dt { font-weight: 600; margin-top: .8em; }
dd { margin: 0; white-space: pre-line; max-width: 60em; }
"""


def tell_of_earlier_report(folder: Path) -> None:
    """Say that a report in a folder will be replaced, while there is time to choose another."""
    earlier = [path for name in (_JSON, _PAGE) if (path := folder / name).is_file()]
    if earlier:
        day = datetime.fromtimestamp(earlier[0].stat().st_mtime)
        log.info("the report of %s in %s will be replaced", f"{day:%Y-%m-%d %H:%M}", folder)


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json` and `report.html` into a folder, which is made if it is not there.

    Raises:
        UserError: they can't be written.
    """
    with made_folder(folder):
        with atomic_writer(folder / _JSON) as file:
            json.dump(report.as_json(), file, ensure_ascii=False, indent=1)
            file.write("\n")
        with atomic_writer(folder / _PAGE) as file:
            file.writelines(line + "\n" for line in page(report))


def page(report: Report) -> Iterator[str]:
    """Yield the lines of the page."""
    title = "gpt2kw: " + ", ".join(report.models)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{escape(title)}</h1>"
    yield from _about(report)
    yield "<h2>Figures</h2>"
    yield from _figures(report)
    yield '<div class="pictures">'
    for caption, picture in draw(report):
        caption = escape(caption)
        yield f"<figure><figcaption>{caption}</figcaption>"
        yield f'<img alt="{caption}" src="{picture}"></figure>'
    yield "</div>"
    yield from _samples(report)
    yield from _remembered(report)
    yield from _definitions(report)
    yield "</body>\n</html>"


def _about(report: Report) -> Iterator[str]:
    texts = "text" if report.nsamples == 1 else "texts"
    said = (
        f"{report.prompts:,} lists of keywords from {report.source}, {report.nsamples} {texts} for "
        f"each. Training text: {report.training or 'not known'}. Judge: {report.judge or 'none'}. "
        f"Seed {report.seed}. Measured in {report.seconds / 60:.1f} minutes."
    )
    yield f"<p>{escape(said)}</p>"
    if report.notes:
        yield "<p>Not measured, or in part:</p>\n<ul>"
        yield from (f"<li>{escape(note)}</li>" for note in report.notes)
        yield "</ul>"


def _figures(report: Report) -> Iterator[str]:
    columns = [*report.models, *report.comparisons]
    yield '<div class="wide"><table>\n<thead><tr><th></th><th>good is</th>'
    yield "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr></thead>\n<tbody>"
    group = ""
    for row in report.rows:
        if row.group != group:
            group = row.group
            yield f'<tr class="group"><th colspan="{len(columns) + 2}">{escape(group)}</th></tr>'
        cells = "".join(_cell(report, row, column) for column in columns)
        good = f'<td class="good">{row.good}</td>'
        yield f"<tr><th>{escape(row.name)}</th>{good}{cells}</tr>"
    yield from _speed(report, len(columns))
    yield "</tbody></table></div>"
    corpus = f"Corpus: of one text each for up to {report.corpus} lists of keywords."
    yield f"<p><small>{_LEGEND}{corpus}</small></p>"
    if report.left_out:
        comparisons = escape(", ".join(report.comparisons))
        yield (
            f"<p><small>Left out, for {comparisons} have figures that can't be told apart here: "
            f"{escape('; '.join(report.left_out))}.</small></p>"
        )


def _cell(report: Report, row: Row, column: str) -> str:
    found = row.figures.get(column)
    if found is None:
        return "<td></td>"
    text = number(found.value, row.share)
    shown = f"<b>{text}</b>" if is_different(row, column) else text
    if found.has_interval:
        shown += f" <small>{interval(found, row.share)}</small>"
    if found.units < _FEW:
        shown += f" <small>n = {found.units}</small>"
    gap = row.differences.get(column)
    if gap and gap.low < gap.high:
        sign = "+" if gap.value > 0 else ""
        shown += (
            f"<br><small>{sign}{number(gap.value, row.share)}: {interval(gap, row.share)}</small>"
        )
    kind = ' class="other"' if column in report.comparisons else ""
    return f"<td{kind}>{shown}</td>"


def _speed(report: Report, columns: int) -> Iterator[str]:
    yield f'<tr class="group"><th colspan="{columns + 2}">the run itself</th></tr>'
    works = report.models.values()
    rows = {
        "texts per second": [f"{work.texts / work.seconds:.1f}" for work in works],
        "seconds": [f"{work.seconds:.0f}" for work in works],
        "most memory of the process so far, MB": [f"{work.memory / 1e6:,.0f}" for work in works],
        "parameters, million": [f"{work.parameters / 1e6:.1f}" for work in works],
        "settings": [", ".join(setting_name(k, v) for k, v in w.settings.items()) for w in works],
    }
    for name, values in rows.items():
        yield (
            f"<tr><th>{name}</th><td></td>"
            + "".join(f"<td>{escape(v)}</td>" for v in values)
            + "</tr>"
        )


def _samples(report: Report) -> Iterator[str]:
    columns = [
        name for name in (*report.models, "people") if name in (*report.models, *report.comparisons)
    ]
    prompts = min(_SAMPLES, report.prompts)
    yield f"<h2>Texts side by side</h2>\n<p>The first {_TEXTS} texts for {prompts} lists of "
    yield "keywords, with the keywords that are missing; all texts are in report.json.</p>"
    yield '<div class="wide"><table class="samples">\n<thead><tr><th>keywords</th>'
    yield "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr></thead>\n<tbody>"
    for sample in report.samples[:_SAMPLES]:
        cells = "".join(_sample_cell(sample, column) for column in columns)
        category = f"<br><small>{escape(sample.category)}</small>" if sample.category else ""
        yield f"<tr><th>{escape(' '.join(sample.keywords))}{category}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _sample_cell(sample: Sample, column: str) -> str:
    paragraphs = []
    for text, missing in zip(sample.texts[column], sample.missing[column], strict=True):
        said = f" <small>without {escape(', '.join(missing))}</small>" if missing else ""
        paragraphs.append(f"<p>{escape(text)}{said}</p>")
    return f"<td>{''.join(paragraphs[:_TEXTS])}</td>"


def _remembered(report: Report) -> Iterator[str]:
    if report.flagged:
        yield "<h2>New, or remembered?</h2>"
    for column, flagged in report.flagged.items():
        yield f"<h3>{escape(column)}: {_count(flagged)}</h3>"
        if flagged:
            yield '<div class="wide"><table class="samples">'
            yield "<thead><tr><th>text</th><th>nearest training text</th><th>likeness</th>"
            yield "<th>words shared in a row</th></tr></thead>\n<tbody>"
            for one in flagged[:_FLAGGED]:
                likeness = "copy" if one.copy else f"{one.similarity:.2f}"
                yield f"<tr><td>{escape(one.text)}</td><td>{escape(one.nearest)}</td>"
                yield f"<td>{likeness}</td><td>{one.longest}</td></tr>"
            yield "</tbody></table></div>"


def _count(flagged: list[Flagged]) -> str:
    if not flagged:
        return "no text is like a training text"
    shown = f"; the {_FLAGGED} most alike" if len(flagged) > _FLAGGED else ""
    return f"{len(flagged):,} different texts are training texts or nearly so{shown}"


def _definitions(report: Report) -> Iterator[str]:
    yield "<h2>What the figures are</h2>\n<dl>"
    for source, text in report.definitions.items():
        names = [row.name for row in report.rows if source in row.sources]
        if names:
            yield f"<dt>{escape('; '.join(names))}</dt><dd>{escape(text)}</dd>"
    yield "</dl>"
