"""Between `Model` and transformers' `TFGPT2LMHeadModel`."""

from pathlib import Path
from typing import Any

from gpt2kw.model.backend import tf
from gpt2kw.model.folder import Model, Weights

from transformers import GPT2Config, TFGPT2LMHeadModel  # isort: skip  (after the backend)


def to_keras(model: Model, **settings: Any) -> TFGPT2LMHeadModel:
    """Return a Keras model with the weights of `model`.

    Call it under the strategy and the precision policy that it will be trained with.
    `settings` override the configuration, such as `resid_pdrop=0.0`.
    """
    keras_model = TFGPT2LMHeadModel(GPT2Config(**(model.config | settings)))
    keras_model(tf.zeros([1, 1], tf.int32))
    for name, variable in named_variables(keras_model).items():
        variable.assign(model.weights[name].reshape(variable.shape))
    return keras_model


def named_variables(keras_model: TFGPT2LMHeadModel) -> dict[str, tf.Variable]:
    """Return the model's variables by PyTorch's names. Biases have the shape [1, n]."""
    return {_pytorch_name(variable.name): variable for variable in keras_model.variables}


def keras_weights(keras_model: TFGPT2LMHeadModel) -> Weights:
    """Return copies of the model's weights in PyTorch's names and shapes."""
    return {
        name: variable.numpy().squeeze(0)
        if name.endswith("bias") and variable.shape.rank == 2
        else variable.numpy()
        for name, variable in named_variables(keras_model).items()
    }


def load_keras_file(folder: Path) -> Weights:
    """Read `tf_model.h5` of a model folder."""
    return keras_weights(TFGPT2LMHeadModel.from_pretrained(folder, use_safetensors=False))


def _pytorch_name(name: str) -> str:
    """`tfgpt2lm_head_model/transformer/h_._0/ln_1/gamma:0` as `transformer.h.0.ln_1.weight`."""
    _, _, path = name.removesuffix(":0").partition("/transformer/")
    path = path.replace("h_._", "h.").replace("/", ".")
    stem, _, part = path.rpartition(".")
    return f"transformer.{stem}.{_PYTORCH_PARTS.get(part, part)}"


_PYTORCH_PARTS = {"gamma": "weight", "beta": "bias", "embeddings": "weight"}
