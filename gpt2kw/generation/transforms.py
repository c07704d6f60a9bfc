"""Changes of logits for one text: penalties and bans. Each works on a row in place."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gpt2kw.generation.sampling import Path, Transform


def repetition_penalty(penalty: float) -> Transform:
    """Make tokens that the text has already less likely (Keskar et al. 2019, "CTRL").

    A positive logit is divided by `penalty`, a negative one multiplied; 1 changes nothing.
    """

    def apply(scores: np.ndarray, path: Path) -> None:
        seen = np.fromiter(set(path.text), np.int64)
        values = scores[seen]
        scores[seen] = np.where(values < 0, values * penalty, values / penalty)

    return apply


def no_repeat_ngrams(size: int) -> Transform:
    """Ban tokens that would make `size` tokens in a row appear a second time (Paulus et al. 2017).

    What the prompt has of the text counts too.
    """

    def apply(scores: np.ndarray, path: Path) -> None:
        tokens = path.text
        if len(tokens) < size:
            return
        before = tuple(tokens[len(tokens) - size + 1 :])
        for start in range(len(tokens) - size + 1):
            if tuple(tokens[start : start + size - 1]) == before:
                scores[tokens[start + size - 1]] = -np.inf

    return apply


def bad_words(sequences: Sequence[Sequence[int]]) -> Transform:
    """Ban the last token of each of `sequences` behind the others."""
    behind: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for *before, last in sequences:
        behind[tuple(before)].append(last)
    banned = {before: np.array(last, np.int64) for before, last in behind.items()}
    lengths = sorted({len(before) for before in banned})

    def apply(scores: np.ndarray, path: Path) -> None:
        for length in lengths:
            if length > len(path.tokens):
                break
            tail = tuple(path.tokens[len(path.tokens) - length :])
            if (last := banned.get(tail)) is not None:
                scores[last] = -np.inf

    return apply
