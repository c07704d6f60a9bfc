"""Batches of whole documents of mixed lengths, packed into rows in an order that a seed decides."""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpt2kw.training.corpus import Corpus

_POOL = 200
"""Batches, on average, whose documents are packed together."""
_ROW = 64
"""Least positions of a row, if a batch has as many. Attention's cost grows with the row's length,
but shorter rows gain nothing."""
_FIT = 0.99
"""Share of the documents that fit into the shortest rows."""
_FULL = 0.97
"""Share of a row's positions that packing should fill."""
_SAMPLE = 1000
"""Documents on which that is tried."""
_MULTIPLE = 4
"""Of positions in a row, for the units that multiply matrices."""


@dataclass(frozen=True)
class Batch:
    """Documents one behind the other in rows; none sees another."""

    ids: np.ndarray
    """int32 [rows, length], zeros behind the last document of a row."""
    documents: np.ndarray
    """int32 [rows, length]: which of its row's documents, from 1, a token is of; 0 for padding."""
    loss_weights: np.ndarray
    """float32 [rows, length]: the weight of each token's loss; 0 for those that do not count,
    as a document's first."""

    @property
    def counted(self) -> int:
        """The number of tokens whose loss counts."""
        return int(np.count_nonzero(self.loss_weights))

    @property
    def tokens(self) -> int:
        """The number of tokens that are not padding."""
        return int(np.count_nonzero(self.documents))

    def parts(self, count: int) -> list["Batch"]:
        """Split into at most `count` batches, of every `count`-th row each."""
        parts = (
            Batch(self.ids[n::count], self.documents[n::count], self.loss_weights[n::count])
            for n in range(count)
        )
        return [part for part in parts if part.counted]


