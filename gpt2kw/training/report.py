"""What a fine-tuning says of itself at its end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class FinetuneReport:
    """How a fine-tuning ended.

    Losses are nats per token: of the last few training steps, of the last measurement on
    the validation text, and the best of those with its step. `ended_by` says why no more
    steps were done, and `signal` is the one that ended it, or 0.
    """

    run: Path
    step: int
    ended_by: Literal["steps", "signal", "minutes", "patience"]
    signal: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    best: tuple[int, float] | None = None
    tokens: int = 0
    """Tokens seen since the run began, padding left out."""
    saved: bool = True
    """Whether a checkpoint holds the last step; not if the loss was going astray."""
    seconds: float = 0.0
    """Seconds of this call's training."""
