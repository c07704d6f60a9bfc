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

__all__ = ["tf"]
