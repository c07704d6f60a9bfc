"""Candidates for a text that replace one another while they are written.

This is sequential Monte Carlo (Gordon et al. 1993, "Novel approach to nonlinear/non-Gaussian
Bayesian state estimation"), which draws from a model's texts those that keep to a condition
(Lew et al. 2023, "Sequential Monte Carlo steering of large language models using probabilistic
programs"). A guide makes texts have keywords, and now and then makes them odd by it. How odd is
known: it is how much likelier the guide made the tokens than the model alone does. Every few
tokens, candidates that go on oddly are given up for copies of those that go on well, where
those that have more keywords may be odder (the twist of Zhao et al. 2024, "Probabilistic
inference in language models via twisted sequential Monte Carlo").
"""

import itertools
from collections.abc import Sequence

import numpy as np

from gpt2kw.generation.sampling import Path, Rules, Sampler, Sampling
from gpt2kw.model.cores import deal

_POPULATION = 8
"""Candidates that may replace one another, at most."""
_EVERY = 4
"""Tokens between two times at which candidates may replace one another."""
_LEAST = 0.5
"""They do if they are worth less than this share of their number."""


def populations(candidates: Sequence[Path]) -> list[Sequence[Path]]:
    """Part the candidates for a text into those that may replace one another.

    Several, for those that are left at the end of one have much in common; and so that one text
    keeps more than one core busy.
    """
    return deal(candidates, -(-len(candidates) // _POPULATION))


class Resampler(Sampler):
    """A `Search` that draws the tokens of populations of candidates."""

    def __init__(
        self, populations: Sequence[Sequence[Path]], sampling: Sampling, rules: Rules
    ) -> None:
        """Continue texts, which are changed; those of a population have the same prompt."""
        super().__init__(list(itertools.chain(*populations)), sampling, rules)
        self._populations = [
            number for number, paths in enumerate(populations) for _ in range(len(paths))
        ]
        """For each row, the number of its population."""
        self._parents = np.arange(len(self._paths), dtype=np.int32)
        """For each row, the one whose past it goes on from."""
        self._steps = 0
        self._powers = np.empty((0, 0), np.float32)

    def choose(self, logits, totals):
        """See `Search`."""
        rules, paths = self._rules, self._paths
        scores = rules.unguided(logits, paths, self._room_for(logits))
        # What transforms change is not the guides' doing.
        own = scores.copy() if rules.transforms else logits
        rules.guide(scores, logits, totals, paths)
        running = [row for row, path in enumerate(paths) if not path.ended]
        tokens = self._add(scores, logits, totals)
        weights = self._log_shares(own, tokens) - self._log_shares(scores, tokens)
        for row in running:
            paths[row].weight += float(weights[row])
        self._steps += 1
        self._parents = np.arange(len(paths), dtype=np.int32)
        if self._steps % _EVERY == 0:
            self._resample()
        changed = (self._parents != np.arange(len(paths))).any()
        return tokens, np.arange(len(paths), dtype=np.int32), self._goes_on() and not changed

    def _log_shares(self, scores, tokens):
        """Return the logarithm of the probability of each row's token, float32 [rows]."""
        if self._powers.shape != scores.shape:
            self._powers = np.empty_like(scores)
        temperature = np.float32(self._sampling.temperature)
        highest = scores.max(axis=1)
        powers = np.subtract(scores, highest[:, None], out=self._powers)
        powers /= temperature
        sums = np.exp(powers, out=powers).sum(axis=1)
        chosen = scores[np.arange(len(tokens)), tokens]
        return (chosen - highest) / temperature - np.log(sums)

    def _resample(self) -> None:
        """Let texts replace others of their population where these are worth little."""
        running = (row for row, path in enumerate(self._paths) if not path.ended)
        for _, group in itertools.groupby(running, self._populations.__getitem__):
            rows = list(group)
            paths = [self._paths[row] for row in rows]
            weights = np.array([path.weight + path.guide.merit for path in paths if path.guide])
            if not len(weights):
                continue
            shares = np.exp(weights - weights.max())
            shares /= shares.sum()
            # The effective number, Kong et al. 1994.
            if 1 / (shares**2).sum() >= _LEAST * len(rows):
                continue
            copies = _systematic(shares, paths[0].random.random())
            free = [place for place, count in enumerate(copies) if not count]
            for place, count in enumerate(copies):
                for _ in range(count - 1):
                    other = free.pop()
                    paths[other].follow(paths[place])
                    self._parents[rows[other]] = rows[place]
            for path in paths:
                path.weight = -path.guide.merit

    def compact(self):
        """See `Search`."""
        going = super().compact()
        self._populations = [self._populations[row] for row in going]
        return self._parents[going]


def _systematic(shares: np.ndarray, uniform: float) -> list[int]:
    """Return how many copies each gets of as many in all, by systematic resampling.

    Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space
    models".
    """
    count = len(shares)
    places = np.searchsorted(np.cumsum(shares), (np.arange(count) + uniform) / count)
    return np.bincount(np.minimum(places, count - 1), minlength=count).tolist()
