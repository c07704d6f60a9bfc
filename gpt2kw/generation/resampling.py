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

_EVERY = 4
"""Tokens between two times at which candidates may replace one another."""
_LEAST = 0.5
"""They do if they are worth less than this share of their number."""


class Resampler(Sampler):
    """A `Search` that draws the tokens of each text's candidates together."""

    def __init__(
        self, candidates: Sequence[Sequence[Path]], sampling: Sampling, rules: Rules
    ) -> None:
        """Continue the `candidates` for each text, which have the same prompt and are changed."""
        super().__init__(list(itertools.chain(*candidates)), sampling, rules)
        self._texts = [number for number, paths in enumerate(candidates) for _ in range(len(paths))]
        """For each row, the number of the text that it is for."""
        self._parents = np.arange(len(self._paths), dtype=np.int32)
        """For each row, the one whose past it goes on from."""
        self._steps = 0

    def choose(self, logits, totals):
        """See `Search`."""
        rules, paths = self._rules, self._paths
        scores = rules.unguided(logits, paths, self._room_for(logits))
        # What transforms change is not the guides' doing.
        own = scores.copy() if rules.transforms else logits
        rules.guide(scores, logits, totals, paths)
        running = [row for row, path in enumerate(paths) if not path.ended]
        tokens = self._add(scores, logits, totals)
        temperature = np.float32(self._sampling.temperature)
        weights = _log_shares(own, tokens, temperature) - _log_shares(scores, tokens, temperature)
        for row in running:
            paths[row].weight += float(weights[row])
        self._steps += 1
        self._parents = np.arange(len(paths), dtype=np.int32)
        if self._steps % _EVERY == 0:
            self._resample()
        changed = (self._parents != np.arange(len(paths))).any()
        return tokens, np.arange(len(paths), dtype=np.int32), self._goes_on() and not changed

    def _resample(self) -> None:
        """Let candidates replace others of the same text where these are worth little."""
        running = (row for row, path in enumerate(self._paths) if not path.ended)
        for _, group in itertools.groupby(running, self._texts.__getitem__):
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
        self._texts = [self._texts[row] for row in going]
        return self._parents[going]


def _systematic(shares: np.ndarray, uniform: float) -> list[int]:
    """Return how many copies each gets of as many in all, by systematic resampling.

    Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space
    models".
    """
    count = len(shares)
    places = np.searchsorted(np.cumsum(shares), (np.arange(count) + uniform) / count)
    return np.bincount(np.minimum(places, count - 1), minlength=count).tolist()


def _log_shares(scores: np.ndarray, tokens: np.ndarray, temperature: np.float32) -> np.ndarray:
    """Return the logarithm of the probability of each row's token, float32 [rows]."""
    highest = scores.max(axis=1)
    powers = np.exp((scores - highest[:, None]) / temperature)
    chosen = scores[np.arange(len(tokens)), tokens]
    return (chosen - highest) / temperature - np.log(powers.sum(axis=1))
