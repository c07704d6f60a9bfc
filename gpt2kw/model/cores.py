"""The cores that there are, and dealing out work to them."""

import itertools
import os
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # outside Linux
        return os.cpu_count() or 1


def deal(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Return the items in `count` parts, in order, whose lengths differ by one at most."""
    ends = itertools.accumulate(((len(items) + n) // count for n in range(count)), initial=0)
    return [items[start:end] for start, end in itertools.pairwise(ends)]
