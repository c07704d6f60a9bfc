"""The last few steps: their mean loss, their speed, and whether they went astray."""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from gpt2kw.training.batches import Batch
from gpt2kw.training.step import StepResult

_HISTORY = 10
"""Windows before, whose mean a loss is compared with."""


@dataclass
class Window:
    """Sums over steps since the last report.

    Results are read late, for reading makes the devices wait.
    """

    nats: float = 0.0
    counted: int = 0
    steps: int = 0
    lost: int = 0
    """Steps that were not applied, for a loss or gradient that is no number."""
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of these that went by until there was a batch."""
    norm: float = 0.0
    _unread: list[StepResult] = field(default_factory=list, init=False)

    def add(self, batch: Batch, result: StepResult) -> None:
        """Count a step."""
        self.steps += 1
        self.tokens += batch.tokens
        self.positions += batch.ids.size
        self._unread.append(result)

    def read(self) -> None:
        """Wait for the steps that were counted, and take their losses."""
        for result in self._unread:
            if result.applied:
                self.nats += float(result.nats)
                self.counted += result.counted
                self.norm = float(result.norm)
            else:
                self.lost += 1
        self._unread = []

    @property
    def loss(self) -> float:
        """The mean in nats per token, over the steps that were applied."""
        return self.nats / self.counted if self.counted else math.nan

    def state(self) -> dict[str, Any]:
        """Return the sums that a checkpoint in the middle of a window holds."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}


class Watch:
    """Compares each window's loss with those before it."""

    def __init__(self, spike: float, losses: Iterable[float] = ()) -> None:
        """A loss is a jump if it is more than `spike` above the mean of `losses`; 0 for never."""
        self._spike = spike
        self.losses = deque(losses, maxlen=_HISTORY)

    def problem(self, window: Window) -> str | None:
        """Return what is wrong with a window, so far as it goes; None if nothing is."""
        if window.lost > window.steps / 2:
            return "the loss is nan"
        if self._spike and len(self.losses) == _HISTORY:
            mean = statistics.fmean(self.losses)
            if window.loss > mean + self._spike:
                return f"the loss jumped from {mean:.2f} to {window.loss:.2f}"
        return None

    def remember(self, window: Window) -> None:
        """Compare later windows with this one too."""
        if window.counted:
            self.losses.append(window.loss)
