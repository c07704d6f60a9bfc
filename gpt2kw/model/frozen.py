"""A promise that a process trains nothing, which lets TensorFlow write texts faster.

Knows no TensorFlow, so that it may be given before that is imported.
"""

import os

from gpt2kw.errors import UserError
from gpt2kw.model.cores import usable_cores

_VARIABLE = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"
"""With 1 in it, TensorFlow's products on a CPU lay out their weights once and not at each call.
It is read at the first product, and from then on weights that change are not seen."""
_frozen = False


def freeze_weights() -> None:
    """Promise that no weights will change in this process; before the first text is written.

    With small models each core then writes texts of its own, if TensorFlow has not run
    anything yet.
    """
    global _frozen
    _frozen = True


def cores_for_writing() -> int:
    """Return how many cores this process may use for writing texts alone; 1 if unpromised."""
    return usable_cores() if _frozen else 1


def keep_ready(precision: str) -> None:
    """Let products keep their weights as they need them, if that was promised.

    GPT-2 writes up to twice as fast then. Only for bfloat16: products in float32 get slower.
    """
    if _frozen and precision == "bfloat16":
        os.environ[_VARIABLE] = "1"


def check_weights_may_change() -> None:
    """Raise `UserError` if training in this process would go unseen, or be slow."""
    value = os.environ.get(_VARIABLE, "0")
    if _frozen:
        raise UserError(
            "this process has called gpt2kw.freeze_weights", "fine-tune in another process"
        )
    if value.lower() not in ("", "0", "false"):
        raise UserError(
            f"{_VARIABLE} is {value}, with which TensorFlow does not see that weights change",
            "unset it",
        )
