"""Training text as token ids: tokenised once, kept on disk, mapped into memory."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.folder import About
from gpt2kw.model.runs import checksum as stream_checksum
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.files import made_folder, output_errors, read_chunks, scratch_folder
from gpt2kw.text.format import SECTIONS, Record, iter_documents
from gpt2kw.text.inflection import find_keyword
from gpt2kw.text.tally import Tally

_LAYOUT = 2
"""Of the files below; another number makes other keys, so that old files are not read."""
_KEPT = 8
_CATEGORIES_KEPT = 1_000
_BLOCK = 2048


def read_records(path: Path, tally: Tally) -> Iterator[Record]:
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
    if not used:
        raise UserError(f"{path} has no usable document", "make it with python -m gpt2kw.encode")


def checksum(path: Path) -> str:
    """Return a checksum of a text's bytes; `UserError` if it can't be read."""
    try:
        with open(path, "rb") as file:
            return stream_checksum(file)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}", "check the path") from error


@dataclass(frozen=True)
class Corpus:
    """The documents of a text as token ids."""

    tokens: np.ndarray
    """uint16 or uint32 [all tokens]: the documents one behind the other."""
    ends: np.ndarray
    """int64 [documents]: where in `tokens` each document ends."""
    lengths: np.ndarray
    """uint32 [documents]: tokens of each document."""
    categories: np.ndarray
    """uint32 [documents]: tokens of its category with the tag, which stand behind the
    first token; 0 without one."""
    texts: np.ndarray
    """uint32 [documents]: the place in the document of its title's tag, or else its body's."""
    keywords: np.ndarray
    """uint32 [tokens]: the places in their documents of those tokens of a text that belong to
    one of its keywords, where that comes first; for one document behind the other."""
    keyword_ends: np.ndarray
    """int64 [documents]: where in `keywords` those of each document end."""
    about: About
    notes: tuple[str, ...]
    """What could not be used, and how much of it."""

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.ends)

    def document(self, number: int, with_category: bool = True) -> np.ndarray:
        """Return the ids of a document, with or without its category."""
        end = self.ends[number]
        ids = self.tokens[end - self.lengths[number] : end]
        if with_category or not self.categories[number]:
            return ids
        return np.concatenate([ids[:1], ids[1 + self.categories[number] :]])

    def keyword_places(self, number: int) -> np.ndarray:
        """Return the places, in a document with its category, of its text's keywords."""
        start = self.keyword_ends[number - 1] if number else 0
        return self.keywords[start : self.keyword_ends[number]]


def open_corpus(
    text: Path, text_checksum: str, tokenizer: Tokenizer, context: int, cache: Path
) -> Corpus:
    """Return the corpus of a text, from the cache if it holds that very text and tokenizer.

    The memory that this takes does not depend on the length of the text.

    Raises:
        UserError: the text can't be used, or the cache not be written.
    """
    key = f"{_LAYOUT} {text_checksum} {context} {tokenizer.definition()}"
    folder = cache / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    if not (folder / "about.json").exists():
        with output_errors(cache), made_folder(cache), scratch_folder(folder) as draft:
            _tokenise(text, tokenizer, context, draft / "corpus")
            _forget_oldest(cache)
            _keep_first(draft / "corpus", folder)
    os.utime(folder)
    return _mapped(folder)


