"""GPT-2's forward pass with a key-value cache, and the loop that adds a token a step.

It reads weights by PyTorch's names, so that a fresh process generates without building
a Keras model, and a training run samples from the variables that it is training. A row
of a batch gets the same numbers, bit for bit, whatever stands in the other rows.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

import numpy as np

from gpt2kw.generation.prepared import Prepared, centred, prepare
from gpt2kw.model.backend import (
    keep_operations_on_one_core,
    operations_stay_on_one_core,
    tf,
)
from gpt2kw.model.cores import Item
from gpt2kw.model.frozen import cores_for_writing, keep_ready

_WIDTH = 8
"""Prompts are padded to a multiple of this many tokens."""
_GROWTH = 32
"""Columns by which the cache grows."""
_LEAST_COLUMNS = 64
"""From here on the sums over a row's columns do not depend on how many are masked."""
_LEAST_ROWS = 2
_LEAST_ROWS_OF_LOGITS = 16
"""Products of fewer rows have kernels of their own."""
_SMALL = 64 << 20
"""Bytes of weights up to which each core does rows of its own. One core alone reads larger
ones more slowly than several that share each product."""
_LEAST_SHARE = 4
"""Rows that are worth a core of their own."""


class Search(Protocol):
    """Chooses tokens. Its rows are texts in the making."""

    prompt_rows: Sequence[int]
    """For each row at the start, the number of its prompt."""
    reorders: bool
    """Whether a row may go on from another one's past at any step; else only at `compact`."""

    def choose(self, logits: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Take float32 [rows, vocabulary] and its logarithms of summed powers, [rows].

        Returns the next token of each row and the row whose past it goes on from, both
        int32 [rows], and false if it wants to `compact` before it is asked again.
        """

    def compact(self) -> np.ndarray:
        """Forget the rows that have ended; say which past each other row goes on from.

        Returns the rows of these pasts, int32; usually the places of the rows themselves.
        """

    def sequence(self, row: int) -> tuple[list[int], list[int]]:
        """Return a row's prompt and its tokens, for what the model can't see at once."""


class CachedNetwork:
    """A GPT-2 that is asked by a `Search`."""

    def __init__(
        self, weights: Mapping[str, Any], config: Mapping[str, Any], dtype: tf.DType
    ) -> None:
        """Take arrays or variables by PyTorch's names; variables are read at each call.

        Matrix products are done in `dtype`.
        """
        self._weights = weights
        self._config = config
        self._heads = config["n_head"]
        self._width = config["n_embd"]
        self._size = self._width // self._heads
        self._epsilon = config.get("layer_norm_epsilon", 1e-5)
        self._context = config["n_positions"]
        self._dtype = dtype
        self._numbers = itertools.count()
        self._decodings: dict[int, _Decoding] = {}
        """Those that are going on, by their numbers."""
        changing = any(isinstance(weight, tf.Variable) for weight in weights.values())
        self._cores = 1
        if not changing:
            keep_ready(dtype.name)
            size = dtype.size * sum(math.prod(weight.shape) for weight in weights.values())
            if size <= _SMALL and cores_for_writing() > 1:
                keep_operations_on_one_core()
            self._cores = cores_for_writing() if operations_stay_on_one_core() else 1
        self._ready = None if changing else self._prepare()
        number = tf.TensorSpec([], tf.int32)
        numbers = tf.TensorSpec([None], tf.int32)
        cache = [tf.TensorSpec([None, self._size], dtype)] * (2 * config["n_layer"])
        self._read = tf.function(
            self._read_prompts,
            input_signature=[tf.TensorSpec([None, None], tf.int32), numbers, number],
        )
        self._add = {
            reorders: tf.function(
                lambda *inputs, reorders=reorders: self._add_tokens(reorders, *inputs),
                input_signature=[number, numbers, numbers, numbers, number, number, *cache],
            )
            for reorders in (False, True)
        }

    @property
    def precision(self) -> str:
        """How matrix products are done."""
        return self._dtype.name

    def shares(self, groups: Sequence[Sequence[Item]]) -> list[list[Sequence[Item]]]:
        """Deal out groups of rows to be decoded: a share for each core that is to have its own."""
        rows = sum(map(len, groups))
        count = max(1, min(self._cores, rows // _LEAST_SHARE))
        starts = itertools.accumulate(map(len, groups), initial=0)
        shares: list[list[Sequence[Item]]] = [[] for _ in range(count)]
        for start, group in zip(starts, groups, strict=False):
            shares[start * count // rows].append(group)
        return [share for share in shares if share]

    def decode(self, prompts: Sequence[list[int]], *searches: Search) -> None:
        """Ask each search for tokens until all its rows have ended, all at the same time.

        Rows that have ended are dropped now and then. A text that is longer than what the
        model sees goes on behind half its prompt at most and its own last part.

        Args:
            prompts: token ids, 1 to the model's context of them in each.
            searches: what chooses, and keeps what was chosen; see `shares`.
        """
        decodings = [_Decoding(self, prompts, search) for search in searches]
        if len(decodings) == 1:
            decodings[0].run()
            return
        with ThreadPoolExecutor(len(decodings)) as pool:
            try:
                for done in as_completed([pool.submit(each.run) for each in decodings]):
                    done.result()
            except BaseException:
                # The others would go on to their ends.
                for decoding in decodings:
                    decoding.stop()
                raise

    @contextlib.contextmanager
    def _numbered(self, decoding: "_Decoding") -> Iterator[np.int32]:
        """Give a decoding a number.

        What is compiled, once for all of them, asks the one whose number it was called with.
        """
        number = np.int32(next(self._numbers))
        self._decodings[int(number)] = decoding
        try:
            yield number
        finally:
            del self._decodings[int(number)]

    def _columns_for(self, columns: np.ndarray) -> np.int32:
        wanted = -(-(columns.max() + 1) // _GROWTH) * _GROWTH
        return np.int32(min(max(wanted, _LEAST_COLUMNS), self._context))

    # What is compiled. A cache holds for each layer keys and values, each [rows * heads *
    # columns, size of a head]: flat, so that a token's are written in place.

    def _read_prompts(self, ids, lengths, total):
        """Return what `_logits` does behind prompts, and the cache."""
        weights = self._ready or self._prepare()
        count, width = tf.unstack(tf.shape(ids))
        x = tf.gather(weights.tokens, ids) + weights.positions[:width]
        x = centred(tf.reshape(x, [-1, self._width]))
        # Over all columns, for sums over few are added up in ways of their own.
        hidden = _hidden(tf.range(total)[None, :] > tf.range(width)[:, None])
        cache = []

        def attend(joint):
            joint = tf.reshape(joint, [count, width, 3, self._heads, self._size])
            query, key, value = tf.unstack(tf.transpose(joint, [2, 0, 3, 1, 4]))
            behind = [[0, 0], [0, 0], [0, total - width], [0, 0]]
            key, value = tf.pad(key, behind), tf.pad(value, behind)
            cache.extend(tf.reshape(part, [-1, self._size]) for part in (key, value))
            mixed = self._mix(query, key, value, hidden)
            return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, self._width])

        for block in weights.blocks:
            x = self._block(x, block, attend)
        last = tf.gather(x, tf.range(count) * width + lengths - 1)
        return (*self._logits(weights, last), *cache)

    def _add_tokens(self, reorders, number, rows, tokens, columns, old, total, *cache):
        """Add `tokens` and those that a decoding chooses then, until it says stop.

        Takes the decoding's `number`; the cache's `rows` in this order, [rows]; their next
        columns, [rows]; and how many columns the cache has and shall have. Returns the
        tokens that come next, and the cache.
        """
        weights = self._ready or self._prepare()
        cache = [self._regrown(part, rows, old, total) for part in cache]

        def add(_goes_on, tokens, columns, *cache):
            *behind, cache = self._step(weights, tokens, columns, cache, total)
            tokens, parents, goes_on = tf.numpy_function(
                self._ask, [number, *behind], [tf.int32, tf.int32, tf.bool]
            )
            tokens.set_shape([None])
            goes_on.set_shape([])
            if reorders:
                cache = [self._regrown(part, parents, total, total) for part in cache]
            return goes_on, tokens, columns + 1, *cache

        start = tf.constant(True), tf.ensure_shape(tokens, [None]), columns, *cache
        _, tokens, _, *cache = tf.while_loop(lambda goes_on, *_: goes_on, add, start)
        return tokens, *cache

    def _ask(self, number, *behind):
        return self._decodings[int(number)].ask(*behind)

    def _prepare(self) -> Prepared:
        return prepare(self._weights, self._config, self._dtype)

    def _regrown(self, part, rows, old, total):
        shape = [-1, self._heads, old, self._size]
        picked = tf.gather(tf.reshape(part, shape), rows)
        wider = tf.pad(picked, [[0, 0], [0, 0], [0, total - old], [0, 0]])
        return tf.reshape(wider, [-1, self._size])

    def _step(self, weights, tokens, columns, cache, total):
        """Return what `_logits` does behind one more token of each row, and the cache."""
        count = tf.shape(tokens)[0]
        x = centred(tf.gather(weights.tokens, tokens) + tf.gather(weights.positions, columns))
        hidden = _hidden((tf.range(total)[None] > columns[:, None])[:, None, None])
        heads = tf.range(count)[:, None] * self._heads + tf.range(self._heads)
        places = tf.reshape(heads * total + columns[:, None], [-1])
        parts, written = iter(cache), []

        def attend(joint):
            joint = tf.reshape(joint, [count, 3, self._heads, self._size])
            query, *fresh = tf.unstack(joint, axis=1)
            whole = []
            for new in fresh:
                new = tf.reshape(new, [-1, self._size])
                # A scatter would copy the cache: two thirds of the time of large batches.
                part = tf.raw_ops.InplaceUpdate(x=next(parts), i=places, v=new)
                part = tf.ensure_shape(part, [None, self._size])
                written.append(part)
                whole.append(tf.reshape(part, [count, self._heads, total, self._size]))
            mixed = self._mix(query[:, :, None], *whole, hidden)
            return tf.reshape(mixed, [-1, self._width])

        for block in weights.blocks:
            x = self._block(x, block, attend)
        return (*self._logits(weights, x), written)

    def _mix(self, query, key, value, hidden):
        """Return attention's output, [rows, heads, queries, size of a head]."""
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        shares = tf.nn.softmax(scores + hidden)
        return tf.matmul(tf.cast(shares, self._dtype), value)

    def _block(self, x, block, attend):
        """Return float32 [tokens, width] behind one layer."""
        joint = self._linear(self._normal(x), block.joint)
        x += tf.cast(self._linear(attend(joint), block.out), tf.float32)
        inner = self._linear(self._normal(x), block.wide)
        inner = tf.nn.gelu(inner, approximate=True)
        return x + tf.cast(self._linear(inner, block.narrow), tf.float32)

    def _linear(self, x, parts):
        pieces = tf.split(x, [weight.shape[0] for weight, _ in parts], axis=1)
        products = [
            tf.nn.bias_add(tf.matmul(piece, weight), bias)
            for piece, (weight, bias) in zip(pieces, parts, strict=True)
        ]
        return tf.add_n(products) if len(products) > 1 else products[0]

    def _normal(self, x):
        return tf.cast(self._scaled(x), self._dtype)

    def _scaled(self, x):
        """Return float32 [tokens, width] with a variance of 1, from such with a mean of 0."""
        variance = tf.reduce_mean(x * x, axis=-1, keepdims=True)
        # Roots and quotients are exact; rsqrt is not the same inside and behind full vectors.
        # Without the maximum, which changes nothing, TensorFlow would make an rsqrt of them.
        return x / tf.maximum(tf.sqrt(variance + self._epsilon), 0.0)

    def _logits(self, weights, x):
        """Return logits, float32 [rows, vocabulary], each row's highest and its sum of powers."""
        gain, bias = weights.final_norm
        hidden = tf.cast(self._scaled(x) * gain + bias, self._dtype)
        missing = tf.maximum(0, _LEAST_ROWS_OF_LOGITS - tf.shape(x)[0])
        hidden = tf.pad(hidden, [[0, missing], [0, 0]])
        logits = tf.nn.bias_add(tf.matmul(hidden, weights.output, transpose_b=True), weights.zeros)
        common = tf.reduce_sum(tf.cast(hidden, tf.float32) * weights.mean, axis=1, keepdims=True)
        logits = (tf.cast(logits, tf.float32) + common)[: tf.shape(x)[0]]
        highest = tf.reduce_max(logits, axis=1, keepdims=True)
        return logits, highest[:, 0], tf.reduce_sum(tf.exp(logits - highest), axis=1)


class _Decoding:
    """One search, which goes on by itself."""

    def __init__(
        self, network: CachedNetwork, prompts: Sequence[list[int]], search: Search
    ) -> None:
        self._network = network
        used, self._rows = np.unique(search.prompt_rows, return_inverse=True)
        self._prompts = [prompts[place] for place in used]
        self._search = search
        self._steps_left = 0
        self._spare = 0
        """Copies of the last row, which the search does not see."""
        self._stopped = False

    def stop(self) -> None:
        """Let it fail at its next step."""
        self._stopped = True

    def run(self) -> None:
        """Ask until all rows have ended."""
        network, search = self._network, self._search
        ids, lengths = _beside(self._prompts)
        rows = self._rows.astype(np.int32)
        columns = lengths[rows]
        total = network._columns_for(columns)
        logits, highest, sums, *cache = network._read(ids, lengths, total)
        tokens, parents, _ = self.ask(*(part.numpy()[rows] for part in (logits, highest, sums)))
        rows = rows[parents]
        with network._numbered(self) as number:
            while len(going := search.compact()):
                rows, tokens, columns = rows[going], tokens[going], columns[going]
                if (columns == network._context).any():
                    rows, columns, cache = self._slide(rows, columns, cache, total)
                # Rows that have ended may have been the longest, but a cache does not shrink.
                old, total = total, max(total, network._columns_for(columns))
                self._steps_left = steps = int(total - columns.max())
                self._spare = max(0, _LEAST_ROWS - len(rows))
                with_spare = (np.pad(a, (0, self._spare), "edge") for a in (rows, tokens, columns))
                add = network._add[search.reorders]
                tokens, *cache = add(number, *with_spare, old, total, *cache)
                tokens = tokens.numpy()[: len(rows)]
                rows = np.arange(len(rows), dtype=np.int32)
                columns += steps - self._steps_left

    def ask(self, logits, highest, sums):
        """Return what the search chooses, and whether to go on without stopping."""
        if self._stopped:
            raise RuntimeError("stopped")
        # Behind full vectors TensorFlow's logarithm rounds otherwise than inside.
        totals = (highest + np.log(sums.astype(np.float64))).astype(np.float32)
        seen = len(logits) - self._spare
        tokens, parents, goes_on = self._search.choose(logits[:seen], totals[:seen])
        if self._spare:
            tokens, parents = (np.pad(each, (0, self._spare), "edge") for each in (tokens, parents))
        self._steps_left -= 1
        return tokens, parents, np.bool_(goes_on and self._steps_left > 0)

    def _slide(self, rows, columns, cache, total):
        """Read anew the rows that have no column left, as shorter texts.

        Returns what `_add_tokens` takes; the rows of the cache behind the old ones are new.
        """
        network = self._network
        full = np.flatnonzero(columns == network._context)
        kept = network._context // 2
        windows = []
        for row in full:
            prompt, tokens = self._search.sequence(row)
            head = prompt[: kept // 2]
            # The last token is not in the cache yet.
            windows.append(head + (prompt[len(head) :] + tokens)[len(head) - kept : -1])
        ids, lengths = _beside(windows)
        _, _, _, *fresh = network._read(ids, lengths, total)
        behind = cache[0].shape[0] // (network._heads * int(total))
        rows, columns = rows.copy(), columns.copy()
        rows[full] = behind + np.arange(len(full))
        columns[full] = lengths
        return rows, columns, [tf.concat(parts, axis=0) for parts in zip(cache, fresh, strict=True)]


def _hidden(later):
    """Return what hides columns when it is added to attention's scores."""
    return tf.where(later, -1e9, 0.0)


def _beside(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [prompts, width], zeros behind each, and their lengths."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    width = -(-int(lengths.max()) // _WIDTH) * _WIDTH
    ids = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return ids, lengths
