"""Keyword-conditioned text generation with GPT-2 on TensorFlow and Keras."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2kw.errors import UserError as UserError
    from gpt2kw.evaluation.measuring import evaluate as evaluate
    from gpt2kw.generation.export import export_model as export_model
    from gpt2kw.generation.generator import Generator as Generator
    from gpt2kw.model.frozen import freeze_weights as freeze_weights
    from gpt2kw.text.decoding import decode_file as decode_file
    from gpt2kw.text.decoding import decode_texts as decode_texts
    from gpt2kw.text.encoding import encode_keywords as encode_keywords
    from gpt2kw.training.loop import finetune as finetune

_HOMES = {
    "Generator": "gpt2kw.generation.generator",
    "UserError": "gpt2kw.errors",
    "decode_file": "gpt2kw.text.decoding",
    "decode_texts": "gpt2kw.text.decoding",
    "encode_keywords": "gpt2kw.text.encoding",
    "evaluate": "gpt2kw.evaluation.measuring",
    "export_model": "gpt2kw.generation.export",
    "finetune": "gpt2kw.training.loop",
    "freeze_weights": "gpt2kw.model.frozen",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    # TensorFlow, spaCy and ray take seconds to import: each only when it is needed.
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt2kw' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
