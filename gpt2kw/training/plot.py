"""The losses of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_losses(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training and validation loss by step into a PNG file.

    `metrics` are a run's entries; an entry has "step" and "loss" or "validation_loss",
    in nats per token.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token", title=path.parent.name)
    for key, label, style in (
        ("loss", "training", {"linewidth": 1, "alpha": 0.7}),
        ("validation_loss", "validation", {"marker": "o", "markersize": 4}),
    ):
        points = [(entry["step"], entry[key]) for entry in metrics if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
            axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
