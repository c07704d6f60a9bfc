"""Telling new titles from copies of those in the training text.

A text is a copy of a training title

- "same": if their normal forms are the same (see `normalise`);
- "span": if it has four words or more, and a run of at least 80% of its words stands in
  the title;
- "similar": if, of the different runs of three characters in the normal forms of both,
  at least 80% are in both (Jaccard's coefficient).

The runs are of characters, not of words, since titles are short: one word changed amid
ten takes away three of eight runs of three words, so that 80% would never be met where
"span" isn't. Of characters it is met when a letter, an ending or a short word changed.
Texts of one to three words may stand inside a longer title, and yet be new.

All answers are exact. An index is a folder of files that are mapped into memory, about
70 bytes for a title of ten words:

- `titles.bin`: the titles, each word as a short code, each title behind a zero byte;
- `suffixes.npy`: a suffix array of it, for the first two rules;
- `sketches.npy`: for the third, a bit string for each title, the sum modulo 2 of one bit
  for each of its runs of characters. Two strings differ in no more bits than the titles
  in runs (Mitzenmacher, Pagh and Pham 2014, "Efficient estimation for high similarities
  using odd sketches"), so few titles have to be looked at;
- `words.bin`: the words that occur more than twice; the others are spelled in the titles.
"""

import functools
import hashlib
import json
import mmap
import operator
import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.text.files import atomic_folder
from gpt2kw.text.normalise import normal_words
from gpt2kw.text.suffixes import sorted_suffixes

_LAYOUT = 1
"""Of the files; an index of another is not read."""
_SHORTEST_SPAN = 4
"""Words."""
_SHARE = (4, 5)
"""80%, of words in a span and of runs of characters."""
_GRAM = 3
"""Characters."""
_BLOCK = 2**15
"""Sketches that are compared at once, so that they stay in the processor's cache."""

_MARK, _OPEN, _CLOSE = b"\0", b"\1", b"\2"
"""What stands before each title and behind the last; what stands around a spelled word.
Normal forms have no control characters."""
_FIRST_CODE = 3
_CODES = sys.maxunicode + 1 - _FIRST_CODE
_SPELLED = 2
"""Words with so few occurrences are spelled in the titles: a code would take more room."""
_WORD = re.compile("\1([^\2]*)\2|(.)", re.DOTALL)


@dataclass(frozen=True)
class Copy:
    """What a text copies: a training title in its normal form, and by which rule."""

    title: str
    rule: Literal["same", "span", "similar"]