@dataclass(frozen=True)
class Place:
    """Where a run is in its data: the batch that comes next."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


class Shape(NamedTuple):
    """Of a batch."""

    rows: int
    length: int


def choose_shapes(counts: np.ndarray, batch_size: int) -> list[Shape]:
    """Return the shapes of batches, with longer and longer rows.

    `counts[n]` says how many documents have `n` tokens. Nearly all of them fit into the
    shortest rows, and all into the longest. A batch has about as many positions as
    `batch_size` documents of average length have tokens, or is a single row that is longer.
    """
    total = np.cumsum(counts)
    budget = batch_size * np.average(np.arange(len(counts)), weights=counts)
    least = max(_ROW, int(np.searchsorted(total, _FIT * total[-1])))
    sample = np.searchsorted(total, (np.arange(_SAMPLE) + 0.5) / _SAMPLE * total[-1])
    shapes = [_shortest_full(sample, budget, least)]
    longest = _rounded_up(np.flatnonzero(counts)[-1])
    while (length := shapes[-1].length) < longest:
        length = min(2 * length, longest)
        shapes.append(Shape(max(1, round(budget / length)), length))
    return shapes


def _shortest_full(lengths: np.ndarray, budget: float, least: int) -> Shape:
    """Return a shape with rows of about `least` to twice as many positions.

    The shortest that documents of such lengths fill, or else the fullest.
    """
    found = {}
    for rows in range(max(1, round(budget / least)), max(0, round(budget / least / 2) - 1), -1):
        length = _rounded_up(budget / rows)
        fitting = lengths[lengths <= length]
        (packed,) = pack(fitting, [Shape(1, length)])
        found[Shape(rows, length)] = fitting.sum() / max(1, len(packed) * length)
        if found[Shape(rows, length)] >= _FULL:
            break
    return max(found, key=found.__getitem__)


def _rounded_up(length: float) -> int:
    return _MULTIPLE * math.ceil(length / _MULTIPLE)


def pack(lengths: np.ndarray, shapes: Sequence[Shape]) -> list[list[list[int]]]:
    """Return, for each shape, rows for whole batches: the documents in each row, by number.

    The longest document comes first, and each goes where the least room is left behind it
    (best fit decreasing: Johnson 1973, "Near-optimal bin packing algorithms"). But what long
    documents leave of their rows goes to others in the order of their numbers, so that a batch
    of longer rows does not consist of long documents alone.
    """
    row_lengths = [shape.length for shape in shapes]
    rows: list[list[list[int]]] = [[] for _ in shapes]
    left: list[tuple[int, int, int]] = []  # The room in each open row, its shape and number.

    def put(document: int, opening: bool = True) -> bool:
        """Put a document into an open row, or the first of another batch, and return whether."""
        needed = int(lengths[document])
        best = bisect_left(left, (needed,))
        if best == len(left):
            if not opening:
                return False
            kind = bisect_left(row_lengths, needed)
            for _ in range(shapes[kind].rows):
                insort(left, (row_lengths[kind], kind, len(rows[kind])))
                rows[kind].append([])
        room, kind, number = left.pop(best)
        rows[kind][number].append(document)
        if room > needed:
            insort(left, (room - needed, kind, number))
        return True

    decreasing = np.argsort(lengths, kind="stable")[::-1]
    placed = lengths > row_lengths[0]
    for document in decreasing[placed[decreasing]].tolist():
        put(document)
    for document in np.flatnonzero(~placed).tolist():
        placed[document] = put(document, opening=False)
    for document in decreasing[~placed[decreasing]].tolist():
        put(document)
    return rows


class BatchOrder:
    """The batches of a run: a function of the seed and of the place alone.

    Every epoch has each document once. An epoch goes through a shuffle of the documents
    in pools; a pool's documents are packed into rows, and rows drawn at random make a
    batch. A batch has about as many tokens as any other, so that a short document counts
    no more than a long one. The memory used does not depend on the number of documents.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        seed: int,
        *,
        category_dropout: float = 0.0,
        loss_on: str = "all",
        keyword_weight: float = 1.0,
        pool: int = _POOL,
    ) -> None:
        """Order `corpus`; a batch has `batch_size` documents of average length.

        A share `category_dropout` of the documents, others each epoch, comes without
        its category. With `loss_on` "text" the loss begins behind the keywords. The loss
        of a keyword, where the text first has it, counts `keyword_weight` times as much.
        """
        self._corpus = corpus
        self._seed = seed
        self._dropout = category_dropout
        self._on_text = loss_on == "text"
        self._keyword_weight = keyword_weight
        self._pool_size = pool * batch_size
        self._shapes = choose_shapes(_length_counts(corpus, category_dropout), batch_size)

    def from_place(self, place: Place) -> Iterator[tuple[Batch, Place]]:
        """Yield batches without end, each with the place behind it."""
        pools = -(-len(self._corpus) // self._pool_size)
        while True:
            packed = self._pool(place.epoch, place.pool)
            for number in range(place.batch, len(packed)):
                if number + 1 < len(packed):
                    place = Place(place.epoch, place.pool, number + 1)
                elif place.pool + 1 < pools:
                    place = Place(place.epoch, place.pool + 1)
                else:
                    place = Place(place.epoch + 1)
                yield self._batch(packed[number]), place

    def in_order(self, most: int) -> Iterator[Batch]:
        """Yield the first `most` documents, each once and whole."""
        count = min(most, len(self._corpus))
        for first in range(0, count, self._pool_size):
            numbers = np.arange(first, min(first + self._pool_size, count))
            rng = np.random.default_rng(first)
            yield from map(self._batch, self._packed(numbers, np.ones(len(numbers), bool), rng))

    def _pool(self, epoch: int, pool: int) -> list["_Packed"]:
        count = len(self._corpus)
        first = pool * self._pool_size
        places = np.arange(first, min(first + self._pool_size, count), dtype=np.uint64)
        numbers = _shuffle(places, count, (self._seed, epoch))
        rng = np.random.default_rng((self._seed, epoch, pool))
        with_category = rng.random(len(numbers)) >= self._dropout
        packed = self._packed(numbers, with_category, rng)
        return [packed[place] for place in rng.permutation(len(packed))]

    def _packed(
        self, numbers: np.ndarray, with_category: np.ndarray, rng: np.random.Generator
    ) -> list["_Packed"]:
        """Return which documents stand in each row of each batch."""
        corpus = self._corpus
        lengths = corpus.lengths[numbers] - ~with_category * corpus.categories[numbers]
        documents = list(zip(numbers.tolist(), with_category.tolist(), strict=True))
        batches = []
        for shape, rows in zip(self._shapes, pack(lengths, self._shapes), strict=True):
            mixed = [[documents[d] for d in rows[row]] for row in rng.permutation(len(rows))]
            batches += [
                _Packed(shape.length, mixed[start : start + shape.rows])
                for start in range(0, len(mixed), shape.rows)
            ]
        return batches

    def _batch(self, packed: "_Packed") -> Batch:
        ids = np.zeros((len(packed.rows), packed.length), np.int32)
        documents = np.zeros_like(ids)
        weights = np.zeros(ids.shape, np.float32)
        for row, contents in enumerate(packed.rows):
            end = 0
            for place, (number, with_category) in enumerate(contents, start=1):
                document = self._corpus.document(number, with_category)
                start, end = end, end + len(document)
                ids[row, start:end] = document
                documents[row, start:end] = place
                weights[row, start:end] = self._weights(number, with_category)
        return Batch(ids, documents, weights)

    def _weights(self, number: int, with_category: bool) -> np.ndarray:
        """Return the weights of the losses of a document's tokens, float32 [tokens]."""
        corpus = self._corpus
        # None is above 1: float16 overflows sooner, before the loss scale could help.
        highest = max(1.0, self._keyword_weight)
        weights = np.full(corpus.lengths[number], 1 / highest, np.float32)
        weights[corpus.keyword_places(number)] = self._keyword_weight / highest
        dropped = 0 if with_category else int(corpus.categories[number])
        weights[: corpus.texts[number] + 1 if self._on_text else 1 + dropped] = 0
        return weights[dropped:]


class _Packed(NamedTuple):
    """A batch before its tokens are read."""

    length: int
    """Positions in a row."""
    rows: list[list[tuple[int, bool]]]
    """The number of each document, and whether it has its category."""


def _length_counts(corpus: Corpus, category_dropout: float) -> np.ndarray:
    """Return how many documents have each length, those without a category in their share."""
    counts = np.zeros(int(corpus.lengths.max()) + 1)
    for start in range(0, len(corpus), 2**20):
        part = slice(start, start + 2**20)
        whole = corpus.lengths[part]
        for lengths, share in (
            (whole, 1 - category_dropout),
            (whole - corpus.categories[part], category_dropout),
        ):
            counts += share * np.bincount(lengths, minlength=len(counts))
    return counts


def _shuffle(places: np.ndarray, count: int, key: Sequence[int]) -> np.ndarray:
    """Return where a permutation of 0..count-1 puts `places`, uint64, without making all of it.

    A Feistel network on the next larger domain, walked until it is back within `count`
    (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(6, np.uint64)

    def mix(values: np.ndarray) -> np.ndarray:
        # The finaliser of SplitMix64 (Steele et al. 2014).
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))

    def network(values: np.ndarray) -> np.ndarray:
        left, right = values >> half, values & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right + round_key) & mask)
        return left << half | right

    shuffled = network(places)
    while (outside := shuffled >= count).any():
        shuffled[outside] = network(shuffled[outside])
    return shuffled.astype(np.int64)
