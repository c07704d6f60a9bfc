"""Generation on the CPU through CTranslate2, with weights in int8.

CTranslate2 (https://github.com/OpenNMT/CTranslate2) is an optional dependency. A model is
converted each time that one is loaded, which takes about as long as reading its weights.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.cores import usable_cores
from gpt2kw.model.folder import EMBEDDING, Model

if TYPE_CHECKING:
    from ctranslate2.specs import TransformerDecoderModelSpec

Quantization = Literal["int8", "float32"]


class Generated(NamedTuple):
    """What was added to a prompt."""

    tokens: list[int]
    """With the stop token behind it if one came."""
    log_probability: float
    """Of the tokens together, in nats: at temperature 1, among all ids that were not
    suppressed, and after the penalties if there are any."""


class Engine:
    """Continues prompts, many at a time. Not for several threads at once."""

    def __init__(
        self, model: Model, quantization: Quantization = "int8", threads: int | None = None
    ) -> None:
        """Convert a model, of which nothing is kept, and load it.

        `threads` is None for as many as there are cores.

        Raises:
            UserError: CTranslate2 is not installed.
        """
        self._library = _library()
        self._size = model.tokenizer.size
        self._threads = threads or usable_cores()
        self._files = _convert(model, quantization)
        self._load()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int = 0,
        beams: int = 1,
        length_penalty: float = 1.0,
        stops: Sequence[int] = (),
        suppressed: Sequence[int] = (),
        banned: Sequence[Sequence[int]] = (),
        samples_per_prompt: int = 1,
        seed: int | None = None,
    ) -> list[list[Generated]]:
        """Return for each prompt its samples, the likeliest first.

        The same seed gives the same texts for the same calls in the same order, with as many
        threads on the same kind of CPU. Other than with TensorFlow, a text also depends on its
        neighbours in the batch, for they draw from the same random numbers.

        Args:
            prompts: token ids, of any lengths of 1 or more.
            max_tokens: the most tokens to add to each; with the prompt they must fit into
                the model's context.
            temperature: divides the logits before tokens are drawn.
            top_k: draw from this many likeliest tokens; 0 for all, 1 for always the likeliest.
            top_p: draw from the fewest tokens that reach this probability; 1 for all.
            repetition_penalty: divides the positive logits of tokens that were added before,
                and multiplies the negative ones (Keskar et al. 2019). 1 for none.
            no_repeat_ngram: no n-gram of this many added tokens comes twice; 0 to allow it.
            beams: with more than 1, beam search. Nothing is drawn then.
            length_penalty: the exponent of the length by which beam search divides a text's
                log probability.
            stops: ids that end a text.
            suppressed: ids that may not be chosen.
            banned: ids that may not follow each other among those that are added.
            samples_per_prompt: no more than `beams` if these are more than 1.
            seed: begins the random numbers anew; None goes on with those of the call before,
                or at first with the system's. Costs a load of the model unless it is new.

        Raises:
            ValueError: a value is out of range.
        """
        drawn = beams == 1 and top_k != 1
        if drawn and (seed is not None or self._new):
            self.restart(seed)
        # Several texts of always the likeliest token are one.
        copies = 1 if drawn or beams > 1 else samples_per_prompt
        settings = {
            "max_length": max_tokens,
            "beam_size": beams,
            # A greedy text's score is divided by its length too, where none is compared.
            "length_penalty": length_penalty if beams > 1 else 0,
            "num_hypotheses": samples_per_prompt // copies,
            "sampling_temperature": temperature,
            "sampling_topk": min(top_k, self._size) if drawn else 1,
            "sampling_topp": top_p,
            "repetition_penalty": repetition_penalty,
            "no_repeat_ngram_size": no_repeat_ngram,
            "suppress_sequences": _named([*([token] for token in suppressed), *banned]) or None,
            "end_token": list(stops),
            "return_end_token": True,
            "include_prompt_in_result": False,
            "return_scores": True,
        }
        results: list[list[Generated]] = [[] for _ in prompts]
        alike = bool(beams > 1 or repetition_penalty != 1 or no_repeat_ngram or banned)
        for rows in _batches(prompts, alike):
            batch = _named([prompts[row] for row in rows])
            found = self._generator.generate_batch(batch, **settings)
            for row, result in zip(rows, found, strict=True):
                samples = zip(result.sequences_ids, result.scores, strict=True)
                results[row] = [
                    Generated(tokens, score * len(tokens) ** settings["length_penalty"])
                    for tokens, score in samples
                ] * copies
        return results

    def _load(self) -> None:
        # One worker: several would all draw the same numbers.
        self._generator = self._library.Generator(
            "gpt2kw", device="cpu", intra_threads=self._threads, files=self._files
        )
        self._new = True

    def restart(self, seed: int | Sequence[int] | None) -> None:
        """Begin the random numbers anew: the system's, or those of a seed or several together.

        It costs a load of the model unless that is new, for CTranslate2's worker takes its seed
        when it first draws, and never again.
        """
        if not self._new:
            self._load()
        # A seed of any size becomes one of 31 bits, for 2**32 - 1 stands for none.
        state = np.random.SeedSequence(seed).generate_state(1)[0]
        self._library.set_random_seed(int(state) >> 1)
        self._new = False


def _library():
    try:
        import ctranslate2
    except ImportError as error:
        raise UserError(
            f"CTranslate2 can't be imported: {error}", "pip install 'gpt2kw[ctranslate2]'"
        ) from error
    return ctranslate2


def _named(sequences: Sequence[Sequence[int]]) -> list[list[str]]:
    """Return ids as CTranslate2's tokens, which are told apart by their names."""
    return [[str(token) for token in sequence] for sequence in sequences]


