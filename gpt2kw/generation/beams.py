"""Beam search: the likeliest texts, as far as keeping a few of them at a time finds them."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from gpt2kw.generation.sampling import Path, Rules, likeliest


class BeamSearch:
    """A `Search` that keeps the best beginnings of each prompt's texts.

    As in transformers: a text's score is its log-probability by its length to the power
    of `length_penalty`; ends compete with what goes on, and a prompt is done when it has
    as many texts as beams, none of which the best beginning can beat at its length. What
    rules and guides add to scores decides which beginnings are kept, but is not summed up.

    The beams may be parted into groups that search one after another, and at each token keep
    away from what the groups before them chose for it (Vijayakumar et al. 2016, "Diverse Beam
    Search", with Hamming diversity).
    """

    reorders = True

    def __init__(
        self,
        paths: Sequence[Path],
        beams: int,
        length_penalty: float,
        rules: Rules,
        groups: int = 1,
        diversity_penalty: float = 0.0,
    ) -> None:
        """Continue `paths`, one for each prompt, which are not changed.

        Each of `groups`, which must divide `beams`, has its share of them. A beam of an earlier
        group with the same token at this place costs `diversity_penalty` nats.
        """
        self.prompt_rows = [path.prompt for path in paths for _ in range(beams)]
        self._beams = beams // groups
        self._penalty = length_penalty
        self._diversity_penalty = diversity_penalty
        self._rules = rules
        self._groups = [[path.copy()] for path in paths for _ in range(groups)]
        """The beginnings of each group that goes on, the best first."""
        self._places = [(prompt, group) for prompt in range(len(paths)) for group in range(groups)]
        """The prompt of each such group, and which of its groups it is."""
        self._found: dict[tuple[int, int], list[tuple[float, Path]]] = {
            place: [] for place in self._places
        }

    def best(self, prompt: int) -> list[Path]:
        """Return a prompt's texts, at most as many as beams, the best first."""
        found = [
            scored for place in self._found if place[0] == prompt for scored in self._found[place]
        ]
        return [path for _, path in sorted(found, key=_by_score)]

    def choose(self, logits, totals):
        """See `Search`."""
        beams = self._beams
        tokens = np.full(len(logits), self._rules.stops[0], np.int32)
        parents = np.arange(len(logits), dtype=np.int32)
        taken: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for number, (place, group) in enumerate(zip(self._places, self._groups, strict=True)):
            if not group:
                continue
            first = number * beams
            rows = slice(first, first + len(group))
            before = taken[place[0]]
            self._groups[number], chosen, origins = self._grow(
                place, group, logits[rows], totals[rows], before
            )
            before.update(chosen)
            tokens[first : first + len(chosen)] = chosen
            parents[first : first + len(chosen)] = first + np.array(origins, np.int32)
        return tokens, parents, all(self._groups)

    def _grow(self, place, group, logits, totals, taken):
        """Return the next beginnings of a group, their last tokens, and where they come from."""
        costs = totals[:, None] - logits
        scores = self._rules.scores(-costs, np.zeros(len(group), np.float32), group)
        scores -= np.array([[path.nats] for path in group], np.float32)
        for token, count in taken.items():
            scores[:, token] -= self._diversity_penalty * count
        # Enough to go on with all beams even if each of the best could end in all ways.
        wanted = min((1 + len(self._rules.stops)) * self._beams, scores.size)
        values, cells = likeliest(scores.reshape(1, -1), wanted)
        grown, tokens, origins = [], [], []
        for rank, (value, cell) in enumerate(zip(values[0], cells[0], strict=True)):
            origin, token = divmod(int(cell), logits.shape[1])
            if value == -np.inf or len(grown) == self._beams:
                break
            path = group[origin].copy()
            path.add(token, float(costs[origin, token]))
            if token in self._rules.stops:
                # An end that is not among the best is not worth a place.
                if rank < self._beams:
                    self._keep(place, path)
            else:
                grown.append(path)
                tokens.append(token)
                origins.append(origin)
        if grown and len(grown[0].tokens) == self._rules.max_tokens:
            for path in grown:
                self._keep(place, path)
            return [], tokens, origins
        if self._is_done(place, grown):
            return [], tokens, origins
        return grown, tokens, origins

    def _keep(self, place: tuple[int, int], path: Path) -> None:
        path.ended = True
        found = self._found[place]
        found.append((self._score(path), path))
        found.sort(key=_by_score)
        del found[self._beams :]

    def _score(self, path: Path) -> float:
        return -path.nats / len(path.tokens) ** self._penalty

    def _is_done(self, place: tuple[int, int], grown: list[Path]) -> bool:
        found = self._found[place]
        if not grown:
            return True
        return len(found) == self._beams and found[-1][0] >= max(map(self._score, grown))

    def compact(self):
        """See `Search`."""
        kept = [number for number, group in enumerate(self._groups) if group]
        self._groups = [self._groups[number] for number in kept]
        self._places = [self._places[number] for number in kept]
        rows = [number * self._beams + beam for number in kept for beam in range(self._beams)]
        return np.array(rows, np.int32)

    def sequence(self, row):
        """See `Search`."""
        number, beam = divmod(row, self._beams)
        group = self._groups[number]
        path = group[min(beam, len(group) - 1)]
        return path.history, path.tokens


def _by_score(scored: tuple[float, Path]) -> float:
    """Sort the best first; Python keeps equal ones in order."""
    return -scored[0]
