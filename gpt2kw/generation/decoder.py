"""GPT-2's forward pass with a key-value cache, and sampling, in one compiled function.

It reads weights by PyTorch's names, so that a fresh process generates without building
a Keras model, and a training run samples from the variables it is training.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gpt2kw.model.backend import tf

_BUCKET = 16
"""Prompts are padded to a multiple of this many tokens, so that few shapes are traced."""


class Sampling(NamedTuple):
    """How the next token is chosen. `top_k` 0 and `top_p` 1 switch those limits off."""

    temperature: float
    top_k: int
    top_p: float


class Decoder:
    """Continues prompts, many at a time."""

    def __init__(self, weights: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Take arrays or variables by PyTorch's names; variables are read at each call."""
        self._weights = {
            name: weight if isinstance(weight, tf.Variable) else tf.constant(weight)
            for name, weight in weights.items()
        }
        self._layers = config["n_layer"]
        self._heads = config["n_head"]
        self._epsilon = config.get("layer_norm_epsilon", 1e-5)
        self._end = config["eos_token_id"]
        self.vocabulary_size: int = config["vocab_size"]
        """The rows of the embedding, which may be more than the tokenizer has tokens."""

    def generate(
        self,
        prompts: list[list[int]],
        *,
        max_tokens: int,
        sampling: Sampling,
        stops: list[int],
        allowed: np.ndarray,
        uniforms: np.ndarray,
    ) -> list[list[int]]:
        """Return the tokens that follow each prompt, with the stop token if one came.

        Args:
            prompts: token ids, of any lengths of 1 or more.
            max_tokens: the most tokens to add to each.
            sampling: how to choose.
            stops: ids that end a text.
            allowed: bool [vocabulary], the ids that may be chosen.
            uniforms: float32 [prompts, max_tokens] in [0, 1), the random numbers. A
                text depends on its own row and prompt, not on its neighbours.
        """
        longest = max(map(len, prompts))
        width = -(-longest // _BUCKET) * _BUCKET
        ids = np.full((len(prompts), width), self._end, np.int32)
        padding = np.array([width - len(prompt) for prompt in prompts], np.int32)
        for row, prompt in enumerate(prompts):
            ids[row, padding[row] :] = prompt
        tokens, lengths = self._run(
            tf.constant(ids),
            tf.constant(padding),
            tf.constant(uniforms[:, :max_tokens], tf.float32),
            tf.constant(stops, tf.int32),
            tf.constant(np.where(allowed, 0.0, -np.inf), tf.float32),
            tf.constant(sampling.temperature, tf.float32),
            tf.constant(min(sampling.top_k or len(allowed), len(allowed)), tf.int32),
            tf.constant(sampling.top_p, tf.float32),
        )
        rows = zip(tokens.numpy(), lengths.numpy(), strict=True)
        return [row[:length].tolist() for row, length in rows]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.float32),
        ]
    )
    def _run(self, ids, padding, uniforms, stops, bias, temperature, top_k, top_p):
        """Fill the cache from the prompts, then add a token a step until all have stopped.

        Returns tokens, int32 [batch, steps], and lengths, int32 [batch].
        """
        batch, width = tf.unstack(tf.shape(ids))
        steps = tf.shape(uniforms)[1]
        total = width + steps
        logits, cache = self._read_prompts(ids, padding, total)
        tokens = tf.fill([batch, steps], self._end)
        lengths = tf.zeros([batch], tf.int32)
        running = tf.ones([batch], tf.bool)
        rows = tf.range(batch)

        def goes_on(step, logits, cache, tokens, lengths, running):
            return (step < steps) & tf.reduce_any(running)

        def add_token(step, logits, cache, tokens, lengths, running):
            chosen = _sample(logits + bias, uniforms[:, step], temperature, top_k, top_p)
            places = tf.stack([rows, tf.fill([batch], step)], axis=1)
            tokens = tf.tensor_scatter_nd_update(tokens, places, chosen)
            lengths += tf.cast(running, tf.int32)
            running &= tf.reduce_all(chosen[:, None] != stops, axis=1)
            logits, cache = self._read_token(chosen, width + step, padding, cache, total)
            return step + 1, logits, cache, tokens, lengths, running

        *_, tokens, lengths, _ = tf.while_loop(
            goes_on,
            add_token,
            (tf.constant(0), logits, cache, tokens, lengths, running),
        )
        return tokens, lengths

    def _read_prompts(self, ids, padding, total):
        """Return the last position's logits [batch, vocabulary] and the cache.

        The cache has for each layer keys and values, [batch * heads * total, size of a
        head] each: flat, so that a step's scatter is done in place.
        """
        width = tf.shape(ids)[1]
        columns = tf.range(width)
        positions = tf.maximum(columns[None] - padding[:, None], 0)
        hidden = tf.gather(self._weights["transformer.wte.weight"], ids)
        hidden += tf.gather(self._weights["transformer.wpe.weight"], positions)
        seen = (columns[None, :] <= columns[:, None])[None] & (columns >= padding[:, None])[:, None]
        # A padding row sees itself, for a row that sees nothing has no softmax.
        seen |= tf.eye(width, dtype=tf.bool)[None]
        cache = []
        for layer in range(self._layers):
            query, key, value = self._attention_inputs(layer, hidden)
            hidden = self._block(layer, hidden, _attend(query, key, value, seen[:, None]))
            for part in (key, value):
                padded = tf.pad(part, [[0, 0], [0, 0], [0, total - width], [0, 0]])
                cache.append(tf.reshape(padded, [-1, part.shape[-1]]))
        return self._logits(hidden[:, -1]), tuple(cache)

    def _read_token(self, tokens, column, padding, cache, total):
        """Return the logits behind one more token of each row, and the cache with it."""
        batch = tf.shape(tokens)[0]
        hidden = tf.gather(self._weights["transformer.wte.weight"], tokens)
        hidden += tf.gather(self._weights["transformer.wpe.weight"], column - padding)
        hidden = hidden[:, None]
        columns = tf.range(total)
        seen = (columns >= padding[:, None]) & (columns <= column)
        places = (tf.range(batch * self._heads) * total + column)[:, None]
        new_cache = []
        for layer in range(self._layers):
            query, *fresh = self._attention_inputs(layer, hidden)
            whole = []
            for old, new in zip(cache[2 * layer : 2 * layer + 2], fresh, strict=True):
                size = new.shape[-1]
                flat = tf.tensor_scatter_nd_update(old, places, tf.reshape(new, [-1, size]))
                new_cache.append(flat)
                whole.append(tf.reshape(flat, [batch, self._heads, total, size]))
            hidden = self._block(layer, hidden, _attend(query, *whole, seen[:, None, None]))
        return self._logits(hidden[:, 0]), tuple(new_cache)

    def _attention_inputs(self, layer, hidden):
        """Return query, key and value, [batch, heads, length, size of a head] each."""
        hidden = self._norm(f"h.{layer}.ln_1", hidden)
        parts = tf.split(self._linear(f"h.{layer}.attn.c_attn", hidden), 3, axis=-1)
        size = hidden.shape[-1] // self._heads
        shape = [tf.shape(hidden)[0], tf.shape(hidden)[1], self._heads, size]
        return [tf.transpose(tf.reshape(part, shape), [0, 2, 1, 3]) for part in parts]

    def _block(self, layer, hidden, attended):
        """The rest of a layer, behind its attention."""
        joined = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), tf.shape(hidden))
        hidden += self._linear(f"h.{layer}.attn.c_proj", joined)
        inner = self._linear(f"h.{layer}.mlp.c_fc", self._norm(f"h.{layer}.ln_2", hidden))
        return hidden + self._linear(f"h.{layer}.mlp.c_proj", _gelu(inner))

    def _logits(self, hidden):
        hidden = self._norm("ln_f", hidden)
        return tf.matmul(hidden, self._weights["transformer.wte.weight"], transpose_b=True)

    def _linear(self, name, hidden):
        weight = self._weights[f"transformer.{name}.weight"]
        bias = tf.reshape(self._weights[f"transformer.{name}.bias"], [-1])
        flat = tf.matmul(tf.reshape(hidden, [-1, weight.shape[0]]), weight) + bias
        return tf.reshape(flat, tf.concat([tf.shape(hidden)[:-1], [weight.shape[1]]], axis=0))

    def _norm(self, name, hidden):
        mean, variance = tf.nn.moments(hidden, axes=[-1], keepdims=True)
        scale = self._weights[f"transformer.{name}.weight"]
        offset = self._weights[f"transformer.{name}.bias"]
        return (hidden - mean) * tf.math.rsqrt(variance + self._epsilon) * scale + offset


