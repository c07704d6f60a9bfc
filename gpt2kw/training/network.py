"""GPT-2 as it is trained: the arithmetic of TFGPT2LMHeadModel on that model's weights.

The same loss and gradients as transformers' layers give (tested), in fewer passes over
memory: activations between matrix products are float32 in one array a layer, products
run in the reduced precision, and what lies between two products is compiled into one
loop each way. Dropout draws from a seed that is given, so that a step can be done again.
"""

import math
from typing import Any

import numpy as np

from gpt2kw.model.backend import tf
from gpt2kw.model.folder import EMBEDDING

_POSITIONS = "transformer.wpe.weight"
_FINAL_NORM = ("transformer.ln_f.weight", "transformer.ln_f.bias")
_BLOCK = (
    *("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias"),
    *("attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias"),
    *("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)
_HIDDEN = -1e9
"""Added to attention scores of what a token may not see, whose softmax is then exactly 0."""

# XLA makes one loop of each chain of element-wise operations. On CPUs that takes about
# a tenth off a step (see tests/benchmarks); on GPUs it was not measured.
_fused = (
    (lambda function: function)
    if tf.config.list_physical_devices("GPU")
    else tf.function(jit_compile=True)
)


class Network:
    """The forward pass, and through a `tf.GradientTape` the backward pass."""

    def __init__(
        self,
        weights: dict[str, tf.Variable],
        config: dict[str, Any],
        *,
        dtype: tf.DType,
        dropout: float,
        recompute: bool,
    ) -> None:
        """Take variables by PyTorch's names, and a GPT-2's configuration.

        Matrix products are done in `dtype`. With `recompute` the activations of a block
        are not kept but computed again on the way back (Chen et al. 2016, "Training Deep
        Nets with Sublinear Memory Cost"): less memory, a third more time.
        """
        self._weights = weights
        self._layers = config["n_layer"]
        self._heads = config["n_head"]
        self._epsilon = config.get("layer_norm_epsilon", 1e-5)
        self._dtype = dtype
        self._dropout = dropout
        self._recompute = recompute

    def losses(self, ids, documents, loss_weights, seed=None):
        """Return the loss of tokens from their predecessors, summed in two ways.

        The first is weighted, and has a gradient; the second is that of the tokens that
        count, in nats. Both are float32 scalars.

        Documents that share a row are computed as if each stood alone in one, with
        positions from 0 (Krell et al. 2021, "Efficient Sequence Packing without
        Cross-contamination").

        Args:
            ids: int32 [rows, length].
            documents: int32 [rows, length]: the number, in its row, of the document that
                a token belongs to, 0 for padding. A document's tokens stand side by side.
            loss_weights: float32 [rows, length]: the weight of each token's loss, 0 if it
                does not count, as that of a document's first must not.
            seed: int32 scalar for dropout, or None for none.
        """
        hidden, labels, weights = self._prepared(ids, documents, loss_weights, seed)
        embedding = tf.convert_to_tensor(self._weights[EMBEDDING])
        return _summed_losses(hidden, embedding, labels, weights)

    def nats_of_rows(self, ids, documents, loss_weights):
        """Return the weighted loss of each row, float32 [rows], without dropout.

        Takes what `losses` takes. It has no gradient.
        """
        hidden, labels, weights = self._prepared(ids, documents, loss_weights, None)
        embedding = tf.cast(self._weights[EMBEDDING], hidden.dtype)
        nats, _ = _cross_entropy(tf.matmul(hidden, embedding, transpose_b=True), labels, weights)
        return tf.reduce_sum(tf.reshape(nats * weights, tf.shape(ids)), axis=1)

    def _prepared(self, ids, documents, loss_weights, seed):
        """Return the last hidden states, the tokens that follow, and the weights of these."""
        # Labels are shifted and not the hidden states, whose slice costs a copy each way.
        # What comes round to a row's end is a document's first, which never counts.
        labels = tf.reshape(tf.roll(ids, shift=-1, axis=1), [-1])
        weights = tf.reshape(tf.roll(loss_weights, shift=-1, axis=1), [-1])
        return self.last_states(ids, documents, seed), labels, weights

    def last_states(self, ids, documents, seed=None):
        """Return the last hidden states, [rows * length, width] in the reduced precision.

        Takes what `losses` takes.
        """
        place = tf.range(tf.shape(ids)[1])
        visible = documents[:, :, None] == documents[:, None, :]
        visible &= place[:, None] >= place[None, :]
        positions = tf.reduce_sum(tf.cast(visible, tf.int32), axis=2) - 1
        # There may be more padding than the model has positions.
        positions *= tf.cast(documents > 0, tf.int32)
        mask = tf.where(visible, 0.0, _HIDDEN)[:, None]
        embedded = tf.gather(self._weights[EMBEDDING], ids)
        embedded += tf.gather(self._weights[_POSITIONS], positions)
        width = embedded.shape[-1]
        x = self._drop(tf.reshape(embedded, [-1, width]), seed, 0)
        for layer in range(self._layers):
            names = (f"transformer.h.{layer}.{name}" for name in _BLOCK)
            weights = [tf.convert_to_tensor(self._weights[name]) for name in names]
            site = 3 * layer + 1

            def block(x, *weights, site=site):
                return self._block(x, mask, seed, site, *weights)

            x = (tf.recompute_grad(block) if self._recompute else block)(x, *weights)
        gain, bias = (tf.convert_to_tensor(self._weights[name]) for name in _FINAL_NORM)
        return self._norm(x, gain, bias)

    def _block(self, x, mask, seed, site, *weights):
        """Return float32 [rows * length, width] after one layer.

        `site` numbers the layer's three dropouts, so that each draws its own mask.
        """
        norm_1, joint, out, norm_2, wide, narrow = zip(weights[::2], weights[1::2], strict=True)
        queries = self._linear(self._norm(x, *norm_1), *joint)
        mixed = self._attend(queries, mask, seed, site)
        x = self._add(x, self._linear(mixed, *out), seed, site + 1)
        inner = _gelu(self._linear(self._norm(x, *norm_2), *wide))
        return self._add(x, self._linear(inner, *narrow), seed, site + 2)

    def _attend(self, joint, mask, seed, site):
        width = joint.shape[-1] // 3
        size = width // self._heads
        rows, length = tf.shape(mask)[0], tf.shape(mask)[2]
        joint = tf.reshape(joint, [rows, length, 3, self._heads, size])
        query, key, value = tf.unstack(tf.transpose(joint, [2, 0, 3, 1, 4]))
        scores = tf.matmul(query, key, transpose_b=True)
        kept, factor = self._kept(tf.shape(scores), seed, site)
        shares = _attention_shares(scores, mask, kept, 1 / math.sqrt(size), factor)
        mixed = tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3])
        return tf.reshape(mixed, [-1, width])

    def _linear(self, x, weight, bias):
        product = tf.matmul(x, tf.cast(weight, self._dtype))
        return product + tf.cast(bias, self._dtype)

    def _norm(self, x, gain, bias):
        return _layer_norm(x, gain, bias, self._epsilon, self._dtype)

    def _add(self, x, change, seed, site):
        """Return float32 `x` plus a change in the reduced precision after dropout."""
        return _add_kept(x, change, *self._kept(tf.shape(x), seed, site))

    def _drop(self, x, seed, site):
        """Zero a share of float32 `x` at random and scale the rest up; none without a seed."""
        kept, factor = self._kept(tf.shape(x), seed, site)
        return x * (tf.cast(kept, x.dtype) * factor)

    def _kept(self, shape, seed, site):
        """Return what dropout keeps, bool of `shape`, and the factor by which that grows.

        Without a seed that is all, in one scalar, by 1.
        """
        # A random byte for each value: a quarter of the random numbers that floats take.
        threshold = round(self._dropout * 256)
        if seed is None or not threshold:
            return tf.constant(True), 1.0
        size = tf.reduce_prod(shape)
        words = tf.random.stateless_uniform(
            [(size + 7) // 8], tf.stack([seed, site]), None, None, tf.uint64
        )
        bytes_ = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size]
        return tf.reshape(bytes_ >= np.uint8(threshold), shape), 256 / (256 - threshold)


