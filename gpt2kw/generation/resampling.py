"""Candidates for a text that replace one another while they are written.

This is sequential Monte Carlo (Gordon et al. 1993, "Novel approach to nonlinear/non-Gaussian
Bayesian state estimation"), which draws from a model's texts those that keep to a condition
(Lew et al. 2023, "Sequential Monte Carlo steering of large language models using probabilistic
programs"). A guide makes texts have keywords, and now and then makes them odd by it. How odd is
known: it is how much likelier the guide made the tokens than the model alone does. Every few
tokens, candidates that go on oddly are given up for copies of those that go on well, where
those that have more keywords and repeat less may be odder (the twist of Zhao et al. 2024,
"Probabilistic inference in language models via twisted sequential Monte Carlo"). How likely tokens
are is counted at the temperature, but before limits such as `top_k`.
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
_ODDEST = -50.0
"""The least that a token adds to a weight."""


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
        guided = [row for row, path in enumerate(self._paths) if path.guide and not path.ended]
        self._steps += 1
        self._parents = np.arange(len(self._paths), dtype=np.int32)
        if not guided:
            return super().choose(logits, totals)
        tokens = self._weigh(guided, logits, totals)
        replaced = self._steps % _EVERY == 0 and self._resample()
        rows = np.arange(len(tokens), dtype=np.int32)
        return tokens, rows, self._goes_on() and not replaced

    def _weigh(self, guided, logits, totals):
        """Add a token to each text, and to the weights of the guided ones; return the tokens."""
        rules, paths = self._rules, self._paths
        scores = rules.unguided(logits, paths, self._room_for(logits))
        own_sums = self._log_sums(scores)
        # A token that may be chosen scores as its logit, but for transforms.
        own = scores.copy() if rules.transforms else logits
        rules.guide(scores, logits, totals, paths)
        tokens = self._add(scores, logits, totals)
        places = np.arange(len(tokens)), tokens
        temperature = self._sampling.temperature
        weights = (own[places] - scores[places]) / temperature + self._log_sums(scores) - own_sums
        for row in guided:
            # A keyword may be forced where a transform forbids its token.
            paths[row].weight += max(_ODDEST, float(weights[row]))
        return tokens

    def _log_sums(self, scores):
        """Return the logarithms of the rows' summed powers at the temperature, float32 [rows]."""
        if self._powers.shape != scores.shape:
            self._powers = np.empty_like(scores)
        temperature = np.float32(self._sampling.temperature)
        highest = scores.max(axis=1)
        powers = np.subtract(scores, highest[:, None], out=self._powers)
        powers /= temperature
        return highest / temperature + np.log(np.exp(powers, out=powers).sum(axis=1))

    def _resample(self) -> bool:
        """Let texts replace others of their population where these are worth little.

        Returns whether any did.
        """
        running = (row for row, path in enumerate(self._paths) if not path.ended)
        replaced = False
        for _, group in itertools.groupby(running, self._populations.__getitem__):
            rows = list(group)
            paths = [self._paths[row] for row in rows]
            if not paths[0].guide:
                continue
            weights = np.array([path.weight + path.guide.merit for path in paths])
            worth = np.exp(weights - weights.max())
            worth /= worth.sum()
            # The effective number, Kong et al. 1994.
            if 1 / (worth**2).sum() >= _LEAST * len(rows):
                continue
            # The first that still runs draws for all.
            copies = _systematic(worth, paths[0].random.random())
            free = [place for place, count in enumerate(copies) if not count]
            for place, count in enumerate(copies):
                for _ in range(count - 1):
                    other = free.pop()
                    paths[other].follow(paths[place])
                    self._parents[rows[other]] = rows[place]
                    replaced = True
            for path in paths:
                path.weight = -path.guide.merit
        return replaced

    def compact(self):
        """See `Search`."""
        going = super().compact()
        self._populations = [self._populations[row] for row in going]
        return self._parents[going]


def _systematic(worth: np.ndarray, uniform: float) -> list[int]:
    """Return how many copies each gets of as many in all, by systematic resampling.

    Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space
    models".
    """
    count = len(worth)
    places = np.searchsorted(np.cumsum(worth), (np.arange(count) + uniform) / count)
    return np.bincount(np.minimum(places, count - 1), minlength=count).tolist()
