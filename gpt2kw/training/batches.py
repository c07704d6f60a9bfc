"""Batches of whole documents, almost without padding, in an order that a seed decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2kw.training.corpus import Corpus

_POOL = 200
"""Batches, on average, whose documents are sorted by length together."""
_MOST_LENGTHS = 24
"""Different lengths of batches. Each costs some tenths of a second to compile for."""


@dataclass(frozen=True)
class Batch:
    """Documents side by side, a row each; none sees another."""

    ids: np.ndarray
    """int32 [rows, length], zeros behind each document."""
    lengths: np.ndarray
    """int32 [rows]: tokens of each document, 0 for a row that is only there for the shape."""
    starts: np.ndarray
    """int32 [rows]: the first token of each document whose loss counts, at least 1."""

    @property
    def counted(self) -> int:
        """The number of tokens whose loss counts."""
        return int(np.maximum(self.lengths - self.starts, 0).sum())

    @property
    def tokens(self) -> int:
        """The number of tokens that are not padding."""
        return int(self.lengths.sum())

    def parts(self, count: int) -> list["Batch"]:
        """Split into at most `count` batches, of every `count`-th row each."""
        parts = (
            Batch(self.ids[n::count], self.lengths[n::count], self.starts[n::count])
            for n in range(count)
        )
        return [part for part in parts if part.counted]


@dataclass(frozen=True)
class Place:
    """Where a run is in its data: the batch that comes next."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


def choose_lengths(sizes: np.ndarray, counts: np.ndarray, most: int = _MOST_LENGTHS) -> np.ndarray:
    """Return at most `most` lengths, increasing, to which documents are padded.

    `counts` says how many documents have each of the lengths `sizes`, which increase.
    What is chosen leaves the least padding that so many can, if documents that share a batch are
    alike in length: the k-segmentation of the lengths' histogram, by dynamic programming
    (Bellman 1961, "On the approximation of curves by line segments").
    """
    before = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: the positions computed for all documents of the j shortest sizes.
    cost = np.concatenate([[0], before[1:] * sizes]).astype(float)
    cuts = []
    for _ in range(min(most, len(sizes)) - 1):
        # Of i sizes as before, and the next up to j padded to the longest of them.
        joined = cost[:, None] + (before[None, 1:] - before[:, None]) * sizes[None]
        joined[np.tril_indices(len(sizes) + 1, -1, len(sizes))] = np.inf
        cuts.append(joined.argmin(axis=0))
        cost = np.concatenate([[0], joined.min(axis=0)])
    chosen, last = [], len(sizes)
    for cut in reversed(cuts):
        chosen.append(sizes[last - 1])
        last = cut[last - 1]
        if not last:
            break
    else:
        chosen.append(sizes[last - 1])
    return np.array(sorted(chosen), np.int32)


class BatchOrder:
    """The batches of a run: a function of the seed and of the place alone.

    Every epoch has each document once. An epoch goes through a shuffle of the documents
    in pools; documents of a pool that are alike in length share a batch. A batch has
    about as many tokens as any other, so that a short document counts no more than a
    long one. The memory used does not depend on the number of documents.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        seed: int,
        *,
        category_dropout: float = 0.0,
        loss_on: str = "all",
        pool: int = _POOL,
    ) -> None:
        """Order `corpus`; a batch has `batch_size` documents of average length.

        A share `category_dropout` of the documents, others each epoch, comes without
        its category. With `loss_on` "text" the loss begins behind the keywords.
        """
        self._corpus = corpus
        self._seed = seed
        self._dropout = category_dropout
        self._on_text = loss_on == "text"
        self._pool_size = pool * batch_size
        counts = _length_counts(corpus, category_dropout)
        sizes = np.flatnonzero(counts)
        self._budget = batch_size * np.average(sizes, weights=counts[sizes])
        self._lengths = choose_lengths(sizes, counts[sizes])

    def from_place(self, place: Place) -> Iterator[tuple[Batch, Place]]:
        """Yield batches without end, each with the place behind it."""
        pools = -(-len(self._corpus) // self._pool_size)
        while True:
            batches = list(self._pool(place.epoch, place.pool))
            for number in range(place.batch, len(batches)):
                if number + 1 < len(batches):
                    place = Place(place.epoch, place.pool, number + 1)
                elif place.pool + 1 < pools:
                    place = Place(place.epoch, place.pool + 1)
                else:
                    place = Place(place.epoch + 1)
                yield batches[number], place

    def _pool(self, epoch: int, pool: int) -> Iterator[Batch]:
        count = len(self._corpus)
        first = pool * self._pool_size
        places = np.arange(first, min(first + self._pool_size, count), dtype=np.uint64)
        numbers = _shuffle(places, count, (self._seed, epoch))
        rng = np.random.default_rng((self._seed, epoch, pool))
        with_category = rng.random(len(numbers)) >= self._dropout
        batches = list(self._cut(numbers, with_category))
        for place in rng.permutation(len(batches)):
            yield self._batch(*batches[place])

    def in_order(self, most: int) -> Iterator[Batch]:
        """Yield the first `most` documents, each once and whole."""
        numbers = np.arange(min(most, len(self._corpus)))
        for cut in self._cut(numbers, np.ones(len(numbers), bool)):
            yield self._batch(*cut)

    def _cut(
        self, numbers: np.ndarray, with_category: np.ndarray
    ) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield rows, length, document numbers and their flags for each batch."""
        corpus = self._corpus
        lengths = corpus.lengths[numbers] - ~with_category * corpus.categories[numbers]
        order = np.argsort(lengths, kind="stable")[::-1]
        numbers, with_category, lengths = numbers[order], with_category[order], lengths[order]
        start = 0
        while start < len(numbers):
            chosen = self._lengths[np.searchsorted(self._lengths, lengths[start]) :]
            length = int(chosen[0]) if len(chosen) else int(lengths[start])
            rows = max(1, round(self._budget / length))
            part = slice(start, start + rows)
            yield rows, length, numbers[part], with_category[part]
            start += rows

    def _batch(
        self, rows: int, length: int, numbers: np.ndarray, with_category: np.ndarray
    ) -> Batch:
        ids = np.zeros((rows, length), np.int32)
        lengths = np.zeros(rows, np.int32)
        starts = np.ones(rows, np.int32)
        for row, (number, whole) in enumerate(zip(numbers, with_category, strict=True)):
            document = self._corpus.document(number, whole)
            lengths[row] = len(document)
            ids[row, : len(document)] = document
            if self._on_text:
                dropped = 0 if whole else self._corpus.categories[number]
                starts[row] = self._corpus.texts[number] - dropped + 1
        return Batch(ids, lengths, starts)


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
