"""What a way of fine-tuning is given to do, and what it reports.

A way is a process. Its last argument is a `Work` as JSON, its last line of output the report
as JSON.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Work:
    """Fine-tune `model` on `text`, for `seconds` or for `steps`."""

    text: str
    model: str
    """The folder of the model to begin with."""
    out: str
    """An empty folder."""
    mean_tokens: float
    """Of a document."""
    rate: float
    """The highest learning rate: a rise of `RISE` steps, then a cosine down to a tenth."""
    documents: int
    """A step's documents, where each is a row, padded to `length` tokens."""
    blocks: int
    """A step's rows, where documents are joined and cut into rows of `length` tokens."""
    length: int = 128
    seconds: float = 0
    """Measure speed for so long, after a warm-up of `warmup` seconds and no less than two steps."""
    warmup: float = 10
    steps: int = 0
    """Or train for so many steps, and export the weights every `export_every` steps."""
    export_every: int = 0

    @classmethod
    def given(cls) -> "Work":
        return cls(**json.loads(sys.argv[-1]))

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    def ids(self, text: str | None = None) -> list[list[int]]:
        """Return the documents as token ids, by the tokenizer in the model's folder."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(f"{self.model}/tokenizer.json")
        return [encoding.ids for encoding in tokenizer.encode_batch(documents(text or self.text))]


RISE = 50
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
FOREVER = 10**6
"""Steps of a run whose end is a matter of seconds."""


def documents(text: str) -> list[str]:
    """Return the documents of an encoded text; one may have several lines."""
    whole = Path(text).read_text("utf-8")
    return re.findall(r"<\|startoftext\|>.*?<\|endoftext\|>", whole, re.DOTALL)


class Stopwatch:
    """Times a training from its first step on, without the exports."""

    def __init__(self, work: Work, tokens_per_step: float) -> None:
        self._work = work
        self._tokens_per_step = tokens_per_step
        self._steps = 0
        self._warm: tuple[int, float] | None = None
        self._report: dict = {"exports": []}

    def begin(self) -> None:
        """Call before the first step."""
        self._start = time.monotonic()
        self._report["startup"] = time.time() - psutil.Process().create_time()

    def step(self) -> bool:
        """Call after each step; returns whether it was the last."""
        self._steps += 1
        elapsed = time.monotonic() - self._start
        if self._work.steps:
            return self._steps == self._work.steps
        if self._warm is None:
            if elapsed >= self._work.warmup and self._steps >= 2:
                self._warm = self._steps, elapsed
            return False
        steps, seconds = self._steps - self._warm[0], elapsed - self._warm[1]
        self._report["tokens_per_second"] = steps * self._tokens_per_step / seconds
        self._report["seconds_per_step"] = seconds / steps
        return seconds >= self._work.seconds and steps >= 2

    @property
    def export_due(self) -> bool:
        return self._work.export_every > 0 and self._steps % self._work.export_every == 0

    @contextmanager
    def export(self) -> Iterator[str]:
        """Stand still while weights are saved in the folder that this yields."""
        now = time.monotonic()
        folder = Path(self._work.out) / f"export-{self._steps}"
        folder.mkdir()
        yield str(folder)
        self._report["exports"].append((now - self._start, str(folder)))
        self._start += time.monotonic() - now

    def print_report(self) -> None:
        print(json.dumps(self._report), flush=True)
