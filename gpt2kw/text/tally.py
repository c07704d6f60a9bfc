"""Counting what could not be used, so that it can be said once."""

from collections import Counter

_PLACES_SHOWN = 5


class Tally:
    """Counts of problems, each with the first few places where it was met."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}

    def add(self, problem: str, place: str, count: int = 1) -> None:
        """Count `problem` as met `count` times at `place`, such as `"line 12"`."""
        self.counts[problem] += count
        places = self._places.setdefault(problem, [])
        if len(places) < _PLACES_SHOWN:
            places.append(place)

    def lines(self) -> list[str]:
        """One line a problem: its count, its name, and its first places."""
        return [
            f"{count:,} {problem} ({', '.join(self._places[problem])}"
            + (", ...)" if count > len(self._places[problem]) else ")")
            for problem, count in self.counts.items()
        ]
