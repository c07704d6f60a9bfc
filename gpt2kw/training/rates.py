"""Finding a learning rate by trying rising ones."""

import math
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from gpt2kw.errors import UserError
from gpt2kw.training.batches import Place
from gpt2kw.training.corpus import checksum
from gpt2kw.training.loop import batch_order, first_model, open_training_corpus
from gpt2kw.training.optimizer import Rising
from gpt2kw.training.options import FinetuneOptions
from gpt2kw.training.step import TrainStep, choose_strategy

_LOWEST, _HIGHEST, _STEPS = 1e-6, 1.0, 100
_SMOOTHING = 0.9
_ASTRAY = 2.0
"""Nats above the lowest loss at which higher rates need not be tried."""


@dataclass(frozen=True)
class RateReport:
    """The rates that were tried, rising, the smoothed loss behind each, and the one to use."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float


def find_learning_rate(
    options: FinetuneOptions | None = None, *, progress: bool = False, **fields: Any
) -> RateReport:
    """Train for up to 100 steps at rising rates, and keep nothing of it.

    The suggestion is a tenth of the rate at which the loss was lowest (Smith 2017,
    "Cyclical Learning Rates for Training Neural Networks", section 3.3, looks at the same
    curve; the tenth is the margin that is usual in practice).

    Raises:
        UserError: the options, the text or the model can't be used, or nothing is learned.
    """
    options = replace(options, **fields) if options else FinetuneOptions(**fields)
    model = first_model(options)
    corpus = open_training_corpus(options, checksum(options.text), model)
    rate = Rising(_LOWEST, _HIGHEST, _STEPS)
    training = TrainStep(model, options, rate, choose_strategy(options.devices))
    batches = batch_order(options, corpus).from_place(Place())
    rates, losses, average = [], [], 0.0
    for step in tqdm(range(_STEPS), desc="rates", disable=None if progress else True):
        batch, _ = next(batches)
        result = training.train(batch, step)
        if not result.applied:
            break
        average = _SMOOTHING * average + (1 - _SMOOTHING) * float(result.nats) / result.counted
        # Without the pull of the zero that the average began with.
        losses.append(average / (1 - _SMOOTHING ** (step + 1)))
        rates.append(float(rate(step)))
        if losses[-1] > min(losses) + _ASTRAY:
            break
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
    if lowest == 0 or math.isclose(losses[lowest], losses[0], rel_tol=0.01):
        raise UserError("no rate made the loss lower", "check the text, or set --learning-rate")
    return RateReport(tuple(rates), tuple(losses), rates[lowest] / 10)
