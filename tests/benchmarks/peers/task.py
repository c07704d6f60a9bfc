"""What a way of generation is given to do, and what it reports.

A way is a process. Its last argument is a `Task` as JSON, its last line of output the report
as JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import psutil


@dataclass(frozen=True)
class Task:
    """Continue random prompts, `batches` saying how many at a time."""

    model: str
    """The model's folder."""
    rows: int
    """Of its embedding."""
    batches: list[int]
    calls: int
    """At each batch size behind the first, which is the warm-up; more if they take less than
    `seconds` together."""
    seconds: float
    prompt: int = 24
    """Tokens of a prompt."""
    new: int = 48
    """Tokens to add. No token ends a text."""
    top_k: int = 40
    temperature: float = 0.7

    @classmethod
    def given(cls) -> "Task":
        return cls(**json.loads(sys.argv[-1]))

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    def prompts(self, batch: int, call: int) -> np.ndarray:
        """Return int32 [batch, prompt], other ones for each call."""
        rng = np.random.default_rng((batch, call))
        return rng.integers(0, self.rows, (batch, self.prompt), np.int32)


Write = Callable[[np.ndarray], np.ndarray]
"""From prompts [batch, prompt] to the same with what follows, [batch, prompt + new]."""


def measure(task: Task, write: Write) -> None:
    """Let `write` do the task, and print the report."""
    report: dict = {"first_calls": [], "tokens_per_second": []}
    for batch in task.batches:
        report["first_calls"].append(seconds_of(write, task, batch, 0))
        report.setdefault("start", time.time() - psutil.Process().create_time())
        times: list[float] = []
        while len(times) < task.calls or sum(times) < task.seconds:
            times.append(seconds_of(write, task, batch, 1 + len(times)))
        report["tokens_per_second"].append(batch * task.new / statistics.median(times))
    print(json.dumps(report), flush=True)


def seconds_of(write: Write, task: Task, batch: int, call: int) -> float:
    prompts = task.prompts(batch, call)
    start = time.perf_counter()
    texts = np.asarray(write(prompts))
    seconds = time.perf_counter() - start
    # Nothing is timed that wrote too little.
    assert texts.shape == (batch, task.prompt + task.new), texts.shape
    assert (texts[:, : task.prompt] == prompts).all()
    return seconds


def unable(reason: str) -> None:
    """Report that this way can't be taken here."""
    print(json.dumps({"unable": reason}), flush=True)
