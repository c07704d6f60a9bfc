"""A GPT-2's weights in the types and parts in which texts are written with them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gpt2kw.model.backend import tf
from gpt2kw.model.cores import deal
from gpt2kw.model.folder import EMBEDDING

_POSITIONS = "transformer.wpe.weight"
_LONGEST_SUM = 768
"""Longer inner products are done in parts, since libraries split them in ways of their own
for some numbers of rows."""


class Block(NamedTuple):
    """A layer's weights in parts, each with a bias."""

    joint: Any
    out: Any
    wide: Any
    narrow: Any


class Prepared(NamedTuple):
    """All weights; those of products in the reduced precision."""

    tokens: Any
    positions: Any
    blocks: list[Block]
    final_norm: Any
    output: Any
    """The embedding less `mean`."""
    zeros: Any
    """As many as tokens: the output's bias."""
    mean: Any


def prepare(weights: Mapping[str, Any], config: Mapping[str, Any], dtype: tf.DType) -> Prepared:
    """Return weights by PyTorch's names as they are used.

    What a layer adds has a mean of 0 (no norm sees more of it), and what scales and
    shifts a norm's result stands in the weights behind it: so a step has fewer operations.
    """
    get = {name: tf.convert_to_tensor(weight) for name, weight in weights.items()}.get
    width = config["n_embd"]

    def pair(name):
        weight, bias = get(f"transformer.{name}.weight"), get(f"transformer.{name}.bias")
        return weight, tf.reshape(bias, [-1])

    def behind_norm(norm, name):
        (gain, shift), (weight, bias) = pair(norm), pair(name)
        return gain[:, None] * weight, bias + tf.linalg.matvec(weight, shift, transpose_a=True)

    def centred_pair(name):
        return (centred(part) for part in pair(name))

    def in_parts(weight, bias):
        count = -(-weight.shape[0] // _LONGEST_SUM)
        sizes = [len(part) for part in deal(range(weight.shape[0]), count)]
        parts = tf.split(tf.cast(weight, dtype), sizes)
        bias = tf.cast(bias, dtype)
        # Each part has a bias, for products without one are not kept ready.
        return list(zip(parts, [bias] + [tf.zeros_like(bias)] * (count - 1), strict=True))

    # Of the joint queries, keys and values, the first.
    scale = np.ones(3 * width, np.float32)
    scale[:width] /= math.sqrt(width // config["n_head"])
    blocks = []
    for h in (f"h.{layer}" for layer in range(config["n_layer"])):
        joint, bias = behind_norm(f"{h}.ln_1", f"{h}.attn.c_attn")
        blocks.append(
            Block(
                in_parts(joint * scale, bias * scale),
                in_parts(*centred_pair(f"{h}.attn.c_proj")),
                in_parts(*behind_norm(f"{h}.ln_2", f"{h}.mlp.c_fc")),
                in_parts(*centred_pair(f"{h}.mlp.c_proj")),
            )
        )
    tokens = get(EMBEDDING)
    # Logits have a large part in common, which leaves bfloat16 few digits for the rest.
    mean = tf.reduce_mean(tokens, axis=0)
    output = tf.cast(tokens - mean, dtype)
    zeros = tf.zeros(len(output), dtype)
    return Prepared(tokens, get(_POSITIONS), blocks, pair("ln_f"), output, zeros, mean)


def centred(x: tf.Tensor) -> tf.Tensor:
    """Take the mean off what is along the last axis."""
    return x - tf.reduce_mean(x, axis=-1, keepdims=True)
