"""Beam search: the likeliest texts, as far as keeping a few of them at a time finds them."""

from collections.abc import Sequence

import numpy as np

from gpt2kw.generation.sampling import Path, Rules, likeliest


class BeamSearch:
    """A `Search` that keeps the best beginnings of each prompt's texts.

    As in transformers: a text's score is its log-probability by its length to the power
    of `length_penalty`; ends compete with what goes on, and a prompt is done when it has
    as many texts as beams, none of which the best beginning can beat at its length. What
    rules and guides add to scores decides which beginnings are kept, but is not summed up.
    """

    reorders = True

    def __init__(
        self, paths: Sequence[Path], beams: int, length_penalty: float, rules: Rules
    ) -> None:
        """Continue `paths`, one for each prompt, which are not changed."""
        self.prompt_rows = [path.prompt for path in paths for _ in range(beams)]
        self._beams = beams
        self._penalty = length_penalty
        self._rules = rules
        self._groups = [[path.copy()] for path in paths]
        """The beginnings of each prompt that goes on, the best first."""
        self._places = list(range(len(paths)))
        """The number of each such prompt."""
        self._found: list[list[tuple[float, Path]]] = [[] for _ in paths]
        self._first = True

    def best(self, prompt: int) -> list[Path]:
        """Return a prompt's texts, at most as many as beams, the best first."""
        return [path for _, path in self._found[prompt]]

    def choose(self, logits, totals):
        """See `Search`."""
        beams = self._beams
        tokens = np.full(len(logits), self._rules.stops[0], np.int32)
        parents = np.arange(len(logits), dtype=np.int32)
        for place, (number, group) in enumerate(zip(self._places, self._groups, strict=True)):
            if not group:
                continue
            first = place * beams
            rows = slice(first, first + len(group))
            self._groups[place], chosen, origins = self._grow(
                number, group, logits[rows], totals[rows]
            )
            tokens[first : first + len(chosen)] = chosen
            parents[first : first + len(chosen)] = first + np.array(origins, np.int32)
        return tokens, parents, all(self._groups)

    def _grow(self, number, group, logits, totals):
        """Return the next beginnings of a prompt, their last tokens, and where they come from."""
        costs = totals[:, None] - logits
        scores = self._rules.scores(-costs, np.zeros(len(group), np.float32), group)
        scores -= np.array([[path.nats] for path in group], np.float32)
        wanted = min(2 * self._beams, scores.size)
        values, places = likeliest(scores.reshape(1, -1), wanted)
        grown, tokens, origins = [], [], []
        for rank, (value, place) in enumerate(zip(values[0], places[0], strict=True)):
            origin, token = divmod(int(place), logits.shape[1])
            if value == -np.inf or len(grown) == self._beams:
                break
            path = group[origin].copy()
            path.add(token, float(costs[origin, token]))
            if token in self._rules.stops:
                # An end that is not among the best is not worth a place.
                if rank < self._beams:
                    self._keep(number, path)
            else:
                grown.append(path)
                tokens.append(token)
                origins.append(origin)
        if grown and len(grown[0].tokens) == self._rules.max_tokens:
            for path in grown:
                self._keep(number, path)
            return [], [], []
        if self._is_done(number, grown):
            return [], [], []
        return grown, tokens, origins

    def _keep(self, number: int, path: Path) -> None:
        path.ended = True
        found = self._found[number]
        found.append((self._score(path), path))
        found.sort(key=lambda scored: -scored[0])
        del found[self._beams :]

    def _score(self, path: Path) -> float:
        return -path.nats / len(path.tokens) ** self._penalty

    def _is_done(self, number: int, grown: list[Path]) -> bool:
        found = self._found[number]
        if not grown:
            return True
        return len(found) == self._beams and found[-1][0] >= max(map(self._score, grown))

    def compact(self):
        """See `Search`."""
        kept = [place for place, group in enumerate(self._groups) if group]
        self._groups = [self._groups[place] for place in kept]
        self._places = [self._places[place] for place in kept]
        rows = [place * self._beams + beam for place in kept for beam in range(self._beams)]
        return np.array(rows, np.int32)

    def sequence(self, row):
        """See `Search`."""
        place, beam = divmod(row, self._beams)
        group = self._groups[place]
        path = group[min(beam, len(group) - 1)]
        return path.history, path.tokens
