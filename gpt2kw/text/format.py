"""The training format: rendering, prompting and parsing of delimited documents.

A document is ``<|startoftext|>``, up to four sections in a fixed order, and
``<|endoftext|>``. A section is its two-character tag and its content::

    <|startoftext|>~`category~^kw1 kw2~@title~}body<|endoftext|>

Every document exists in three forms: a `Record`, a list of *pieces* (a mark and the
content that follows it), and text. Tokenizers map pieces to ids and back, so the
order of sections and the reading of odd documents are decided here alone.

Content may hold anything. In text form it is escaped just enough to stay apart
from the marks:

- a run of k tildes that a tag character or the next tag follows is written as 2k
  tildes, so that only an odd run can end in a tag;
- ``<|startoftext|>`` is written ``<~|startoftext|>``, that one ``<~~|startoftext|>``,
  and so on; the same for ``<|endoftext|>``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

START = "<|startoftext|>"
END = "<|endoftext|>"

Piece = tuple[str, str]
"""A mark (`START`, `END` or a tag) and the content that follows it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One text with what is known about it. A section that is absent is None.

    `keywords` is the section as it stands in a document: keywords parted by spaces.
    """

    category: str | None = None
    keywords: str | None = None
    title: str | None = None
    body: str | None = None


SECTIONS = tuple(field.name for field in fields(Record))
TAGS = dict(zip(SECTIONS, ("~`", "~^", "~@", "~}"), strict=True))
MARKS = (START, *TAGS.values(), END)
_SECTION_OF = {tag: section for section, tag in TAGS.items()}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document.

    `finished` is false if the end mark is missing, as in a generation that was cut
    off. `stray` is text before the first section, which no rendered document has.
    """

    record: Record
    finished: bool = True
    stray: str = ""


def to_pieces(record: Record, finished: bool = True) -> list[Piece]:
    """Return the pieces of `record`; without the end mark if not `finished`."""
    pieces = [(START, "")]
    pieces += [
        (tag, content)
        for section, tag in TAGS.items()
        if (content := getattr(record, section)) is not None
    ]
    if finished:
        pieces.append((END, ""))
    return pieces


def from_pieces(pieces: Iterable[Piece]) -> Document:
    """Read pieces, which may be a model's and so in any order.

    A tag that can't stand where it does (a second title, a category after the
    body) is read as text of the section that it stands in. What follows an end
    mark is not read.
    """
    sections: dict[str, str] = {}
    stray = ""
    current = None
    finished = False
    for mark, content in pieces:
        if mark == END:
            finished = True
            break
        section = _SECTION_OF.get(mark)
        if section and (current is None or SECTIONS.index(section) > SECTIONS.index(current)):
            current = section
            sections[section] = content
            continue
        text = content if mark == START else mark + content
        if current is None:
            stray += text
        else:
            sections[current] += text
    return Document(Record(**sections), finished, stray)


_TILDES_BEFORE_TAG = re.compile(r"(?<!~)~+(?=[`^@}]|\Z)")
_LITERAL_MARK = re.compile(r"<(~*\|(?:start|end)oftext\|>)")
_ESCAPED_MARK = re.compile(r"<~(~*\|(?:start|end)oftext\|>)")
_TAG_OR_TILDES = re.compile(r"(?<!~)(~+)([`^@}])")


def _escape(content: str, at_end: bool) -> str:
    if "~" in content:
        # At the end of a document no tag follows, so a last run of tildes stays.
        keep_last = "" if not at_end else content[len(content.rstrip("~")) :]
        content = content[: len(content) - len(keep_last)]
        content = _TILDES_BEFORE_TAG.sub(lambda run: run[0] * 2, content) + keep_last
    if "|" in content:
        content = _LITERAL_MARK.sub(r"<~\1", content)
    return content


def _unescape_marks(content: str) -> str:
    return _ESCAPED_MARK.sub(r"<\1", content) if "|" in content else content


def render(record: Record) -> str:
    """Return the document of `record`, without a line break after it."""
    return _render_pieces(to_pieces(record))


def prompt(record: Record) -> str:
    """Return the document of `record` up to where its last section goes on.

    `Record(keywords="cats", title="My")` gives ``<|startoftext|>~^cats~@My``.
    """
    return _render_pieces(to_pieces(record, finished=False))


def _render_pieces(pieces: list[Piece]) -> str:
    parts = []
    for place, (mark, content) in enumerate(pieces):
        following = pieces[place + 1][0] if place + 1 < len(pieces) else END
        parts += (mark, _escape(content, at_end=following == END))
    return "".join(parts)


def parse(text: str) -> Document:
    """Read one document; the inverse of `render` for every record.

    The start mark may be missing and the end mark too (then the document is
    unfinished). What follows an end mark is not read.
    """
    body, end, _ = text.partition(END)
    return from_pieces([*_split(body.removeprefix(START)), *([(END, "")] if end else [])])


def _split(body: str) -> Iterator[Piece]:
    """Split what stands between the marks into pieces, content unescaped."""
    mark, content, place = START, [], 0
    for match in _TAG_OR_TILDES.finditer(body):
        tildes, tag_character = match.groups()
        content += (body[place : match.start()], "~" * (len(tildes) // 2))
        if len(tildes) % 2:
            yield mark, _unescape_marks("".join(content))
            mark, content = "~" + tag_character, []
        else:
            content.append(tag_character)
        place = match.end()
    yield mark, _unescape_marks("".join((*content, body[place:])))


_BOUNDARY = re.compile(f"{re.escape(START)}|{re.escape(END)}")
_LONGEST_MARK = max(len(START), len(END))


def iter_documents(chunks: Iterable[str]) -> Iterator[Document]:
    """Yield the documents of a text that comes in chunks of any size.

    Documents are found by their marks, not by lines. A document that another one
    cuts short, or the end of the text, is yielded unfinished, less one line break
    (the one between documents). Text between documents that is not white space is
    yielded as an unfinished document that is all `stray`. Holds one document and
    one chunk in memory.
    """
    buffer, searched, inside = "", 0, False
    for chunk in chunks:
        buffer += chunk
        place = 0
        for boundary in _BOUNDARY.finditer(buffer, searched):
            text = buffer[place : boundary.start()]
            place = boundary.end()
            if boundary[0] == END and inside:
                yield from_pieces([*_split(text), (END, "")])
            else:
                yield from _leftover(text, inside)
            inside = boundary[0] == START
        buffer = buffer[place:]
        # A mark may stand across two chunks.
        searched = max(0, len(buffer) - _LONGEST_MARK)
    yield from _leftover(buffer, inside)


def _leftover(text: str, inside: bool) -> Iterator[Document]:
    if inside:
        yield from_pieces(_split(text.removesuffix("\n")))
    elif text.strip():
        yield Document(Record(), finished=False, stray=text.strip())
