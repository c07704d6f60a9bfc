"""One step of training, compiled, on one device or on several."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.backend import tf
from gpt2kw.model.folder import Model
from gpt2kw.model.keras import keras_weights, named_variables, to_keras
from gpt2kw.training.optimizer import AdamW, Schedule
from gpt2kw.training.options import FinetuneOptions

import tf_keras  # isort: skip  (after the backend)

_TOKENS = tf.TensorSpec([None, None], tf.int32)
_LENGTHS = tf.TensorSpec([None], tf.int32)


def choose_strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the strategy for `devices`, or for all GPUs: mirrored if several, else plain.

    Raises:
        UserError: a device that TensorFlow does not have.
    """
    present = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    for device in devices:
        if device not in present:
            raise UserError(f"--devices names {device!r}", f"there are {', '.join(present)}")
    chosen = devices or [device for device in present if device.startswith("GPU:")]
    if len(chosen) > 1:
        return tf.distribute.MirroredStrategy(list(chosen))
    if chosen:
        return tf.distribute.OneDeviceStrategy(chosen[0])
    return tf.distribute.get_strategy()


def choose_precision(wanted: str) -> str:
    """Return float32 or bfloat16: the latter for auto if the hardware multiplies it."""
    if wanted != "auto":
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        # Ampere, compute capability 8.0, was the first with bfloat16.
        fits = all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    else:
        fits = _cpu_has_bfloat16()
    return "bfloat16" if fits else "float32"


def _cpu_has_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    # AVX-512 BF16 alone is no faster than float32 for models of this size.
    return "amx_bf16" in flags


@dataclass(frozen=True)
class StepResult:
    """Summed loss in nats and the number of predicted tokens, both float32 scalars."""

    nats: tf.Tensor
    tokens: tf.Tensor


class TrainStep:
    """The model under training with its optimizer."""

    def __init__(
        self,
        model: Model,
        options: FinetuneOptions,
        rate: Schedule,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._strategy = strategy
        self._clip_norm = options.clip_norm
        tf_keras.utils.set_random_seed(options.seed)
        policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
        tf_keras.mixed_precision.set_global_policy(policy[choose_precision(options.precision)])
        try:
            with strategy.scope():
                dropout = dict.fromkeys(
                    ("resid_pdrop", "embd_pdrop", "attn_pdrop"), options.dropout
                )
                self.keras_model = to_keras(model, **dropout)
                self.optimizer = AdamW(rate, options.weight_decay)
                self._variables = self.keras_model.trainable_variables
                self.optimizer._create_all_weights(self._variables)
        finally:
            tf_keras.mixed_precision.set_global_policy("float32")

    def train(self, ids: np.ndarray, lengths: np.ndarray) -> StepResult:
        """Do a step on documents: int32 ids [documents, length], int32 lengths."""
        return self._on_all_devices(self._train_replicas, ids, lengths)

    def evaluate(self, ids: np.ndarray, lengths: np.ndarray) -> StepResult:
        """Return the loss on documents, without dropout and without learning."""
        return self._on_all_devices(self._evaluate_replicas, ids, lengths)

    def _on_all_devices(self, run: Any, ids: np.ndarray, lengths: np.ndarray) -> StepResult:
        # A step's loss is the mean over the tokens of the whole batch, wherever they are.
        predicted = np.float32((lengths - 1).sum())
        parts = self._split(ids), self._split(lengths)
        return StepResult(run(*parts, tf.constant(predicted)), predicted)

    def _split(self, values: np.ndarray) -> Any:
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1:
            return tf.constant(values)
        # Every n-th row, for a batch may have fewer rows than there are devices.
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group :: replicas])
        )

    @tf.function(reduce_retracing=True)
    def _train_replicas(self, ids, lengths, predicted):
        nats = self._strategy.run(self._train_one, args=(ids, lengths, predicted))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, nats, axis=None)

    @tf.function(reduce_retracing=True)
    def _evaluate_replicas(self, ids, lengths, predicted):
        nats = self._strategy.run(self._nats, args=(ids, lengths, False))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, nats, axis=None)

    def _train_one(self, ids, lengths, predicted):
        with tf.GradientTape() as tape:
            nats = self._nats(ids, lengths, True)
            loss = nats / predicted
        gradients = [
            tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, self._variables)
        ]
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        self.optimizer.apply_gradients(
            zip(gradients, self._variables, strict=True), experimental_aggregate_gradients=False
        )
        return nats

    def _nats(self, ids, lengths, training):
        """Return the summed loss of every token behind the first of each document.

        Padding stands behind the tokens, where a causal model can't see it, so that no
        attention mask is needed.
        """
        logits = self.keras_model(ids, training=training, use_cache=False).logits
        # The labels are shifted and not the logits, whose slice costs a copy each way.
        labels = tf.roll(ids, shift=-1, axis=1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
        real = tf.sequence_mask(lengths - 1, tf.shape(losses)[1], tf.float32)
        return tf.reduce_sum(losses * real)

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of the weights by PyTorch's names."""
        return keras_weights(self.keras_model)

    def variables(self) -> dict[str, tf.Variable]:
        """Return the weights themselves by PyTorch's names; they change with training."""
        return named_variables(self.keras_model)

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Return Adam's moments by the names of their weights."""
        return {
            f"{name}.{slot}": self.optimizer.get_slot(variable, slot).numpy()
            for name, variable in self.variables().items()
            for slot in ("m", "v")
        }

    def restore_optimizer(self, state: dict[str, np.ndarray], step: int) -> None:
        """Take Adam's moments and the number of steps that were done."""
        for name, variable in self.variables().items():
            for slot in ("m", "v"):
                self.optimizer.get_slot(variable, slot).assign(state[f"{name}.{slot}"])
        self.optimizer.iterations.assign(step)
