"""Whether texts are whole, and their lengths against those of the training text."""

from collections.abc import Callable, Sequence

import numpy as np

from gpt2kw.evaluation.data import Texts

LONGEST = 100
"""Words; longer texts count as so long."""


def parsed(texts: Texts, wanted: int) -> list[tuple[int, int]]:
    """Return for each prompt how many texts there are, not blank and with all marks in place.

    And how many were `wanted`.
    """
    return [(sum(not one.stray for one in some), wanted) for some in texts]


def finished(texts: Texts) -> list[tuple[int, int]]:
    """Return for each prompt how many texts the model ended itself, and of how many.

    Others were cut at the longest length.
    """
    return [(sum(one.finished for one in some), len(some)) for some in texts]


def length_counts(lengths: Sequence[int]) -> np.ndarray:
    """Return float64 [LONGEST + 1]: how many texts have each length in words."""
    clipped = np.minimum(np.array(lengths, np.int64), LONGEST)
    return np.bincount(clipped, minlength=LONGEST + 1).astype(np.float64)


def length_distance(data: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from `length_counts` [..., LONGEST + 1] to how far they are from `data`'s.

    In words: the mean difference in length if the shortest text of either side is held
    against the shortest of the other, and so on up. It is the Wasserstein-1 distance
    (Vaserstein 1969; in one dimension the area between the cumulative distributions).
    """
    expected = np.cumsum(data) / data.sum()

    def distance(counts: np.ndarray) -> np.ndarray:
        shares = np.cumsum(counts, axis=-1) / counts.sum(-1, keepdims=True)
        return np.abs(shares - expected).sum(-1)

    return distance