# Between the products: each function with the gradient written out, computed in float32.


@tf.custom_gradient
def _gelu(x):
    """The tanh form of GELU (Hendrycks and Gimpel 2016), in and out in the type of `x`."""
    return _gelu_value(x), lambda upstream: _gelu_gradient(x, upstream)


_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


@_fused
def _gelu_value(x):
    y = tf.cast(x, tf.float32)
    inner = tf.tanh(_GELU_SCALE * (y + _GELU_CUBIC * y * y * y))
    return tf.cast(0.5 * y * (1 + inner), x.dtype)


@_fused
def _gelu_gradient(x, upstream):
    y = tf.cast(x, tf.float32)
    inner = tf.tanh(_GELU_SCALE * (y + _GELU_CUBIC * y * y * y))
    slope = _GELU_SCALE * (1 + 3 * _GELU_CUBIC * y * y)
    gradient = 0.5 * (1 + inner) + 0.5 * y * (1 - inner * inner) * slope
    return tf.cast(tf.cast(upstream, tf.float32) * gradient, x.dtype)


def _add_kept(x, change, kept, factor):
    """Return float32 `x` plus what is kept of a change, times a factor."""

    @tf.custom_gradient
    def add(x, change, kept):
        def gradient(upstream):
            return upstream, _add_gradient(upstream, kept, factor, change.dtype), None

        return _add_value(x, change, kept, factor), gradient

    return add(x, change, kept)


