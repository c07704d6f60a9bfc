"""One step of training, compiled, on one device, on several, or on several machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.backend import choose_precision, tf
from gpt2kw.model.folder import EMBEDDING, Model
from gpt2kw.model.frozen import check_weights_may_change
from gpt2kw.model.keras import keras_weights, named_variables, to_keras
from gpt2kw.training.batches import Batch
from gpt2kw.training.network import Network
from gpt2kw.training.optimizer import AdamW, Schedule
from gpt2kw.training.options import FinetuneOptions

_LOSS_SCALE = 2.0**15
_LOSS_SCALE_GROWS_AFTER = 1_000


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


@dataclass(frozen=True)
class StepResult:
    """What a step found, still on the device until it is read."""

    nats: tf.Tensor
    """The summed loss, float32."""
    counted: int
    """The number of tokens in that sum."""
    norm: tf.Tensor | float = 0.0
    """The length of the whole gradient before it was clipped, float32."""

    @property
    def applied(self) -> bool:
        """Whether the weights were changed: not by a loss or gradient that is no number."""
        return bool(np.isfinite(self.norm) and np.isfinite(self.nats))


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
        self._accumulate = options.accumulate
        self._seed = options.seed
        check_weights_may_change()
        dtype = choose_precision(options.precision)
        self._scaled = dtype == tf.float16
        self.loss_scale = _LOSS_SCALE if self._scaled else 1.0
        self._steps_at_scale = 0
        self._before: StepResult | None = None
        with strategy.scope():
            self.keras_model = to_keras(model)
            trained, frozen = _choose_trained(self.variables(), options)
            self._trained = trained
            self._rows = _rows_of_marks(model) if frozen else None
            self.optimizer = AdamW(rate, options.weight_decay, undecayed=frozen)
            self.optimizer._create_all_weights(list(trained.values()))
            self._sums = (
                [_sum_variable(v) for v in trained.values()] if self._accumulate > 1 else []
            )
        self._network = Network(
            self.variables(),
            model.config,
            dtype=dtype,
            dropout=options.dropout,
            recompute=options.recompute,
        )
        batch = [
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.float32),
        ]
        seed, share = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.float32)
        self._train = self._compiled(self._train_all, [*batch, seed, share, share])
        self._add = self._compiled(self._add_all, [*batch, seed, share])
        self._apply = self._compiled(self._apply_all, [share])
        self._evaluate = self._compiled(self._evaluate_all, batch)

    def _compiled(self, function: Any, signature: list[tf.TensorSpec]) -> Any:
        # A signature saves tracing for each shape; values for several devices have none.
        if self._strategy.num_replicas_in_sync == 1:
            return tf.function(function, input_signature=signature)
        return tf.function(function, reduce_retracing=True)

    def train(self, batch: Batch, step: int) -> StepResult:
        """Do the step after `step` others. Dropout is a function of the seed and `step`."""
        self._adapt_loss_scale()
        counted = batch.counted
        # Of documents that were cut before what is learned of them nothing counts.
        share = np.float32(self.loss_scale / (batch.loss_weights.sum() or 1))
        unscale = np.float32(1 / self.loss_scale)
        if self._accumulate == 1:
            nats, norm = self._train(*self._split(batch), self._dropout_seed(step), share, unscale)
        else:
            # Parts one after another need the memory of one.
            nats = 0.0
            for number, part in enumerate(batch.parts(self._accumulate)):
                seed = self._dropout_seed(step, number)
                nats += self._add(*self._split(part), seed, share)
            norm = self._apply(unscale)
        self._before = StepResult(nats, counted, norm)
        return self._before

    def evaluate(self, batch: Batch) -> StepResult:
        """Return the loss on documents, without dropout and without learning."""
        return StepResult(self._evaluate(*self._split(batch)), batch.counted)

    def _adapt_loss_scale(self) -> None:
        """Halve the scale of float16's gradients on overflow, double it after calm.

        Micikevicius et al. 2018, "Mixed Precision Training". Looking at the step before
        the last one keeps the device busy meanwhile.
        """
        if not self._scaled or self._before is None:
            return
        if not self._before.applied:
            self.loss_scale, self._steps_at_scale = self.loss_scale / 2, 0
        elif (steps := self._steps_at_scale + 1) == _LOSS_SCALE_GROWS_AFTER:
            self.loss_scale, self._steps_at_scale = self.loss_scale * 2, 0
        else:
            self._steps_at_scale = steps

    def _dropout_seed(self, step: int, part: int = 0) -> np.int32:
        state = np.random.SeedSequence((self._seed, step, part)).generate_state(1)
        return np.int32(state[0] >> 2)

    def _split(self, batch: Batch) -> list[Any]:
        replicas = self._strategy.num_replicas_in_sync
        arrays = (batch.ids, batch.documents, batch.loss_weights)
        if replicas == 1:
            return [tf.constant(array) for array in arrays]
        # Every n-th row, for a batch may have fewer rows than there are devices.
        return [
            self._strategy.experimental_distribute_values_from_function(
                lambda context, array=array: tf.constant(
                    array[context.replica_id_in_sync_group :: replicas]
                )
            )
            for array in arrays
        ]

    # What is compiled. `share` is the loss scale by the weights of the whole batch.

    def _train_all(self, ids, documents, loss_weights, seed, share, unscale):
        nats, norm = self._strategy.run(
            self._train_one, args=(ids, documents, loss_weights, seed, share, unscale)
        )
        return self._summed(nats), self._first(norm)

    def _add_all(self, ids, documents, loss_weights, seed, share):
        nats = self._strategy.run(self._add_one, args=(ids, documents, loss_weights, seed, share))
        return self._summed(nats)

    def _apply_all(self, unscale):
        return self._first(self._strategy.run(self._apply_one, args=(unscale,)))

    def _evaluate_all(self, ids, documents, loss_weights):
        _, nats = self._strategy.run(self._network.losses, args=(ids, documents, loss_weights))
        return self._summed(nats)

    def _summed(self, values):
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    def _first(self, values):
        return self._strategy.experimental_local_results(values)[0]

    def _train_one(self, ids, documents, loss_weights, seed, share, unscale):
        nats, gradients = self._gradients(ids, documents, loss_weights, seed, share)
        return nats, self._learn(gradients, unscale)

    def _add_one(self, ids, documents, loss_weights, seed, share):
        nats, gradients = self._gradients(ids, documents, loss_weights, seed, share)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        return nats

    def _apply_one(self, unscale):
        gradients = [tf.identity(total) for total in self._sums]
        with tf.control_dependencies(gradients):
            for total in self._sums:
                total.assign(tf.zeros_like(total))
        return self._learn(gradients, unscale)

    def _gradients(self, ids, documents, loss_weights, seed, share):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        variables = list(self._trained.values())
        with tf.GradientTape() as tape:
            seed += tf.cast(replica, tf.int32)
            loss, nats = self._network.losses(ids, documents, loss_weights, seed)
            loss *= share
        return nats, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    def _learn(self, gradients, unscale):
        """Change the weights, unless the gradient is no number, and return its length."""
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self._rows is not None:
            gradients[list(self._trained).index(EMBEDDING)] *= self._rows
        norm = tf.linalg.global_norm(gradients) * unscale
        finite = tf.math.is_finite(norm)
        # One pass for the loss scale, for clipping and for what is no number.
        factor = unscale * self._clip_norm / tf.maximum(norm, self._clip_norm)
        factor = tf.where(finite, factor, 0.0)
        gradients = [tf.math.multiply_no_nan(gradient, factor) for gradient in gradients]
        self.optimizer.apply_if(finite, zip(gradients, self._trained.values(), strict=True))
        return norm

    # What checkpoints hold.

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of the weights by PyTorch's names."""
        return keras_weights(self.keras_model)

    def variables(self) -> dict[str, tf.Variable]:
        """Return the weights themselves by PyTorch's names; they change with training."""
        return named_variables(self.keras_model)

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Return copies of Adam's moments by the names of their weights."""
        return {
            f"{name}.{slot}": self.optimizer.get_slot(variable, slot).numpy()
            for name, variable in self._trained.items()
            for slot in ("m", "v")
        }

    def other_state(self) -> dict[str, float]:
        """Return what else the next step depends on; it waits for the last one."""
        self._adapt_loss_scale()
        self._before = None
        return {"loss_scale": self.loss_scale, "steps_at_scale": self._steps_at_scale}

    def restore(self, moments: dict[str, np.ndarray], other: dict[str, float], step: int) -> None:
        """Take Adam's moments, `other_state`, and the number of steps that were done."""
        for name, variable in self._trained.items():
            for slot in ("m", "v"):
                self.optimizer.get_slot(variable, slot).assign(moments[f"{name}.{slot}"])
        self.optimizer.iterations.assign(step)
        if self._scaled:
            self.loss_scale = other["loss_scale"]
            self._steps_at_scale = int(other["steps_at_scale"])
        self._before = None

    def take_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Take weights by PyTorch's names and shapes."""
        for name, variable in self.variables().items():
            variable.assign(weights[name].reshape(variable.shape))


def _choose_trained(
    variables: dict[str, tf.Variable], options: FinetuneOptions
) -> tuple[dict[str, tf.Variable], Sequence[str]]:
    """Return the variables that learn, and the names of those that learn in part."""
    if options.only_train_attention:
        part = ".attn."
    elif options.only_train_transformer_layers:
        part = ".h."
    else:
        return variables, ()
    names = [name for name in variables if part in name or name == EMBEDDING]
    return {name: variables[name] for name in names}, (variables[EMBEDDING].name,)


def _rows_of_marks(model: Model) -> np.ndarray:
    """Return float32 [vocabulary, 1], 1 for the format's marks, which are new to a GPT-2."""
    rows = np.zeros((len(model.weights[EMBEDDING]), 1), np.float32)
    rows[model.tokenizer.mark_ids] = 1
    return rows


def _sum_variable(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(
        tf.zeros_like(variable),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