def _attend(query, key, value, seen):
    """Return attention's output, [batch, heads, queries, size of a head]."""
    scores = tf.matmul(query, key, transpose_b=True) / math.sqrt(query.shape[-1])
    return tf.matmul(tf.nn.softmax(tf.where(seen, scores, -1e9)), value)


def _gelu(inner):
    """GPT-2's approximation of GELU (Hendrycks and Gimpel 2016)."""
    return tf.nn.gelu(inner, approximate=True)


def _sample(logits, uniforms, temperature, top_k, top_p):
    """Choose a token per row by inverting the cumulative distribution, int32 [batch].

    Keeps the `top_k` likeliest tokens (Fan et al. 2018), and of these the fewest that
    reach a probability of `top_p` (Holtzman et al. 2020).
    """
    values, ids = tf.math.top_k(logits / temperature, k=top_k)
    probabilities = tf.nn.softmax(values)
    cumulative = tf.cumsum(probabilities, axis=1)
    kept = (cumulative - probabilities < top_p) & (probabilities > 0)
    # The likeliest always stays, also where top_p is 0.
    kept |= tf.range(top_k)[None] == 0
    cumulative = tf.cumsum(tf.where(kept, probabilities, 0.0), axis=1)
    below = cumulative <= uniforms[:, None] * cumulative[:, -1:]
    last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1) - 1
    place = tf.minimum(tf.reduce_sum(tf.cast(below, tf.int32), axis=1), last)
    return tf.gather(ids, place, batch_dims=1)
