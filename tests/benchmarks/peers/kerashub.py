"""KerasHub's `GPT2CausalLM.fit` on TensorFlow, in mixed bfloat16: `kerashub.py WORK`."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from work import CLIP_NORM, FOREVER, RISE, WEIGHT_DECAY, Stopwatch, Work


class Watch(keras.callbacks.Callback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        super().__init__()
        self._stopwatch = stopwatch

    def on_train_begin(self, logs=None):
        self._stopwatch.begin()

    def on_train_batch_end(self, batch, logs=None):
        if self._stopwatch.step():
            self.model.stop_training = True
        if self._stopwatch.export_due:
            with self._stopwatch.export() as folder:
                self.model.backbone.export_to_transformers(folder)


def padded(documents: list[list[int]], length: int) -> tf.data.Dataset:
    """Return what GPT2CausalLMPreprocessor makes of documents: inputs, labels, weights."""
    ids = np.zeros((len(documents), length + 1), np.int32)
    real = np.zeros(ids.shape, np.int32)
    for row, document in enumerate(documents):
        document = document[: length + 1]
        ids[row, : len(document)] = document
        real[row, : len(document)] = 1
    x = {"token_ids": ids[:, :-1], "padding_mask": real[:, :-1]}
    return tf.data.Dataset.from_tensor_slices((x, ids[:, 1:], real[:, 1:]))


def main() -> None:
    work = Work.given()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = keras_hub.models.GPT2Backbone.from_preset(work.model)
    model = keras_hub.models.GPT2CausalLM(backbone)
    steps = work.steps or FOREVER
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.1, warmup_target=work.rate, warmup_steps=RISE
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM, epsilon=1e-8
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer)
    stopwatch = Stopwatch(work, work.documents * work.mean_tokens)
    batches = padded(work.ids(), work.length).shuffle(10**6, seed=0).repeat()
    model.fit(
        batches.batch(work.documents).prefetch(2),
        steps_per_epoch=steps,
        callbacks=[Watch(stopwatch)],
        verbose=0,
    )
    stopwatch.print_report()


if __name__ == "__main__":
    main()
