"""One training step: gpt2kw's arithmetic, without XLA, and transformers' own layers.

    python tests/benchmarks/step.py [--model mini|gpt2] [--rounds 3]

Each way is a process that does 20 steps with the same optimizer on documents of 25 tokens,
32 at a time, in bfloat16 where the hardware has it; they run in turn. gpt2kw has 4 documents
in each row, transformers' layers one. Prints milliseconds of a step, the median of the
rounds' medians.
"""

import argparse
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2kw.model.folder import Model

WAYS = ("gpt2kw", "gpt2kw without XLA", "transformers' layers")
SHAPES = {
    "mini": {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_positions": 256},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024},
}
ROWS = {"mini": 8192, "gpt2": 50_304}
DOCUMENTS, LENGTH = 32, 25


def random_model(name: str, titles: list[str]) -> "Model":
    """Make a model with random weights and all its rows; its tokenizer is learnt from titles."""
    import numpy as np

    from gpt2kw.model.folder import EMBEDDING, new_model
    from gpt2kw.text.format import Record

    shape, rows = SHAPES[name], ROWS[name]
    model = new_model([Record(title=title) for title in titles], rows, 0, **shape)
    embedding = np.random.default_rng(0).normal(0, 0.02, (rows, shape["n_embd"]))
    model.weights[EMBEDDING] = embedding.astype(np.float32)
    model.config["vocab_size"] = rows
    return model


def measure(way: str, name: str) -> float:
    from gpt2kw.model.backend import tf

    if way == "gpt2kw without XLA":
        tf.function, compiled = _without_xla(tf.function), tf.function
    import numpy as np

    from gpt2kw.training import network

    if way == "gpt2kw without XLA":
        tf.function = compiled
    from gpt2kw.model.backend import choose_precision
    from gpt2kw.training.batches import Batch
    from gpt2kw.training.optimizer import learning_rate
    from gpt2kw.training.options import FinetuneOptions
    from gpt2kw.training.step import TrainStep

    rng = np.random.default_rng(0)
    model = random_model(name, ["a title"])
    options = FinetuneOptions(text="none", model=name)
    if way == "transformers' layers":
        _use_transformers_layers(network.Network, choose_precision(options.precision))
    step = TrainStep(model, options, learning_rate(options), tf.distribute.get_strategy())
    ids = rng.integers(0, ROWS[name], (DOCUMENTS, LENGTH)).astype(np.int32)
    documents = np.arange(1, DOCUMENTS + 1, dtype=np.int32).repeat(LENGTH).reshape(ids.shape)
    loss_weights = np.ones(ids.shape, np.float32)
    loss_weights[:, 0] = 0
    rows = DOCUMENTS if way == "transformers' layers" else DOCUMENTS // 4
    batch = Batch(*(array.reshape(rows, -1) for array in (ids, documents, loss_weights)))
    times = []
    for number in range(23):
        start = time.perf_counter()
        float(step.train(batch, number).nats)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[3:])


def _without_xla(function):
    def plain(*arguments, jit_compile=None, **settings):
        # The functions that are compiled by themselves are part of the whole without it.
        return function(*arguments, **settings) if arguments else lambda inner: inner

    return plain


def _use_transformers_layers(network, dtype) -> None:
    """Let `network` compute the loss as TFGPT2LMHeadModel and Keras do, dropout included."""
    from gpt2kw.model import keras
    from gpt2kw.model.backend import tf
    from gpt2kw.training import step as steps

    import tf_keras  # isort: skip  (after the backend)

    policy = "mixed_bfloat16" if dtype == tf.bfloat16 else "float32"
    made = []

    def to_keras(model):
        tf_keras.mixed_precision.set_global_policy(policy)
        made.append(keras.to_keras(model))
        return made[-1]

    def losses_of(self, ids, documents, loss_weights, seed=None):
        logits = made[-1](ids, training=seed is not None, use_cache=False).logits
        labels = tf.roll(ids, shift=-1, axis=1)
        logits = tf.cast(logits, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        nats = tf.reduce_sum(losses * tf.roll(loss_weights, -1, axis=1))
        return nats, nats

    steps.to_keras = to_keras
    network.losses = losses_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=sorted(SHAPES), default="mini")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way")
    options = parser.parse_args()
    if options.way:
        print(measure(options.way, options.model))
        return
    found = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--model", options.model, "--way", way]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[way].append(float(result.stdout.splitlines()[-1]))
    print(f"{options.model}, {DOCUMENTS} documents of {LENGTH} tokens\n")
    print("| way | ms a step | gpt2kw is so many times as fast |\n| --- | ---: | ---: |")
    for way, times in found.items():
        ratios = [other / own for other, own in zip(times, found[WAYS[0]], strict=True)]
        print(f"| {way} | {statistics.median(times):.0f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
