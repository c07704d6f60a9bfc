"""What of a text the training text has already."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2kw.evaluation.words import Words, ngrams

ORDERS = (3, 4, 5)
"""Lengths of the runs of words whose share that is new is reported."""


@dataclass(frozen=True)
class Nearest:
    """The training text that is most like a text: its number, and how like it is, 0 to 1."""

    number: int
    similarity: float


def copies(texts: Sequence[Words], training: Sequence[Words]) -> list[bool]:
    """Say of each text whether a training text has the same words, whatever case and marks."""
    known = set(training)
    return [text in known for text in texts]


def nearest(texts: Sequence[Words], training: Sequence[Words]) -> list[Nearest | None]:
    """Return for each text the training text with the highest Jaccard similarity.

    Of the sets of their runs of three words, or of the whole text if it is shorter
    (Broder 1997, "On the resemblance and containment of documents"). The first of those
    that are as like; None if no run is shared.
    """
    wanted = [_shingles(text) for text in texts]
    holders: defaultdict[Words, list[int]] = defaultdict(list)
    for number, shingles in enumerate(wanted):
        for shingle in shingles:
            holders[shingle].append(number)
    found: list[Nearest | None] = [None] * len(texts)
    for number, text in enumerate(training):
        shingles = _shingles(text)
        shared = Counter(holder for gram in shingles if gram in holders for holder in holders[gram])
        for holder, count in shared.items():
            similarity = count / (len(shingles) + len(wanted[holder]) - count)
            best = found[holder]
            if best is None or similarity > best.similarity:
                found[holder] = Nearest(number, similarity)
    return found


def _shingles(text: Words) -> set[Words]:
    return set(ngrams(text, 3)) or ({text} if text else set())


def shared_lengths(texts: Sequence[Words], training: Sequence[Words]) -> list[np.ndarray]:
    """Return for each word of each text how long a run from there the training text has too.

    int [words] for each text. The runs of n words that both sides have are found among
    those of n - 1: the first step of sorting suffixes by doubling (Manber and Myers 1993,
    "Suffix Arrays: A New Method for On-Line String Searches"), word by word, for runs
    that are shared are short. Memory and time are those of sorting the words of both sides.
    """
    ids: dict[str, int] = {}
    # Different marks between texts on either side, so that no run goes across.
    stream = [ids.setdefault(word, len(ids)) for text in texts for word in (*text, "\0text")]
    own = len(stream)
    stream += [ids.setdefault(w, len(ids)) for text in training for w in (*text, "\0training")]
    words = np.array(stream, np.int64)
    lengths = np.zeros(own, np.int64)
    alive, runs = np.arange(len(words)), words
    size = 0
    while len(alive):
        size += 1
        # The same number for the same run, small enough to be put before the next word.
        _, runs = np.unique(runs, return_inverse=True)
        mine = alive < own
        both = np.zeros(runs.max() + 1, bool)
        both[np.intersect1d(runs[mine], runs[~mine])] = True
        alive, runs = alive[both[runs]], runs[both[runs]]
        lengths[alive[alive < own]] = size
        following = alive + size
        inside = following < len(words)
        alive, runs = alive[inside], runs[inside] * len(ids) + words[following[inside]]
    ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    return [lengths[end - 1 - len(text) : end - 1] for text, end in zip(texts, ends, strict=True)]


def longest_span(lengths: np.ndarray) -> int:
    """Return the most words in a row that a text shares with a training text.

    `lengths` are the text's of `shared_lengths`. Carlini et al. 2023, "Quantifying
    Memorization Across Neural Language Models", count such spans.
    """
    return int(lengths.max(initial=0))


def unseen(lengths: np.ndarray, n: int) -> tuple[int, int]:
    """Return how many of a text's runs of `n` words are not in the training text, and of how many.

    `lengths` are the text's of `shared_lengths`. McCoy et al. 2023, "How Much Do Language
    Models Copy From Their Training Data?", report their share.
    """
    runs = lengths[: max(0, len(lengths) - n + 1)]
    return int((runs < n).sum()), len(runs)
