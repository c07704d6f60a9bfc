"""Choosing tokens: limits on what is likely enough, and drawing from the rest."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

_BLOCK = 32
_FIRST_LOOK = 1024
"""Tokens that are sorted first where no `top_k` limits them."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen among those that may come.

    In this order, as in transformers: the temperature; the `top_k` likeliest (Fan et al.
    2018), 0 for all; of these the fewest that reach a probability of `top_p` (Holtzman et
    al. 2020), 1 for all; those with at least `min_p` of the likeliest one's probability
    (Nguyen et al. 2024), 0 for all; and those nearest to the expected information that
    reach a probability of `typical_p` (Meister et al. 2023), 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0

    def draw(self, scores: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Return a token for each row, int32 [rows], by inverting the cumulative distribution.

        Args:
            scores: float32 [rows, vocabulary], logits; -inf for what may not come.
            uniforms: float64 [rows] in [0, 1).
        """
        if self.top_k == 1:
            return np.argmax(scores, axis=1).astype(np.int32)
        size = scores.shape[1]
        if 0 < self.top_k < size:
            return self._draw_from(*likeliest(scores, self.top_k), uniforms)
        if self.typical_p < 1:
            return self._draw_from(*likeliest(scores, size), uniforms)
        if self.top_p == 1 and self.min_p == 0:
            return self._draw_from(scores, None, uniforms)
        chosen = np.empty(len(scores), np.int32)
        for row in range(len(scores)):
            chosen[row] = self._draw_one(scores[row : row + 1], uniforms[row : row + 1])[0]
        return chosen

    def _draw_one(self, scores: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Draw for one row without a `top_k`, sorting no more than is needed."""
        values, ids = likeliest(scores, min(_FIRST_LOOK, scores.shape[1]))
        highest = values[0, 0]
        powers = np.exp((scores[0].astype(np.float64) - highest) / self.temperature)
        inside = np.exp((values[0].astype(np.float64) - highest) / self.temperature)
        enough = inside.sum() > self.top_p * powers.sum() and self.top_p < 1
        if not (enough or inside[-1] < self.min_p):
            values, ids = likeliest(scores, scores.shape[1])
        return self._draw_from(values, ids, uniforms, powers.sum())

    def _draw_from(self, values, ids, uniforms, total=None):
        """Draw from logits, sorted if `ids` names them; `total` is of all powers there are."""
        values = values.astype(np.float64)
        powers = np.exp((values - values.max(axis=1, keepdims=True)) / self.temperature)
        if ids is not None:
            powers *= self._kept(powers / (total or powers.sum(axis=1, keepdims=True)))
        cumulative = np.cumsum(powers, axis=1)
        below = cumulative <= uniforms[:, None] * cumulative[:, -1:]
        # A uniform so near to 1 that rounding leaves nothing above takes the last there is.
        last = powers.shape[1] - 1 - np.argmax(powers[:, ::-1] > 0, axis=1)
        place = np.minimum(below.sum(axis=1), last)
        chosen = place if ids is None else ids[np.arange(len(ids)), place]
        return chosen.astype(np.int32)

    def _kept(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which of the probabilities, [rows, tokens] from high to low, are kept."""
        kept = probabilities > 0
        if self.top_p < 1:
            kept &= np.cumsum(probabilities, axis=1) - probabilities < self.top_p
        if self.min_p:
            kept &= probabilities >= self.min_p * probabilities[:, :1]
        if self.typical_p < 1:
            left = probabilities * kept
            left /= left.sum(axis=1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                information = -np.log(left)
                expected = np.nansum(left * information, axis=1, keepdims=True)
            order = np.argsort(np.abs(information - expected), axis=1, kind="stable")
            sorted_ = np.take_along_axis(left, order, axis=1)
            inside = np.cumsum(sorted_, axis=1) - sorted_ < self.typical_p
            typical = np.zeros_like(kept)
            np.put_along_axis(typical, order, inside, axis=1)
            kept &= typical
        return kept


def likeliest(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` highest scores of each row with their places, from high to low.

    Of equal ones the first come first. The places of -inf mean nothing.
    """
    rows, size = scores.shape
    blocks = size // _BLOCK
    if count * 4 > blocks:
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(scores, ids, axis=1), ids
    # The count-th highest of the blocks' maxima is no higher than the count-th score: a
    # pass over all scores that sorts nothing finds the few that need sorting. A block is
    # every n-th score, for of neighbours numpy takes the maxima eight times as slowly.
    peaks = scores[:, : blocks * _BLOCK].reshape(rows, _BLOCK, blocks).max(axis=1)
    bounds = np.partition(peaks, blocks - count, axis=1)[:, blocks - count]
    # Of a row with fewer that are possible at all, only these.
    bounds = np.maximum(bounds, np.finfo(np.float32).min)
    found = np.flatnonzero(scores >= bounds[:, None])
    row, places = np.divmod(found, size)
    counts = np.bincount(row, minlength=rows)
    column = np.arange(len(found)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((rows, max(count, counts.max())), -np.inf, np.float32)
    ids = np.zeros(values.shape, np.int64)
    values[row, column] = scores.ravel()[found]
    ids[row, column] = places
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1)


class Guide(Protocol):
    """Sees to it that one text has something in it."""

    forced: int
    """The tokens for which it left no choice."""
    merit: float
    """How promising what the text has is, in nats."""

    def steer(self, scores: np.ndarray, logits: np.ndarray, wish_to_end: float, left: int) -> None:
        """Change `scores` in place, for one of the `left` tokens that may still come."""

    def add(self, token: int) -> None:
        """Take note of a token that was chosen."""

    def copy(self) -> "Guide":
        """Return one that goes on from here by itself."""


@dataclass
class Path:
    """A text in the making."""

    prompt: int
    """The number of its prompt."""
    history: list[int]
    """The prompt's tokens."""
    text_from: int
    """Where in these the text begins; what stands before is not repeated by repeating it."""
    random: np.random.Generator
    """Its own random numbers, so that no other text changes it."""
    guide: Guide | None = None
    tokens: list[int] = field(default_factory=list)
    nats: float = 0.0
    """What the tokens cost by the model alone: the sum of -log p."""
    ended: bool = False
    """Whether a stop came, or it is as long as it may be."""
    weight: float = 0.0
    """Kept by `gpt2kw.generation.resampling`: the logarithm of how much likelier the tokens since
    the last replacement are without the guide than with it, less its `merit` then."""

    def copy(self) -> "Path":
        """Return a text that goes on from here by itself."""
        guide = self.guide.copy() if self.guide else None
        return replace(self, guide=guide, tokens=list(self.tokens))

    def follow(self, other: "Path") -> None:
        """Go on from where `other` is, by this text's own random numbers."""
        twin = other.copy()
        self.guide, self.tokens, self.nats = twin.guide, twin.tokens, twin.nats

    @property
    def text(self) -> list[int]:
        """The tokens of the text, with those that stand in the prompt."""
        return self.history[self.text_from :] + self.tokens

    def add(self, token: int, nats: float) -> None:
        """Add a token that costs so many nats."""
        self.tokens.append(token)
        self.nats += nats
        if self.guide:
            self.guide.add(token)


Transform = Callable[[np.ndarray, Path], None]
"""Changes a row of scores in place, float32 [vocabulary], for the text that it is to continue."""


@dataclass(frozen=True, eq=False)
class Rules:
    """What holds for every text, whichever way tokens are chosen."""

    allowed: np.ndarray
    """bool [vocabulary], the ids that may be chosen."""
    stops: tuple[int, ...]
    """Ids that end a text."""
    max_tokens: int
    """The longest text."""
    transforms: tuple[Transform, ...] = ()
    """Applied in this order, before the temperature; then come the guides."""
    banned: Sequence[Sequence[int]] = ()
    """Token sequences that must not come; for a backend that knows no transforms."""
    title_ends: tuple[int, ...] = ()
    """Ids that end a title, whether or not a body follows, if they are not `stops`."""

    @functools.cached_property
    def _bias(self) -> np.ndarray:
        return np.where(self.allowed, 0, -np.inf).astype(np.float32)

    def scores(
        self,
        values: np.ndarray,
        totals: np.ndarray,
        paths: Sequence[Path],
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return what the next tokens are chosen by, float32 [paths, vocabulary].

        Args:
            values: float32 [paths, vocabulary], logits or anything that differs from them
                by a number for each row.
            totals: float32 [paths], the logarithms of the values' summed powers.
            paths: the texts; nothing is done for those that have ended.
            out: where to, if not into a new array.
        """
        scores = self.unguided(values, paths, out)
        self.guide(scores, values, totals, paths)
        return scores

    def unguided(
        self, values: np.ndarray, paths: Sequence[Path], out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return what `scores` does, without the guides."""
        scores = np.add(values, self._bias, out=out)
        if self.transforms:
            for row, path in enumerate(paths):
                if path.ended:
                    continue
                for transform in self.transforms:
                    transform(scores[row], path)
                if scores[row].max() == -np.inf:
                    # Nothing is left: better a text that breaks a wish than none.
                    np.add(values[row], self._bias, out=scores[row])
        return scores

    def guide(
        self, scores: np.ndarray, values: np.ndarray, totals: np.ndarray, paths: Sequence[Path]
    ) -> None:
        """Let the guides change what `unguided` gave for these values."""
        ends = np.exp(values[:, list(self.title_ends or self.stops)] - totals[:, None]).sum(axis=1)
        for row, path in enumerate(paths):
            if path.guide and not path.ended:
                left = self.max_tokens - len(path.tokens)
                path.guide.steer(scores[row], values[row], float(ends[row]), left)


class Sampler:
    """A `Search` that draws each text's tokens by themselves."""

    reorders = False

    def __init__(self, paths: Sequence[Path], sampling: Sampling, rules: Rules) -> None:
        """Continue `paths`, which are changed."""
        self.prompt_rows = [path.prompt for path in paths]
        self._paths = list(paths)
        self._sampling = sampling
        self._rules = rules
        self._room = np.empty((0, 0), np.float32)

    def choose(self, logits, totals):
        """See `Search`."""
        scores = self._rules.scores(logits, totals, self._paths, self._room_for(logits))
        tokens = self._add(scores, logits, totals)
        return tokens, np.arange(len(tokens), dtype=np.int32), self._goes_on()

    def _room_for(self, logits):
        """Return room for scores, which is kept: new memory costs as much time as sums in it."""
        if self._room.shape != logits.shape:
            self._room = np.empty_like(logits)
        return self._room

    def _add(self, scores, logits, totals):
        """Add a token to each text that goes on, and return them."""
        rules, paths = self._rules, self._paths
        uniforms = np.array([path.random.random() for path in paths])
        tokens = self._sampling.draw(scores, uniforms)
        costs = totals - logits[np.arange(len(tokens)), tokens]
        for path, token, cost in zip(paths, tokens.tolist(), costs.tolist(), strict=True):
            if not path.ended:
                path.add(token, cost)
                path.ended = token in rules.stops or len(path.tokens) == rules.max_tokens
        return tokens

    def _goes_on(self):
        running = sum(not path.ended for path in self._paths)
        # Dropping rows costs a copy of the others' cache.
        return running > 0.75 * len(self._paths)

    def compact(self):
        """See `Search`."""
        places = [place for place, path in enumerate(self._paths) if not path.ended]
        self._paths = [self._paths[place] for place in places]
        return np.array(places, np.int32)

    def sequence(self, row):
        """See `Search`."""
        return self._paths[row].history, self._paths[row].tokens
