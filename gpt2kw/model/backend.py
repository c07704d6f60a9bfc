"""TensorFlow, imported quietly and with the Keras that transformers' models need.

Import `tf` from here and nowhere else.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# transformers' TensorFlow models are written for Keras 2, which is tf-keras today.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


@contextlib.contextmanager
def _standard_error_aside() -> Iterator[None]:
    """Keep what C++ code writes to standard error away, but show it if the block fails.

    TensorFlow speaks of missing GPU libraries before its log level is read.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        standard_error = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(standard_error, aside.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)


with _standard_error_aside():
    import tensorflow as tf

    tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")

__all__ = [
    "choose_precision",
    "keep_operations_on_one_core",
    "operations_stay_on_one_core",
    "tf",
]


def choose_precision(wanted: str) -> tf.DType:
    """Return the type of matrix products: for auto the best that the hardware multiplies."""
    if wanted != "auto":
        return tf.as_dtype(wanted)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return tf.bfloat16 if _cpu_has_bfloat16() else tf.float32
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    oldest = min(detail.get("compute_capability", (0, 0)) for detail in details)
    # Ampere, 8.0, was the first with bfloat16; Volta, 7.0, the first to gain by float16.
    return tf.bfloat16 if oldest >= (8, 0) else tf.float16 if oldest >= (7, 0) else tf.float32


_one_core_each = False


def keep_operations_on_one_core() -> None:
    """Have each operation stay on one core, so that several cores can do work of their own.

    Small operations gain more by not waiting for one another than by being divided. It is for
    the whole process, and does nothing with a GPU or once TensorFlow has run something.
    """
    global _one_core_each
    if not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)
            _one_core_each = True


def operations_stay_on_one_core() -> bool:
    """Whether that was done here. Who asked for one thread otherwise may want no more."""
    return _one_core_each


def _cpu_has_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    # AVX-512 BF16 alone is no faster than float32 for models of this size.
    return "amx_bf16" in flags