class TitleIndex:
    """The titles of a training text, for finding copies of them."""

    def __init__(self, folder: Path) -> None:
        """Map the files; `open` does it with messages for users."""
        about = _read_about(folder)
        self.key: str = about["key"]
        self._titles = _mapped(folder / "titles.bin")
        self._words = _mapped(folder / "words.bin")
        # Plain arrays: each slice of a memmap takes microseconds.
        arrays = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS
        }
        # Their elements are Python's integers, which numpy makes at thrice the cost.
        self._suffixes = memoryview(arrays["suffixes"])
        self._word_ends = memoryview(arrays["word_ends"])
        self._alphabet = memoryview(arrays["alphabet"])
        self._starts = memoryview(arrays["starts"])
        self._sketches = arrays["sketches"]
        self._sizes = _Sizes(arrays["sizes"])

    @classmethod
    def open(cls, folder: Path) -> "TitleIndex":
        """Map an index into memory.

        Raises:
            UserError: there is none, it is damaged, or another version made it.
        """
        fix = "the finetune command of the run, given again, makes one"
        try:
            return cls(folder)
        except FileNotFoundError as error:
            raise UserError(f"{folder} has no index of training titles", fix) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the index of training titles in {folder} can't be read", f"remove it; {fix}"
            ) from error

    @staticmethod
    def exists(folder: Path, key: str) -> bool:
        """Whether there is an index with this key, made by this version."""
        try:
            return _read_about(folder)["key"] == key
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def build(titles: Iterable[str], folder: Path, key: str = "") -> None:
        """Make the index of `titles` in `folder`, whole or not at all.

        Copies of a title count once. About 0.8 kB of memory are taken for a title of ten
        words meanwhile.

        Args:
            titles: read once; blank ones are left out.
            folder: made, or replaced.
            key: says what the titles are, for `exists`.

        Raises:
            UserError: the folder can't be written.
        """
        draft = _Draft()
        for title in titles:
            draft.add(title)
        with atomic_folder(folder) as scratch:
            draft.write(scratch)
            about = {"layout": _LAYOUT, "titles": len(draft.sizes), "key": key}
            (scratch / "about.json").write_text(json.dumps(about) + "\n", "utf-8")

    def __len__(self) -> int:
        """Return the number of different titles."""
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        """Yield the normal forms of all titles."""
        return map(self._title_at, self._starts)

    def find_copy(self, text: str) -> Copy | None:
        """Return what `text` copies, or None if it is new."""
        words = normal_words(text)
        if not words:
            return None
        codes = [self._code(word) for word in words]
        return self._same(codes) or self._span(codes) or self._similar(" ".join(words))

    def _same(self, codes: list[bytes]) -> Copy | None:
        place = self._find(b"".join((_MARK, *codes, _MARK)))
        return None if place is None else Copy(self._title_at(place), "same")

    def _span(self, codes: list[bytes]) -> Copy | None:
        if len(codes) < _SHORTEST_SPAN:
            return None
        run = -(-len(codes) * _SHARE[0] // _SHARE[1])
        for first in range(len(codes) - run + 1):
            place = self._find(b"".join(codes[first : first + run]))
            if place is not None:
                return Copy(self._title_at(place), "span")
        return None

    def _similar(self, normal: str) -> Copy | None:
        grams = _grams(normal)
        if not grams:
            return None
        for number in self._nearby(grams):
            title = self._title_at(self._starts[number])
            if _alike(grams, _grams(title)):
                return Copy(title, "similar")
        return None

    def _nearby(self, grams: set[str]) -> Iterator[int]:
        """Yield the numbers of all titles that may be similar, and of few others."""
        size = len(grams)
        least = -(-size * _SHARE[0] // _SHARE[1])
        most = min(size * _SHARE[1] // _SHARE[0], self._sizes.largest)
        for columns, of_size in groupby(range(least, most + 1), _columns):
            *_, largest = sizes = tuple(of_size)
            own = np.frombuffer(_sketch(grams, columns), "<u8")
            numbers, rows = self._sizes.of(sizes[0], largest, self._sketches)
            # With x and y runs of which s are in both, s >= 4/5 (x + y - s) holds if and only
            # if those in one alone, x + y - 2 s, are (x + y) / 9 or fewer.
            limit = (size + largest) * (_SHARE[1] - _SHARE[0]) // sum(_SHARE)
            for first in range(0, len(rows), _BLOCK):
                for place in _rows_within(limit, rows[first : first + _BLOCK], own):
                    yield numbers[first + place]

    def _find(self, pattern: bytes) -> int | None:
        """Return where `pattern` stands in the titles, from the beginning of a word on."""

        def beginning(place: int) -> bytes:
            return self._titles[place : place + len(pattern)]

        found = bisect_left(self._suffixes, pattern, key=beginning)
        if found == len(self._suffixes) or beginning(self._suffixes[found]) != pattern:
            return None
        return self._suffixes[found]

    def _title_at(self, place: int) -> str:
        """Return the title in whose bytes, or at whose mark, `place` is."""
        start = self._titles.rfind(_MARK, 0, place + 1) + 1
        codes = self._titles[start : self._titles.find(_MARK, start)]
        return " ".join(
            str(self._word(ord(code) - _FIRST_CODE), "utf-8", "surrogatepass") if code else spelled
            for spelled, code in _WORD.findall(codes.decode("utf-8", "surrogatepass"))
        )

    def _code(self, word: str) -> bytes:
        """Return what stands for a word in the titles, if it stands there."""
        spelled = word.encode("utf-8", "surrogatepass")
        found = bisect_left(self._alphabet, spelled, key=self._word)
        if found < len(self._alphabet):
            number = self._alphabet[found]
            if self._word(number) == spelled:
                return _code(number)
        return _OPEN + spelled + _CLOSE

    def _word(self, number: int) -> bytes:
        start = self._word_ends[number - 1] if number else 0
        return self._words[start : self._word_ends[number]]


_ARRAYS = ("suffixes", "word_ends", "alphabet", "starts", "sketches", "sizes")
"""As files of numpy:

- suffixes: unsigned [s]: places in `titles.bin`, in the order of the bytes from there on: of
  all marks before titles, and of all words that begin a run as long as the shortest span
- word_ends: unsigned [words]: where in `words.bin` each word ends, most frequent first
- alphabet: unsigned [words]: the numbers of the words, in the words' order
- starts: unsigned [titles]: places of the marks, titles of few different grams first
- sketches: unsigned [at least one for each title]: in the same order
- sizes: int64 [largest + 2]: how many titles have fewer grams than 0, 1, 2, ...
"""


def _read_about(folder: Path) -> dict[str, Any]:
    about = json.loads((folder / "about.json").read_text("utf-8"))
    if about["layout"] != _LAYOUT:
        raise ValueError(f"layout {about['layout']}")
    return about


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Sizes:
    """Where the titles with so many grams are."""

    def __init__(self, below: np.ndarray) -> None:
        self._below = below
        columns = _columns(np.arange(len(below) - 1))
        self._cells = np.append(0, np.cumsum(np.diff(below) * columns))

    @property
    def largest(self) -> int:
        """The most grams that a title has."""
        return len(self._below) - 2

    def of(self, least: int, most: int, sketches: np.ndarray) -> tuple[range, np.ndarray]:
        """Return numbers and sketches of the titles of sizes that have as many columns."""
        cells = sketches[self._cells[least] : self._cells[most + 1]]
        numbers = range(int(self._below[least]), int(self._below[most + 1]))
        return numbers, cells.reshape(len(numbers), _columns(most))


def _columns(size: Any) -> Any:
    """Return how many times 64 bits a sketch of so many grams has; of a number or an array.

    With fewer, those of any two titles would be alike; with more, there is more to read.
    """
    return 1 + size // 64


def _grams(normal: str) -> set[str]:
    return {normal[place : place + _GRAM] for place in range(len(normal) - _GRAM + 1)}


def _alike(grams: set[str], others: set[str]) -> bool:
    both = len(grams & others)
    return both * _SHARE[1] >= (len(grams) + len(others) - both) * _SHARE[0]


def _sketch(grams: set[str], columns: int) -> bytes:
    bits = 64 * columns
    places = (1 << _hash(gram) % bits for gram in grams)
    return functools.reduce(operator.xor, places, 0).to_bytes(8 * columns, "little")


def _rows_within(limit: int, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return which of the rows, uint64 [n, columns], differ from `own` in so many bits at most."""
    # The first column alone leaves few.
    near = np.flatnonzero(np.bitwise_count(rows[:, 0] ^ own[0]) <= limit)
    if len(own) == 1:
        return near
    return near[np.bitwise_count(rows[near] ^ own).sum(axis=1) <= limit]


@functools.lru_cache(2**16)
def _hash(gram: str) -> int:
    encoded = gram.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _code(number: int) -> bytes:
    """Return the code of a frequent word: UTF-8 of a character, so that none begins another."""
    return chr(_FIRST_CODE + number).encode("utf-8", "surrogatepass")


class _Draft:
    """An index in the making."""

    def __init__(self) -> None:
        self.sizes = array("I")
        self._seen: set[bytes] = set()
        self._ids: dict[str, int] = {}
        # Words as they come, from 1 on; 0 is the mark.
        self._sequence = array("I", [0])
        self._sketches = bytearray()

    def add(self, title: str) -> None:
        words = normal_words(title)
        normal = " ".join(words)
        digest = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if not words or digest in self._seen:
            return
        self._seen.add(digest)
        ids = self._ids
        self._sequence.extend([ids.setdefault(word, len(ids) + 1) for word in words])
        self._sequence.append(0)
        grams = _grams(normal)
        self.sizes.append(len(grams))
        self._sketches += _sketch(grams, _columns(len(grams)))

    def write(self, folder: Path) -> None:
        sequence = np.frombuffer(self._sequence, np.uintc)
        marks = np.flatnonzero(sequence == 0)
        codes = self._write_words(sequence, folder)
        lengths = np.array([len(code) for code in codes], np.uint32)
        with open(folder / "titles.bin", "wb") as file:
            for block in np.array_split(sequence, 1 + len(sequence) // 2**20):
                file.write(b"".join(map(codes.__getitem__, block.tolist())))
        places = np.append(0, np.cumsum(lengths[sequence], dtype=np.int64)[:-1])
        places = _smallest(places)
        np.save(folder / "suffixes.npy", places[_suffixes(sequence, marks, codes)])
        self._write_sizes(places[marks[:-1]], folder)

    def _write_words(self, sequence: np.ndarray, folder: Path) -> list[bytes]:
        """Write the frequent words; return what stands for each element of the sequence."""
        words = [_MARK, *(word.encode("utf-8", "surrogatepass") for word in self._ids)]
        codes = [_MARK, *(_OPEN + word + _CLOSE for word in words[1:])]
        counts = np.bincount(sequence, minlength=len(words))
        # The mark is no word.
        counts[0] = 0
        frequent = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts > _SPELLED)]
        frequent = frequent[:_CODES].tolist()
        for number, word in enumerate(frequent):
            codes[word] = _code(number)
        numbered = [words[word] for word in frequent]
        # Behind them a byte, since an empty file can't be mapped.
        (folder / "words.bin").write_bytes(b"".join(numbered) + _MARK)
        ends = np.cumsum([len(word) for word in numbered], dtype=np.int64)
        np.save(folder / "word_ends.npy", _smallest(ends))
        alphabet = sorted(range(len(numbered)), key=numbered.__getitem__)
        np.save(folder / "alphabet.npy", np.array(alphabet, np.uint32))
        return codes

    def _write_sizes(self, starts: np.ndarray, folder: Path) -> None:
        """Write what is ordered by the titles' sizes."""
        sizes = np.frombuffer(self.sizes, np.uintc).astype(np.int64)
        order = np.argsort(sizes, kind="stable")
        np.save(folder / "starts.npy", starts[order])
        counts = np.bincount(sizes)
        np.save(folder / "sizes.npy", np.append(0, np.cumsum(counts, dtype=np.int64)))
        columns, cells = _columns(sizes), np.frombuffer(self._sketches, "<u8")
        firsts = (np.cumsum(columns) - columns)[order]
        columns = columns[order]
        shifts = firsts - (np.cumsum(columns) - columns)
        cells = cells[np.arange(len(cells)) + np.repeat(shifts, columns)]
        np.save(folder / "sketches.npy", cells)


def _suffixes(sequence: np.ndarray, marks: np.ndarray, codes: list[bytes]) -> np.ndarray:
    """Return the suffix array of a sequence, less the suffixes that no rule looks for."""
    ranks = np.empty(len(codes), np.uint32)
    ranks[sorted(range(len(codes)), key=codes.__getitem__)] = np.arange(len(codes))
    # A title with both its marks is the longest pattern.
    longest = int(np.diff(marks).max(initial=0)) + 1
    order = sorted_suffixes(ranks[sequence], longest)
    wanted = np.ones(len(sequence), bool)
    for words in range(1, _SHORTEST_SPAN):
        wanted[np.maximum(marks - words, 0)] = False
    wanted[marks] = True
    wanted[marks[-1]] = False
    return order[wanted[order]]


def _smallest(places: np.ndarray) -> np.ndarray:
    """Return places in a file as 32 bits each, if they fit."""
    return places.astype(np.uint32 if places.max(initial=0) < 2**32 else np.uint64)
