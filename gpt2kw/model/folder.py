"""A model: configuration, tokenizer and weights, in a folder that the field's tools read.

The folder is Hugging Face's layout with PyTorch's names in safetensors: `config.json`,
`tokenizer.json`, `model.safetensors`. Neither reading nor writing needs torch,
transformers' models or pickle.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gpt2kw.errors import UserError
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.format import Record

Weights = dict[str, np.ndarray]
"""Float32 arrays by the names of PyTorch's GPT2LMHeadModel, `transformer.wte.weight`
and so on. The output layer shares `transformer.wte.weight` and has no entry."""

Precision = Literal["float32", "float16", "bfloat16"]
"""How weights are written; they are float32 once they are read."""
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

EMBEDDING = "transformer.wte.weight"
WEIGHTS_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_KERAS_FILE = "tf_model.h5"
_ABOUT_FILE = "gpt2kw.json"
GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True)
class About:
    """What a fine-tuned model was trained on, as far as generation should know it."""

    categories: tuple[str, ...] = ()
    """The categories of the training text, most frequent first; at most 1,000."""
    sections: tuple[str, ...] = ()
    """The sections that its documents had."""


@dataclass(frozen=True)
class SamplingDefaults:
    """How a model chooses tokens where it is not told: what suits one is too daring for another.

    The folder keeps it as transformers does, in `generation_config.json`.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 1.0


