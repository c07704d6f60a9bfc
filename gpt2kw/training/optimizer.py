"""AdamW and its learning rate."""

from typing import Any

from gpt2kw.model.backend import tf
from gpt2kw.model.named import MINI
from gpt2kw.training.options import FinetuneOptions

import tf_keras  # isort: skip  (after the backend)

Schedule = tf_keras.optimizers.schedules.LearningRateSchedule

_NOT_DECAYED = ("gamma", "beta", "bias")
"""Last parts of the names of norms' weights and of biases."""


def learning_rate(options: FinetuneOptions) -> Schedule:
    """Return the rate by step: a linear rise, then a cosine down to a tenth."""
    rate = options.learning_rate or (1e-3 if options.model == MINI else 1e-4)
    warmup = min(options.warmup_steps, options.steps // 2)
    return tf_keras.optimizers.schedules.CosineDecay(
        # The first step is not one of no length.
        rate / (warmup + 1) if warmup else rate,
        decay_steps=max(1, options.steps - warmup),
        alpha=0.1,
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )


class AdamW(tf_keras.optimizers.legacy.Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), not on biases and norms.

    Built on Keras 2's legacy Adam, whose update is one fused operation a weight.
    """

    def __init__(self, rate: Schedule, weight_decay: float) -> None:
        super().__init__(rate, epsilon=1e-8, name="AdamW")
        self._weight_decay = weight_decay

    def _resource_apply_dense(self, grad: tf.Tensor, var: Any, apply_state: Any = None) -> Any:
        part = var.name.removesuffix(":0").rpartition("/")[2]
        if self._weight_decay and part not in _NOT_DECAYED:
            rate = self._decayed_lr(tf.float32)
            with tf.control_dependencies([var.assign(var * (1 - rate * self._weight_decay))]):
                return super()._resource_apply_dense(grad, var, apply_state)
        return super()._resource_apply_dense(grad, var, apply_state)
