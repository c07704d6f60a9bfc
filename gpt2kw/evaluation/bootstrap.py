"""Figures with 95% intervals, by drawing the prompts anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_RESAMPLES = 1000
_ENDS = (2.5, 97.5)


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

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[float]], value: Callable[[np.ndarray], np.ndarray] = ratio
    ) -> "Measurement":
        """Make one from a row of k numbers for each unit."""
        return cls(np.array(rows, np.float64), value)

    def only(self, units: Sequence[bool]) -> "Measurement":
        """Return the same for some of the units."""
        return Measurement(self.counts * np.array(units, np.float64)[:, None], self.value)


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def has_zero(self) -> bool:
        """Whether 0 is in the interval, so that a difference may be chance."""
        return self.low <= 0 <= self.high


def estimate(measured: Measurement, seed: int) -> Estimate | None:
    """Return a figure with its percentile bootstrap interval; None if it has no value.

    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife". The units are drawn
    with replacement 1,000 times.
    """
    return _estimate(_value(measured, measured.counts.sum(0)), _resampled(measured, seed))


def difference(measured: Measurement, base: Measurement, seed: int) -> Estimate | None:
    """Return how much higher a figure is than another one on the same units.

    Paired: both are computed for the same samples of units (Koehn 2004, "Statistical
    Significance Tests for Machine Translation Evaluation"). None without both values.
    """
    values = _value(measured, measured.counts.sum(0)) - _value(base, base.counts.sum(0))
    return _estimate(values, _resampled(measured, seed) - _resampled(base, seed))


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


def _estimate(value: np.ndarray, resampled: np.ndarray) -> Estimate | None:
    if not np.isfinite(value):
        return None
    # A sample may have drawn none of the few units that count.
    low, high = np.percentile(resampled[np.isfinite(resampled)], _ENDS)
    return Estimate(float(value), float(low), float(high))
