"""Texts as a file's lines."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict

from gpt2kw.generation.options import GenerateOptions
from gpt2kw.generation.ranking import Text
from gpt2kw.text.format import prompt, render


def lines(text: Text, options: GenerateOptions, before: int) -> str:
    """Return what a text adds to an output in which so many texts stand `before` it."""
    written = _FORMS[options.output_format](text, options)
    if not before and options.output_format == "csv":
        return _as_csv_row(_csv_fields(text, options)) + written
    if before and options.sample_delim:
        return f"{options.sample_delim}\n{written}"
    return written


def _as_text(text: Text, options: GenerateOptions) -> str:
    shown = text.shown(options.sections).splitlines()
    return ("\n".join(shown) if options.sample_delim else " ".join(" ".join(shown).split())) + "\n"


def _as_json(text: Text, options: GenerateOptions) -> str:
    fields = {"row": text.request + 1} if options.prompts else {}
    fields |= asdict(text.document.record) | {"finished": text.document.finished}
    return json.dumps(fields | {"missing": text.missing}, ensure_ascii=False) + "\n"


def _as_document(text: Text, _options: GenerateOptions) -> str:
    return (render if text.document.finished else prompt)(text.document.record) + "\n"


def _as_csv(text: Text, options: GenerateOptions) -> str:
    return _as_csv_row(_csv_fields(text, options).values())


def _csv_fields(text: Text, options: GenerateOptions) -> dict[str, str | int]:
    record = text.document.record
    fields = {
        "row": text.request + 1,
        "keywords": record.keywords or "",
        "category": record.category or "",
        "title": text.title,
        "body": record.body or "",
        "finished": "true" if text.document.finished else "false",
        "missing": " ".join(text.missing),
    }
    if "body" not in options.sections:
        del fields["body"]
    return fields


def _as_csv_row(values: Iterable[str | int]) -> str:
    row = io.StringIO()
    # The csv module leaves a lone carriage return bare, which reads back as a line's end.
    csv.writer(row, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(values)
    return row.getvalue()


_FORMS = {"text": _as_text, "jsonl": _as_json, "csv": _as_csv, "encoded": _as_document}
