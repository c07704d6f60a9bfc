"""How different the texts are from each other."""

import math
from collections import Counter
from collections.abc import Sequence

from gpt2kw.evaluation.words import Words, ngrams

_ORDERS = (1, 2, 3, 4)
_EPSILON = 0.1


def distinct(texts: Sequence[Words], n: int) -> tuple[int, int]:
    """Return how many different runs of `n` words the texts have, and how many in all.

    Their ratio is distinct-n (Li et al. 2016, "A Diversity-Promoting Objective Function
    for Neural Conversation Models"). It falls with the amount of text, so only texts of
    about as many words compare.
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)), len(found)


def self_bleu(texts: Sequence[Words]) -> list[float]:
    """Return the BLEU-4 of each text, 0 to 1, with all others as its references.

    Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models", with
    the smoothing used there (0.1 for no match; method 1 of Chen and Cherry 2014, "A
    Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU"). 1 if all
    texts are the same. Empty if there is but one text.
    """
    if len(texts) < 2:
        return []
    counts = [[Counter(ngrams(text, n)) for text in texts] for n in _ORDERS]
    highest = [_two_highest(of_order) for of_order in counts]
    lengths = Counter(len(text) for text in texts)
    scores = []
    for number, text in enumerate(texts):
        logs = 0.0
        for of_order, (first, second) in zip(counts, highest, strict=True):
            own = of_order[number]
            # The most that any other text has: this one may be the only one with the most.
            matched = sum(
                min(count, second[gram] if first[gram] == count else first[gram])
                for gram, count in own.items()
            )
            logs += math.log((matched or _EPSILON) / max(1, own.total()))
        scores.append(_brevity(len(text), lengths) * math.exp(logs / len(_ORDERS)))
    return scores


def _two_highest(counts: Sequence[Counter[Words]]) -> tuple[dict[Words, int], dict[Words, int]]:
    """Return the highest count of each n-gram in any text, and the highest but one."""
    first: dict[Words, int] = {}
    second: dict[Words, int] = {}
    for counter in counts:
        for gram, count in counter.items():
            highest = first.get(gram, 0)
            first[gram] = max(highest, count)
            second[gram] = max(second.get(gram, 0), min(highest, count))
    return first, second


def _brevity(length: int, lengths: Counter[int]) -> float:
    """BLEU's penalty of a text that is shorter than the reference nearest in length."""
    others = [other for other, count in lengths.items() if count > (other == length)]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    if length >= nearest:
        return 1.0
    return math.exp(1 - nearest / length) if length else 0.0