def _keep_first(draft: Path, folder: Path) -> None:
    """Rename a draft to `folder`, unless another process has just made the same there."""
    if not (folder / "about.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(draft, folder)
    except OSError:
        if not (folder / "about.json").exists():
            raise


def _forget_oldest(cache: Path) -> None:
    folders = [path for path in cache.iterdir() if not path.name.startswith(".")]
    for old in sorted(folders, key=lambda path: path.stat().st_mtime)[: 1 - _KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _mapped(folder: Path) -> Corpus:
    about = json.loads((folder / "about.json").read_text("utf-8"))
    arrays = {}
    for name, dtype in about["arrays"].items():
        path = folder / f"{name}.bin"
        # Nothing can't be mapped: no text may have one of its keywords.
        arrays[name] = np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
    described = About(tuple(about["categories"]), tuple(about["sections"]))
    return Corpus(**arrays, about=described, notes=tuple(about["notes"]))


def _tokenise(text: Path, tokenizer: Tokenizer, context: int, folder: Path) -> None:
    """Write the files of a corpus into a new folder."""
    arrays = {
        "tokens": "uint16" if tokenizer.padded_size <= 2**16 else "uint32",
        "ends": "int64",
        "lengths": "uint32",
        "categories": "uint32",
        "texts": "uint32",
        "keywords": "uint32",
        "keyword_ends": "int64",
    }
    tally, categories, sections = Tally(), Counter(), set()
    records = read_records(text, tally)
    folder.mkdir()
    files: dict[str, IO[bytes]] = {}
    try:
        for name in arrays:
            files[name] = open(folder / f"{name}.bin", "wb")  # noqa: SIM115  (closed below)
        end = number = keyword_end = 0
        while block := list(islice(records, _BLOCK)):
            for record, pieces in zip(block, tokenizer.encode_pieces(block), strict=True):
                number += 1
                ids, keywords = _joined(record, pieces, tokenizer)
                if len(ids) > context:
                    tally.add(f"documents cut to {context} tokens", f"document {number}")
                    ids = ids[:context]
                    keywords = [place for place in keywords if place < context]
                end += len(ids)
                keyword_end += len(keywords)
                text_tag = "title" if record.title is not None else "body"
                values = {
                    "tokens": ids,
                    "ends": end,
                    "lengths": len(ids),
                    "categories": _category_tokens(ids, tokenizer),
                    "texts": _place(ids, tokenizer.tag(text_tag)),
                    "keywords": keywords,
                    "keyword_ends": keyword_end,
                }
                for name, value in values.items():
                    files[name].write(np.asarray(value, arrays[name]).tobytes())
            categories.update(r.category for r in block if r.category is not None)
            sections.update(s for r in block for s in SECTIONS if getattr(r, s) is not None)
    finally:
        for file in files.values():
            file.close()
    frequent = [category for category, _ in categories.most_common(_CATEGORIES_KEPT)]
    about = {
        "arrays": arrays,
        "notes": tally.lines(),
        **asdict(About(tuple(frequent), tuple(s for s in SECTIONS if s in sections))),
    }
    (folder / "about.json").write_text(json.dumps(about, ensure_ascii=False) + "\n", "utf-8")


def _joined(record: Record, pieces: list[Any], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return a document's ids, and the places in it of its text's keywords.

    Takes what `Tokenizer.encode_pieces` makes of the record.
    """
    ids: list[int] = []
    places: list[int] = []
    texts = {tokenizer.tag(s): getattr(record, s) or "" for s in ("title", "body")}
    missing = (record.keywords or "").split()
    for mark, content, spans in pieces:
        ids.append(mark)
        found = {word: find_keyword(word, texts[mark]) for word in missing if mark in texts}
        for start, end in filter(None, found.values()):
            here = (n for n, span in enumerate(spans) if span[0] < end and start < span[1])
            places += (len(ids) + n for n in here)
        missing = [word for word in missing if not found.get(word)]
        ids += content
    return ids, sorted(set(places))


def _place(ids: list[int], token: int) -> int:
    """Return the first place of a token, or the document's length if that was cut off."""
    return ids.index(token) if token in ids else len(ids)


def _category_tokens(ids: list[int], tokenizer: Tokenizer) -> int:
    if ids[1:2] != [tokenizer.tag("category")]:
        return 0
    marks = set(tokenizer.mark_ids)
    following = (place for place in range(2, len(ids)) if ids[place] in marks)
    return next(following, len(ids)) - 1
