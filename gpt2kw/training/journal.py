"""What a run writes down: metrics, TensorBoard's events, and sample texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2kw.model.backend import tf
from gpt2kw.model.runs import Run
from gpt2kw.text.files import atomic_writer, output_errors


class Journal:
    """Appends to a run's files; a resumed run goes on behind its checkpoint's step."""

    def __init__(self, run: Run, step: int) -> None:
        """Open the files of `run`; metrics of steps after `step` are forgotten."""
        self._run = run
        _forget_after(run.metrics_file, step)
        with output_errors(run.folder):
            self._metrics = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115
            self._board = tf.summary.create_file_writer(str(run.tensorboard_folder))

    def numbers(self, step: int, **values: float) -> None:
        """Write numbers down: a line of `metrics.jsonl`, and a scalar each for TensorBoard."""
        with output_errors(self._run.metrics_file):
            self._metrics.write(json.dumps({"step": step, **values}) + "\n")
            self._metrics.flush()
        with self._board.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._board.flush()

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Write sample texts down."""
        with output_errors(self._run.samples_file):
            with open(self._run.samples_file, "a", encoding="utf-8") as file:
                file.write("\n".join((f"step {step}", *texts, "", "")))
        with self._board.as_default(step):
            tf.summary.text("samples", "\n\n".join(texts))

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._board.close()


def _forget_after(metrics_file: Path, step: int) -> None:
    """Drop lines of later steps, which a resumed run will write again, and a torn last line."""
    if not metrics_file.exists():
        return
    lines = metrics_file.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        with atomic_writer(metrics_file) as file:
            file.writelines(kept)


def _step_of(line: str) -> float:
    try:
        entry: Any = json.loads(line) if line.endswith("\n") else None
        return entry["step"]
    except (ValueError, TypeError, KeyError):
        return float("inf")
