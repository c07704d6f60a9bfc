"""`python -m gpt2kw`: list the commands."""

import inspect

from gpt2kw.evaluation.options import EvaluateOptions
from gpt2kw.generation.export import ExportOptions
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.text.decoding import DecodeOptions
from gpt2kw.text.encoding import EncodeOptions
from gpt2kw.training.options import FinetuneOptions

_COMMANDS = {
    "encode": EncodeOptions,
    "finetune": FinetuneOptions,
    "generate": GenerateOptions,
    "decode": DecodeOptions,
    "export": ExportOptions,
    "evaluate": EvaluateOptions,
}

if __name__ == "__main__":
    for name, options in _COMMANDS.items():
        print(f"python -m gpt2kw.{name:<10}{inspect.getdoc(options).splitlines()[0]}")
