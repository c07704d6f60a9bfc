"""Figures with 95% intervals, by drawing the prompts anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_RESAMPLES = 1000
_OUTSIDE = 0.025
"""What lies below a 95% interval, and above it."""
_LEAST = 8
"""Units that an interval needs."""


def ratio(sums: np.ndarray) -> np.ndarray:
    """Return the first of two sums by the second: [..., 2] to [...]."""
    return sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Measurement:
    """What a figure is computed from, so that it can be computed for other samples too."""

    counts: np.ndarray
    """float64 [units, k]: what each prompt, or group of prompts, adds to k sums."""
    value: Callable[[np.ndarray], np.ndarray] = ratio
    """Maps sums [..., k] to figures [...]; no number where there is nothing to divide by."""
    rises_by_chance: bool = False
    """Whether chance makes the figure higher, as that of a distance, and so more of it yet."""

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[float]], value: Callable[[np.ndarray], np.ndarray] = ratio
    ) -> "Measurement":
        """Make one from a row of k numbers for each unit."""
        return cls(np.array(rows, np.float64), value)

    @property
    def units(self) -> int:
        """The number of units that add anything."""
        return int(np.count_nonzero(self.counts.any(axis=1)))

    def only(self, units: Sequence[bool]) -> "Measurement":
        """Return the same for some of the units."""
        return replace(self, counts=self.counts * np.array(units, np.float64)[:, None])


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95% interval."""

    value: float
    low: float
    high: float
    units: int
    """The prompts, or groups of prompts, that it is from."""

    @property
    def has_interval(self) -> bool:
        """Whether the ends mean anything: those from very few units hold less than 95%."""
        return self.units >= _LEAST

    @property
    def may_be_chance(self) -> bool:
        """Whether a difference may be none: 0 is in its interval, or it has none."""
        return not self.has_interval or self.low <= 0 <= self.high


def estimate(measured: Measurement, seed: int) -> Estimate | None:
    """Return a figure with its bootstrap interval; None if it has no value.

    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife". The units are drawn
    with replacement 1,000 times. The interval is wider where these are few, as that of a
    mean is (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.3).
    It is a percentile interval; of a figure that rises by chance, to which the drawing adds
    what the sample had added before, one that holds the basic interval too (Davison and
    Hinkley 1997, "Bootstrap Methods and their Application", section 5.2).
    """
    value = _value(measured, measured.counts.sum(0))
    found = _estimate(value, _resampled(measured, seed), measured.units, measured.rises_by_chance)
    if found and measured.rises_by_chance:
        return replace(found, low=max(0.0, found.low), high=max(0.0, found.high))
    return found


def difference(measured: Measurement, base: Measurement, seed: int) -> Estimate | None:
    """Return how much higher a figure is than another one on the same units.

    Paired: both are computed for the same samples of units (Koehn 2004, "Statistical
    Significance Tests for Machine Translation Evaluation"). None without both values.
    """
    values = _value(measured, measured.counts.sum(0)) - _value(base, base.counts.sum(0))
    gaps = _resampled(measured, seed) - _resampled(base, seed)
    units = min(measured.units, base.units)
    return _estimate(values, gaps, units, measured.rises_by_chance)


def _value(measured: Measurement, sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return measured.value(sums)


def _resampled(measured: Measurement, seed: int) -> np.ndarray:
    return _value(measured, _draws(len(measured.counts), seed) @ measured.counts)


@lru_cache(maxsize=8)
def _draws(units: int, seed: int) -> np.ndarray:
    """Return float64 [resamples, units]: how often each unit was drawn."""
    rng = np.random.default_rng((seed, units))
    return rng.multinomial(units, np.full(units, 1 / units), _RESAMPLES).astype(np.float64)


def _estimate(
    value: np.ndarray, resampled: np.ndarray, units: int, rises_by_chance: bool
) -> Estimate | None:
    if not np.isfinite(value):
        return None
    outside = _outside(max(2, units))
    # A sample may have drawn none of the few units that count.
    low, high = np.quantile(resampled[np.isfinite(resampled)], (outside, 1 - outside))
    if rises_by_chance:
        low, high = min(low, 2 * value - high), max(high, 2 * value - low)
    return Estimate(float(value), float(low), float(high), units)


def _outside(units: int) -> float:
    """Return what a percentile interval must leave outside on each side to be one of 95%.

    The bootstrap's deviation is too small by a factor of sqrt((n - 1) / n), and knows
    nothing of Student's t, whose quantile is that of Abramowitz and Stegun 1964, 26.7.5.
    """
    normal, freedom = NormalDist(), units - 1
    x = normal.inv_cdf(1 - _OUTSIDE)
    t = x + (x**3 + x) / (4 * freedom) + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * freedom**2)
    t += (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * freedom**3)
    return normal.cdf(-t * (units / freedom) ** 0.5)