def _batches(prompts: Sequence[Sequence[int]], alike: bool) -> list[list[int]]:
    """Return the rows that are continued together, of one length each if `alike`.

    Of prompts with different lengths CTranslate2 reads the common length at once, and the rest
    as if it were writing it. So penalties and bans see the rest too, and beam search holds back
    texts that end at once. Beside a prompt of one token it would even return the others.
    """
    batches: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        batches.setdefault(len(prompt) if alike else min(len(prompt), 2), []).append(row)
    return list(batches.values())


def _convert(model: Model, quantization: Quantization) -> dict[str, bytes]:
    """Return the files of a CTranslate2 model, by their names."""
    spec = _spec(model)
    spec.validate()
    spec.optimize(quantization)
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _spec(model: Model) -> "TransformerDecoderModelSpec":
    """Return CTranslate2's description of a GPT-2, with its weights."""
    from ctranslate2.specs import TransformerDecoderModelSpec
    from ctranslate2.specs.common_spec import Activation

    def fill_norm(norm, name):
        norm.gamma = model.weights[f"transformer.{name}.weight"]
        norm.beta = model.weights[f"transformer.{name}.bias"]

    def fill_linear(linear, name):
        linear.weight = model.weights[f"transformer.{name}.weight"].T.copy()
        linear.bias = model.weights[f"transformer.{name}.bias"]

    spec = TransformerDecoderModelSpec.from_config(
        model.config["n_layer"], model.config["n_head"], activation=Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    # Without the rows that only round its size. Copied, since quantizing writes over it.
    embedding = model.weights[EMBEDDING][: model.tokenizer.size].copy()
    decoder.embeddings.weight = decoder.projection.weight = embedding
    decoder.position_encodings.encodings = model.weights["transformer.wpe.weight"]
    for number, layer in enumerate(decoder.layer):
        fill_norm(layer.self_attention.layer_norm, f"h.{number}.ln_1")
        fill_linear(layer.self_attention.linear[0], f"h.{number}.attn.c_attn")
        fill_linear(layer.self_attention.linear[1], f"h.{number}.attn.c_proj")
        fill_norm(layer.ffn.layer_norm, f"h.{number}.ln_2")
        fill_linear(layer.ffn.linear_0, f"h.{number}.mlp.c_fc")
        fill_linear(layer.ffn.linear_1, f"h.{number}.mlp.c_proj")
    fill_norm(decoder.layer_norm, "ln_f")
    spec.register_vocabulary(_named([range(model.tokenizer.size)])[0])
    spec.config.layer_norm_epsilon = model.config.get("layer_norm_epsilon", 1e-5)
    spec.config.bos_token = str(model.tokenizer.start)
    spec.config.eos_token = spec.config.unk_token = str(model.tokenizer.end)
    return spec
