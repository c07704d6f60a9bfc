"""Between `Model` and transformers' `TFGPT2LMHeadModel`."""

from typing import Any

from gpt2kw.model.backend import tf
from gpt2kw.model.folder import Model, Weights, pytorch_name

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
    return {pytorch_name(variable.name): variable for variable in keras_model.variables}


def keras_weights(keras_model: TFGPT2LMHeadModel) -> Weights:
    """Return copies of the model's weights in PyTorch's names and shapes."""
    return {
        name: variable.numpy().squeeze(0)
        if name.endswith("bias") and variable.shape.rank == 2
        else variable.numpy()
        for name, variable in named_variables(keras_model).items()
    }