@_fused
def _add_value(x, change, kept, factor):
    return x + tf.cast(change, tf.float32) * (tf.cast(kept, tf.float32) * factor)


@_fused
def _add_gradient(upstream, kept, factor, dtype):
    return tf.cast(upstream * (tf.cast(kept, tf.float32) * factor), dtype)


def _attention_shares(scores, mask, kept, scale, factor):
    """Return the softmax of scores, after scale and mask, with dropout, in the scores' type."""

    @tf.custom_gradient
    def share(scores, mask, kept):
        shares, dropped = _shares_value(scores, mask, kept, scale, factor)

        def gradient(upstream):
            return _shares_gradient(shares, kept, upstream, scale, factor), None, None

        return dropped, gradient

    return share(scores, mask, kept)


@_fused
def _shares_value(scores, mask, kept, scale, factor):
    shares = tf.nn.softmax(tf.cast(scores, tf.float32) * scale + mask)
    dropped = shares * (tf.cast(kept, tf.float32) * factor)
    return tf.cast(shares, scores.dtype), tf.cast(dropped, scores.dtype)


@_fused
def _shares_gradient(shares, kept, upstream, scale, factor):
    y = tf.cast(shares, tf.float32)
    inner = y * tf.cast(upstream, tf.float32) * (tf.cast(kept, tf.float32) * factor)
    gradient = inner - y * tf.reduce_sum(inner, axis=-1, keepdims=True)
    return tf.cast(gradient * scale, upstream.dtype)


def _layer_norm(x, gain, bias, epsilon, dtype):
    """Layer normalisation (Ba et al. 2016) of float32 [rows, width], given as `dtype`."""

    @tf.custom_gradient
    def normalise(x, gain, bias):
        y, mean, scale = _norm_value(x, gain, bias, epsilon, dtype)

        def gradient(upstream):
            for_x, for_gain = _norm_gradient(x, mean, scale, gain, upstream)
            for_bias = tf.reduce_sum(tf.cast(upstream, tf.float32), axis=0)
            return for_x, tf.reduce_sum(for_gain, axis=0), for_bias

        return y, gradient

    return normalise(x, gain, bias)


@_fused
def _norm_value(x, gain, bias, epsilon, dtype):
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    centred = x - mean
    scale = tf.math.rsqrt(tf.reduce_mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    return tf.cast(centred * scale * gain + bias, dtype), mean, scale


@_fused
def _norm_gradient(x, mean, scale, gain, upstream):
    upstream = tf.cast(upstream, tf.float32)
    normal = (x - mean) * scale
    inner = upstream * gain
    along = tf.reduce_mean(inner * normal, axis=-1, keepdims=True)
    for_x = scale * (inner - tf.reduce_mean(inner, axis=-1, keepdims=True) - normal * along)
    return for_x, upstream * normal


@tf.custom_gradient
def _summed_losses(hidden, embedding, labels, weights):
    """Return the cross entropy summed with `weights`, and in nats where these are not 0.

    Only the first has a gradient. That of the logits is made together with them, so that
    the widest array of all, [rows, vocabulary], is kept once and in the reduced precision.
    """
    reduced = tf.cast(embedding, hidden.dtype)
    logits = tf.matmul(hidden, reduced, transpose_b=True)
    nats, for_logits = _cross_entropy(logits, labels, weights)

    def gradient(upstream, _):
        # Scaled behind the products, where float16 can't underflow.
        for_hidden = tf.cast(tf.matmul(for_logits, reduced), tf.float32) * upstream
        for_embedding = tf.matmul(for_logits, hidden, transpose_a=True)
        for_embedding = tf.cast(for_embedding, tf.float32) * upstream
        return tf.cast(for_hidden, hidden.dtype), for_embedding, None, None

    sums = tf.reduce_sum(nats * weights), tf.reduce_sum(tf.where(weights > 0, nats, 0.0))
    return sums, gradient


@_fused
def _cross_entropy(logits, labels, weights):
    """Return each row's nats, and the gradient of their weighted sum."""
    scores = tf.cast(logits, tf.float32)
    highest = tf.reduce_max(scores, axis=1, keepdims=True)
    powers = tf.exp(scores - highest)
    total = tf.reduce_sum(powers, axis=1, keepdims=True)
    wanted = tf.cast(tf.range(tf.shape(logits)[1])[None] == labels[:, None], tf.float32)
    nats = tf.squeeze(tf.math.log(total) + highest, 1) - tf.reduce_sum(scores * wanted, axis=1)
    gradient = (powers / total - wanted) * weights[:, None]
    return nats, tf.cast(gradient, logits.dtype)
