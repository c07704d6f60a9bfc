"""AdamW and its learning rate."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from gpt2kw.model.backend import tf
from gpt2kw.model.named import NEW
from gpt2kw.training.options import FinetuneOptions

import tf_keras  # isort: skip  (after the backend)

_NOT_DECAYED = ("gamma", "beta", "bias")
"""Last parts of the names of norms' weights and of biases."""
_LEAST = 0.1
"""The rate at the end, as a share of the highest; linear goes down to nothing."""


class Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to the highest rate, and then a fall or none."""

    def __init__(self, shape: str, highest: float, warmup: int, steps: int) -> None:
        """Shape is cosine (to a tenth), linear (to nothing) or constant."""
        self._shape = shape
        self._highest = highest
        self._warmup = warmup
        self._steps = steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the rate, float32, of the step after `step` others."""
        step = tf.cast(step, tf.float32)
        # The first step is not one of no length.
        rising = (step + 1) / (self._warmup + 1)
        part = tf.clip_by_value((step - self._warmup) / max(1, self._steps - self._warmup), 0, 1)
        falling = {
            "cosine": _LEAST + (1 - _LEAST) * (1 + tf.cos(math.pi * part)) / 2,
            "linear": 1 - part,
            "constant": 1.0,
        }[self._shape]
        return self._highest * tf.where(step < self._warmup, rising, falling)


class Rising(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises by the same factor each step."""

    def __init__(self, low: float, high: float, steps: int) -> None:
        """Begin at `low`, and reach `high` with the last of `steps`."""
        self._low = low
        self._factor = math.log(high / low) / (steps - 1)

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the rate, float32, of the step after `step` others."""
        return self._low * tf.exp(self._factor * tf.cast(step, tf.float32))


def highest_rate(options: FinetuneOptions) -> float:
    """Return the option's rate, or what suits the model."""
    return options.learning_rate or (1e-3 if options.model == NEW else 1e-4)


def learning_rate(options: FinetuneOptions) -> Schedule:
    """Return the rate by step for these options."""
    warmup = min(options.warmup_steps, options.steps // 2)
    return Schedule(options.schedule, highest_rate(options), warmup, options.steps)


class AdamW(tf_keras.optimizers.legacy.Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), not on biases and norms.

    Built on Keras 2's legacy Adam, whose update is one fused operation a weight.
    """

    def __init__(self, rate: Schedule, weight_decay: float, undecayed: Sequence[str] = ()) -> None:
        """Decay all weights but those of the names `undecayed`, biases and norms."""
        super().__init__(rate, epsilon=1e-8, name="AdamW")
        self._weight_decay = weight_decay
        self._undecayed = undecayed
        self._finite: tf.Tensor = tf.constant(True)

    def apply_if(self, finite: tf.Tensor, gradients: Iterable[tuple[tf.Tensor, Any]]) -> None:
        """Apply gradients; if the bool scalar `finite` is false, they are zero: only count."""
        self._finite = finite
        self.apply_gradients(gradients, experimental_aggregate_gradients=False)

    def _resource_apply_dense(self, grad: tf.Tensor, var: Any, apply_state: Any = None) -> Any:
        values = apply_state[var.device, var.dtype.base_dtype]
        rate = tf.where(self._finite, values["lr_t"], 0.0)
        # On several devices the copies behind the first have names of their own.
        name = re.sub(r"/replica_\d+(?=:)", "", var.name)
        part = name.removesuffix(":0").rpartition("/")[2]
        decayed = part not in _NOT_DECAYED and name not in self._undecayed
        before = []
        if self._weight_decay and decayed:
            before = [var.assign(var * (1 - rate * self._weight_decay))]
        # A step that is not taken has a rate of nothing and leaves the moments as they were.
        with tf.control_dependencies(before):
            return tf.raw_ops.ResourceApplyAdam(
                var=var.handle,
                m=self.get_slot(var, "m").handle,
                v=self.get_slot(var, "v").handle,
                beta1_power=values["beta_1_power"],
                beta2_power=values["beta_2_power"],
                lr=rate,
                beta1=tf.where(self._finite, values["beta_1_t"], 1.0),
                beta2=tf.where(self._finite, values["beta_2_t"], 1.0),
                epsilon=values["epsilon"],
                grad=grad,
                use_locking=self._use_locking,
            )