@dataclass
class Model:
    """A GPT-2 with its tokenizer, outside any framework."""

    config: dict[str, Any]
    tokenizer: Tokenizer
    weights: Weights
    about: About = About()
    sampling: SamplingDefaults = SamplingDefaults()

    def __post_init__(self) -> None:
        self._fit_vocabulary()

    @property
    def context(self) -> int:
        """The most tokens that the model can see."""
        return self.config["n_positions"]

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(weight.size for weight in self.weights.values())

    def checksum(self) -> str:
        """Return a checksum of all that decides what the model writes."""
        digest = hashlib.blake2b(digest_size=16)
        about = [self.about.categories, self.about.sections]
        parts = (self.config, self.tokenizer.definition(), about)
        digest.update(json.dumps(parts, sort_keys=True).encode())
        for name, weight in sorted(self.weights.items()):
            digest.update(f"{name}{weight.shape}".encode())
            digest.update(np.ascontiguousarray(weight))
        return digest.hexdigest()

    def _fit_vocabulary(self) -> None:
        """Give every token a row of the embedding; new rows start at its mean.

        The mean keeps a new token's probability small and its gradient ordinary
        (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
        """
        embedding = self.weights[EMBEDDING]
        new_rows = self.tokenizer.padded_size - len(embedding)
        if new_rows > 0:
            mean = np.repeat(embedding.mean(axis=0, keepdims=True), new_rows, axis=0)
            self.weights[EMBEDDING] = np.concatenate([embedding, mean])
        self.config["vocab_size"] = len(self.weights[EMBEDDING])
        self.config["bos_token_id"] = self.tokenizer.start
        self.config["eos_token_id"] = self.tokenizer.end

    def save(self, folder: Path, precision: Precision = "float32") -> None:
        """Write the model into an existing folder.

        Raises:
            UserError: a weight is too large for `precision`.
        """
        weights = _as_precision(self.weights, precision)
        config = {"architectures": ["GPT2LMHeadModel"], **self.config, "torch_dtype": precision}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        about = {"categories": self.about.categories, "sections": self.about.sections}
        (folder / _ABOUT_FILE).write_text(json.dumps(about, ensure_ascii=False) + "\n", "utf-8")
        generation = {"do_sample": True, **asdict(self.sampling)}
        (folder / GENERATION_FILE).write_text(json.dumps(generation, indent=2) + "\n")
        self.tokenizer.save(folder)
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        # safetensors makes a file that only its owner may read.
        shutil.copymode(folder / "config.json", folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> "Model":
        """Read a model folder.

        Raises:
            UserError: it is not there, not a GPT-2, incomplete or damaged.
        """
        config = load_config(folder)
        weights = load_weights(folder, config)
        about, sampling = _load_about(folder), _load_sampling(folder)
        return cls(config, Tokenizer.load(folder), weights, about, sampling)


def _as_precision(weights: Weights, precision: Precision) -> dict[str, np.ndarray]:
    if precision == "float32":
        return weights
    with np.errstate(over="ignore"):
        cast = {name: weight.astype(_DTYPES[precision]) for name, weight in weights.items()}
    for name, weight in cast.items():
        if not np.isfinite(weight).all():
            raise UserError(f"{name} has weights that {precision} can't hold", "use float32")
    return cast


def new_model(records: Iterable[Record], vocabulary_size: int, seed: int, **shape: int) -> Model:
    """Make a GPT-2 with random weights and a tokenizer learnt from `records`.

    `shape` has the configuration's n_layer, n_head, n_embd and n_positions. Weights
    are drawn as in Radford et al. 2019: normal with deviation 0.02, and less by
    1/sqrt(2 n_layer) for the projections back into the residual stream.
    """
    tokenizer = Tokenizer.train(records, vocabulary_size)
    config = {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "vocab_size": tokenizer.padded_size,
        **shape,
    }
    rng = np.random.default_rng(seed)
    weights = {}
    for name, size in weight_shapes(config).items():
        if name.endswith("bias"):
            weights[name] = np.zeros(size, np.float32)
        elif ".ln_" in name:
            weights[name] = np.ones(size, np.float32)
        else:
            deviation = 0.02
            if name.endswith("c_proj.weight"):
                deviation /= np.sqrt(2 * config["n_layer"])
            weights[name] = rng.normal(0, deviation, size).astype(np.float32)
    return Model(config, tokenizer, weights)


def weight_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a model with this configuration."""
    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    norm = {"weight": (width,), "bias": (width,)}
    layers = {
        "ln_1": norm,
        "attn.c_attn": {"weight": (width, 3 * width), "bias": (3 * width,)},
        "attn.c_proj": {"weight": (width, width), "bias": (width,)},
        "ln_2": norm,
        "mlp.c_fc": {"weight": (width, inner), "bias": (inner,)},
        "mlp.c_proj": {"weight": (inner, width), "bias": (width,)},
    }
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config["vocab_size"], width),
        "transformer.wpe.weight": (config["n_positions"], width),
    }
    for layer in range(config["n_layer"]):
        for name, parts in layers.items():
            for part, shape in parts.items():
                shapes[f"transformer.h.{layer}.{name}.{part}"] = shape
    for part, shape in norm.items():
        shapes[f"transformer.ln_f.{part}"] = shape
    return shapes


def load_config(folder: Path) -> dict[str, Any]:
    """Return what the config.json of a folder says; `UserError` if it is not that of a GPT-2."""
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}", "check the path")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json", "give a whole model folder") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", "fetch it anew") from error
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}", "fetch it anew") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a configuration", "fetch it anew")
    if config.get("model_type") != "gpt2":
        raise UserError(
            f"{folder} holds a model of type {config.get('model_type')!r}",
            "use a GPT-2, such as gpt2 or distilgpt2",
        )
    # Configurations of early GPT-2 models have the same number under another name.
    config.setdefault("n_positions", config.get("n_ctx", 1024))
    for name in _OF_THE_FILES:
        config.pop(name, None)
    _check_config(path, config)
    return config


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Raise `UserError` for a shape or a variant of GPT-2 that is not computed here."""
    sizes = {name: config.get(name) for name in ("n_layer", "n_head", "n_embd", "n_positions")}
    whole = all(isinstance(size, int) and size > 0 for size in sizes.values())
    if not whole or config["n_embd"] % config["n_head"]:
        raise UserError(f"{path} has no shape of a GPT-2: {sizes}", "fetch it anew")
    for name, usual in _USUAL.items():
        if config.get(name, usual) != usual:
            raise UserError(
                f"{path} has {name} {config[name]!r}", f"use a GPT-2 with {usual!r} there"
            )


_USUAL = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
"""What every published GPT-2 has."""

_OF_THE_FILES = (
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "task_specific_params",
)
"""What a configuration says of the files and the uses that it came with."""


def _load_about(folder: Path) -> About:
    path = folder / _ABOUT_FILE
    if not path.exists():
        return About()
    try:
        about = json.loads(path.read_text("utf-8"))
        return About(tuple(about["categories"]), tuple(about["sections"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read: {error}", "remove or restore it") from error


def _load_sampling(folder: Path) -> SamplingDefaults:
    path = folder / GENERATION_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return SamplingDefaults()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}", "remove or restore it") from error
    # As in transformers: without `do_sample` the others have no effect.
    if not isinstance(config, dict) or config.get("do_sample") is not True:
        return SamplingDefaults()
    found = {}
    for name, (number, right, usual, wanted) in _SAMPLING.items():
        value = config.get(name)
        found[name] = value = usual if value is None else value
        if not isinstance(value, number) or isinstance(value, bool) or not right(value):
            raise UserError(f"{path} has {name} {value!r}", f"give {wanted}")
    return SamplingDefaults(**found)


_SAMPLING = {
    "temperature": (int | float, lambda value: 0.01 <= value <= 100, 1.0, "0.01 to 100"),
    "top_k": (int, lambda value: value >= 0, 50, "0 or more, without a fraction"),
    "top_p": (int | float, lambda value: 0 < value <= 1, 1.0, "more than 0, up to 1"),
}
"""What may be there, as in generate's options; and what it is if it is not there, since
transformers leaves out what is usual to it."""


def load_weights(folder: Path, config: dict[str, Any]) -> Weights:
    """Read the weights of a model folder: safetensors, whole or in shards, or TF's HDF5."""
    try:
        if (folder / WEIGHTS_FILE).exists():
            found = load_file(folder / WEIGHTS_FILE)
        elif (folder / _INDEX_FILE).exists():
            index = json.loads((folder / _INDEX_FILE).read_text("utf-8"))
            found = {}
            for shard in sorted(set(index["weight_map"].values())):
                found |= load_file(folder / shard)
        elif (folder / _KERAS_FILE).exists():
            found = _load_hdf5(folder / _KERAS_FILE)
        else:
            raise UserError(
                f"{folder} has no {WEIGHTS_FILE} and no {_KERAS_FILE}",
                "save it as safetensors (a pytorch_model.bin is pickle, which is not read)",
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"the weights in {folder} are damaged: {error}", "fetch them anew"
        ) from error
    return _checked(folder, config, found)


def _load_hdf5(path: Path) -> Weights:
    """Read the file that TFGPT2LMHeadModel's `save_pretrained` writes."""
    found: Weights = {}

    def collect(name: str, part: object) -> None:
        if isinstance(part, h5py.Dataset):
            weight = np.asarray(part)
            # Keras keeps a bias as a row.
            found[pytorch_name(name)] = weight[0] if name.endswith("bias:0") else weight

    with h5py.File(path) as file:
        file.visititems(collect)
    return found


_PYTORCH_PARTS = {"gamma": "weight", "beta": "bias", "embeddings": "weight"}


def pytorch_name(keras_name: str) -> str:
    """`tfgpt2lm_head_model/transformer/h_._0/ln_1/gamma:0` as `transformer.h.0.ln_1.weight`."""
    path = keras_name.removesuffix(":0").rpartition("/transformer/")[2]
    stem, _, part = path.replace("h_._", "h.").replace("/", ".").rpartition(".")
    return f"transformer.{stem}.{_PYTORCH_PARTS.get(part, part)}"


def _checked(folder: Path, config: dict[str, Any], found: Weights) -> Weights:
    """Return the weights by their full names, without buffers, all there and float32."""
    named = {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": weight
        for name, weight in found.items()
    }
    weights = {}
    rows = named.get(EMBEDDING)
    shapes = weight_shapes(config | ({"vocab_size": len(rows)} if rows is not None else {}))
    for name, shape in shapes.items():
        if name not in named or named[name].shape != shape:
            there = f"has shape {named[name].shape}" if name in named else "is missing"
            raise UserError(
                f"the weights in {folder} don't fit its config.json: {name} {there}, not {shape}",
                "fetch the whole folder anew",
            )
        weights[name] = named[name].astype(np.float32)
    return weights
