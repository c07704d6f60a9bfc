"""From documents back to plain texts, JSON lines or CSV."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import tyro

from gpt2kw.errors import UserError, check_option, did_you_mean
from gpt2kw.text.files import atomic_writer_or_stdout, check_not_source, read_chunks
from gpt2kw.text.format import SECTIONS, Document, Record, iter_documents

Sections = dict[str, str | None]
"""Section names and contents in the order that was asked for; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Read documents, such as training text or generated ones, and write their sections."""

    file: tyro.conf.Positional[Path]
    """The documents."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where to write; standard output if not given."""
    sections: tuple[str, ...] = ("title",)
    """Which of category, keywords, title and body to write, in this order."""
    format: Literal["text", "jsonl", "csv"] = "text"
    """Plain text, a JSON object a line, or CSV with a header."""
    separator: str = "=" * 20
    """The line that parts documents in plain text."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", Path(self.file))
        if isinstance(self.sections, str):
            object.__setattr__(self, "sections", (self.sections,))
        if self.output is not None:
            object.__setattr__(self, "output", Path(self.output))
        check_sections(self.sections)
        check_option(
            "format", self.format, self.format in _WRITERS, f"one of {', '.join(_WRITERS)}"
        )


def check_sections(sections: Iterable[str]) -> None:
    """Raise `UserError` unless all are sections of the format, each once."""
    sections = tuple(sections)
    check_option("sections", sections, bool(sections), f"some of {', '.join(SECTIONS)}")
    for section in sections:
        if section not in SECTIONS:
            raise UserError(
                f"--sections names {section!r}",
                f"{did_you_mean(section, SECTIONS)}there are {', '.join(SECTIONS)}",
            )
    check_option("sections", sections, len(set(sections)) == len(sections), "each section once")


@dataclass(frozen=True)
class DecodeReport:
    """How many documents were written, and how many of them had no end mark.

    `strays` counts the places with text that stands in no section. It is not written.
    """

    documents: int
    unfinished: int
    strays: int


def decode_texts(
    texts: str | Iterable[str], sections: str | Iterable[str] = ("title",)
) -> Iterator[Sections]:
    """Yield the sections of every document in `texts`, as they are needed.

    Args:
        texts: one text, or several that each hold whole documents.
        sections: which to give, in this order; or one.

    Raises:
        UserError: an unknown section.
    """
    sections = (sections,) if isinstance(sections, str) else tuple(sections)
    check_sections(sections)
    for text in [texts] if isinstance(texts, str) else texts:
        for document in iter_documents([text]):
            yield _pick(document, sections)


def _pick(document: Document, sections: tuple[str, ...]) -> Sections:
    return {section: getattr(document.record, section) for section in sections}


def decode_file(options: DecodeOptions | None = None, **fields: Any) -> DecodeReport:
    """Write the sections of the documents in a file; `DecodeOptions` has the fields.

    Streams: memory does not depend on the file's size.

    Raises:
        UserError: the file can't be read or holds no document; the output can't be
            written.
    """
    options = replace(options, **fields) if options else DecodeOptions(**fields)
    if options.output:
        check_not_source(options.output, [options.file])
    documents = unfinished = strays = 0
    write = None
    with atomic_writer_or_stdout(options.output) as file:
        for document in iter_documents(read_chunks(options.file)):
            strays += bool(document.stray)
            if document.record == Record() and not document.finished:
                continue
            documents += 1
            unfinished += not document.finished
            # Not before there is a document: a CSV's writer begins with the header.
            write = write or _WRITERS[options.format](file, options)
            write(_pick(document, options.sections))
        if not documents:
            raise UserError(f"{options.file} holds no document", "give a file that encode wrote")
    return DecodeReport(documents, unfinished, strays)


def _text_writer(file: IO[str], options: DecodeOptions) -> Callable[[Sections], None]:
    def write(sections: Sections) -> None:
        present = [content for content in sections.values() if content is not None]
        file.write("\n".join((*present, options.separator)) + "\n")

    return write


def _json_writer(file: IO[str], options: DecodeOptions) -> Callable[[Sections], None]:
    return lambda sections: print(json.dumps(sections, ensure_ascii=False), file=file)


def _csv_writer(file: IO[str], options: DecodeOptions) -> Callable[[Sections], None]:
    # The csv module leaves a lone carriage return bare, which reads back as a line's end.
    writer = csv.DictWriter(file, options.sections, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    return writer.writerow


_WRITERS = {"text": _text_writer, "jsonl": _json_writer, "csv": _csv_writer}
