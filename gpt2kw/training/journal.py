"""What a run writes down: metrics, TensorBoard's events, sample texts and a plot."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from gpt2kw.model.runs import Run
from gpt2kw.text.files import atomic_writer, output_errors


class Journal:
    """Appends to a run's files; a resumed run goes on behind its checkpoint's step."""

    def __init__(self, run: Run, step: int) -> None:
        """Open the files of `run`; what was said of steps after `step` is forgotten."""
        self._run = run
        _forget_metrics(run, step)
        _forget_samples(run, step)
        with output_errors(run.folder):
            self._metrics = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115
            run.tensorboard_folder.mkdir(exist_ok=True)
            # Here and not in a thread, as TensorBoard's own writer has it: so that a full disk
            # is met where it can be told.
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._board = RecordWriter(open(run.tensorboard_folder / name, "wb"))  # noqa: SIM115
            self._event(0, file_version="brain.Event:2")
            # With this, TensorBoard forgets later steps in the files of earlier calls.
            self._event(step + 1, session_log=SessionLog(status=SessionLog.START))
            self._board.flush()

    def numbers(self, step: int, **values: float) -> None:
        """Write numbers down: a line of `metrics.jsonl`, and a scalar each for TensorBoard."""
        with output_errors(self._run.metrics_file):
            self._metrics.write(json.dumps({"step": step, **values}) + "\n")
            self._metrics.flush()
            for name, value in values.items():
                self._event(step, summary=scalar_pb(name, value))
            self._board.flush()

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Write sample texts down, to `samples/<step>.txt`."""
        with output_errors(self._run.samples_folder):
            self._run.samples_folder.mkdir(exist_ok=True)
            with atomic_writer(self._run.samples_folder / f"{step}.txt") as file:
                file.writelines(f"{text}\n" for text in texts)
            self._event(step, summary=text_pb("samples", "\n\n".join(texts)))
            self._board.flush()

    def _event(self, step: int, **content: SessionLog | Summary | str) -> None:
        event = Event(wall_time=time.time(), step=step, **content)
        self._board.write(event.SerializeToString())

    def close(self) -> None:
        """Close the files."""
        # All is flushed already, but for what could not be written, which was said then.
        for file in (self._metrics, self._board):
            with contextlib.suppress(OSError):
                file.close()


class NoJournal:
    """Takes what a `Journal` does and writes nothing: another process writes the same."""

    def numbers(self, step: int, **values: float) -> None:
        """Do nothing."""

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _forget_metrics(run: Run, step: int) -> None:
    """Drop lines of later steps, which a resumed run will write again, and a torn last line."""
    if not run.metrics_file.exists():
        return
    lines = run.metrics_file.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        with atomic_writer(run.metrics_file) as file:
            file.writelines(kept)


def _step_of(line: str) -> float:
    try:
        entry: Any = json.loads(line) if line.endswith("\n") else None
        return entry["step"]
    except (ValueError, TypeError, KeyError):
        return float("inf")


def _forget_samples(run: Run, step: int) -> None:
    for path in run.samples_folder.glob("*.txt"):
        if path.stem.isdigit() and int(path.stem) > step:
            path.unlink()
