"""Sorting the suffixes of a sequence."""

import numpy as np


def sorted_suffixes(elements: np.ndarray, depth: int) -> np.ndarray:
    """Return where the suffixes of a sequence begin, in the order of what they begin with.

    By prefix doubling: Manber and Myers 1993, "Suffix arrays: a new method for on-line
    string searches", section 3. Suffixes that differ already are not touched again.

    Args:
        elements: unsigned [n], each below 2**32.
        depth: how many elements decide, at least 1; suffixes whose first `depth` are the
            same stand in any order.

    Returns:
        int64 [n]. About 50 bytes of memory are taken for each element meanwhile.
    """
    ranks = elements.astype(np.uint32)
    order = np.arange(len(ranks))
    tied = order.copy()
    known = 1
    while len(tied):
        # By their first `known` elements, which group them, and by as many behind those.
        places = order[tied]
        key = ranks[places].astype(np.uint64) << np.uint64(32)
        behind = places + known
        inside = behind < len(ranks)
        key[inside] |= ranks[behind[inside]] + np.uint64(1)
        within = np.argsort(key)
        key = key[within]
        order[tied] = places[within]
        same = key[1:] == key[:-1]
        groups = tied[_firsts(same)]
        ranks[order[tied]] = groups
        known *= 2
        if known >= depth:
            break
        tied = tied[np.append(same, False) | np.append(False, same)]
    return order


def _firsts(same_as_before: np.ndarray) -> np.ndarray:
    """Return for each of n elements where the run of its equals begins.

    Args:
        same_as_before: bool [n - 1]: whether each but the first equals the one before it.
    """
    firsts = np.arange(len(same_as_before) + 1)
    firsts[1:][same_as_before] = 0
    return np.maximum.accumulate(firsts)
