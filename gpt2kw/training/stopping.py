"""What ends a run before its last step: a signal, or the time that it was given."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass
class Stop:
    """Whether to stop after the running step."""

    minutes: float | None = None
    signal: int = 0
    """The signal that asked for it, or 0."""
    _start: float = field(default_factory=time.monotonic)

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.minutes is not None and time.monotonic() - self._start >= 60 * self.minutes

    def __bool__(self) -> bool:
        return bool(self.signal) or self.late


@contextmanager
def stop_on_signals(minutes: float | None) -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a `Stop`; a second one acts at once."""
    stop = Stop(minutes)
    if threading.current_thread() is not threading.main_thread():
        # Only a main thread gets signals.
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: Any) -> None:
        stop.signal = number
        log.info("stopping after this step; once more to stop without saving")
        restore()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
