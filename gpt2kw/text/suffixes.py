"""Sorting the suffixes of a sequence."""

import numpy as np


def sorted_suffixes(elements: np.ndarray, depth: int) -> np.ndarray:
    """Return where the suffixes of a sequence begin, in the order of what they begin with.

    By prefix doubling: Manber and Myers 1993, "Suffix arrays: a new method for on-line
    string searches", section 3. Suffixes that differ already are not touched again.

    Args:
        elements: unsigned [n], each below 2**32 - 1.
        depth: how many elements decide, at least 1; suffixes whose first `depth` are the
            same stand in any order.

    Returns:
        int32 [n], or int64 if n needs it. About 40 bytes of memory are taken for each
        element meanwhile.
    """
    # From 1 on, for 0 stands for what is behind the end.
    ranks = elements.astype(np.uint32) + np.uint32(1)
    order = np.arange(len(ranks), dtype=np.int32 if len(ranks) < 2**31 else np.int64)
    tied = order.copy()
    known = 1
    while len(tied):
        # By their first `known` elements, which group them, and by as many behind those.
        places = order[tied]
        key = ranks[places].astype(np.uint64)
        key <<= np.uint64(32)
        inside = places < len(ranks) - known
        key[inside] |= ranks[places[inside] + known]
        within = np.argsort(key)
        order[tied] = places[within]
        del places, inside
        key = key[within]
        del within
        same = key[1:] == key[:-1]
        del key
        ranks[order[tied]] = tied[_firsts(same)] + 1
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
    return np.maximum.accumulate(firsts, out=firsts)
