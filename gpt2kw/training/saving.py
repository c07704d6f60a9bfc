"""Checkpoints written while training goes on."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpt2kw.model.folder import Model
from gpt2kw.model.runs import Run

_SHARE_OF_MEMORY = 0.25


class Saver:
    """Writes checkpoints of a run one after another, in the background if memory allows.

    What is written is a copy of the moment: steps that follow don't touch it. An error
    of writing is raised by `wait`.
    """

    def __init__(self, run: Run, keep: int) -> None:
        self._run = run
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[Any] | None = None
        self._told: Future[Any] | None = None

    def save(
        self, step: int, model: Model, moments: dict[str, np.ndarray], state: dict[str, Any]
    ) -> None:
        """Write a checkpoint of the arrays of `model` and `moments`, which stay as they are.

        After one that could not be written this waits, and raises if this one can't either.
        """
        # There may be room again, and then nothing is lost.
        failed = self._last is not None and self._last.exception() is not None
        size = sum(array.nbytes for array in (*model.weights.values(), *moments.values()))
        self._last = self._thread.submit(self._run.save, step, model, moments, state, self._keep)
        if failed or size > _SHARE_OF_MEMORY * _free_memory():
            self.wait()

    def untold_failure(self) -> BaseException | None:
        """Return what went wrong with the last checkpoint, if it is known by now, once."""
        if self._last is None or self._last is self._told or not self._last.done():
            return None
        self._told = self._last
        return self._last.exception()

    def wait(self) -> None:
        """Wait until everything is on the disk; raise what went wrong."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def close(self) -> None:
        """End the thread, after what it is writing."""
        self._thread.shutdown()


def _free_memory() -> float:
    """Return the bytes of memory that nothing uses, 0 if the system doesn't say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0.0
