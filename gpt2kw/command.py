"""What the commands share: options, messages, errors and exit statuses."""

import contextlib
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro
from tqdm import tqdm

from gpt2kw.errors import UserError

Options = TypeVar("Options")


class Stopped(Exception):
    """The user stopped the command, which has said what is kept. Holds the signal."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


def run_command(
    name: str,
    options_type: type[Options],
    action: Callable[[Options], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Parse the command line into `options_type`, call `action` with it, and exit.

    Exit status 0; 2 for a `UserError` or an error of the system, such as a full disk behind
    standard output, which is printed as one line; 128 and the signal's number when stopped.
    """
    _speak_on_standard_error()
    sys.stdout.reconfigure(encoding="utf-8")
    # So that files which are half written are cleaned away as after Ctrl-C.
    signal.signal(signal.SIGTERM, _stop)
    try:
        action(parse_options(name, options_type, arguments))
        sys.stdout.flush()
    except UserError as error:
        _fail(f"error: {error}", 2)
    except Stopped as stopped:
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        _fail("stopped", 128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of standard output, such as head, has enough.
        _leave_standard_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _leave_standard_output()
        where = error.filename or "standard output or a file"
        reason = error.strerror or error
        _fail(f"error: can't write or read {where}: {reason}; free some space or check it", 2)


def _leave_standard_output() -> None:
    """Send what it still holds nowhere, or Python tries to write that when it ends."""
    with open(os.devnull, "w") as nowhere, contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


def _fail(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)


def parse_options(
    name: str,
    options_type: type[Options],
    arguments: Sequence[str] | None = None,
    others: Options | None = None,
) -> Options:
    """Make the options from a command line; `UserError` if they don't fit.

    Those that it does not name are as in `others`, or else the defaults.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                options_type,
                prog=f"python -m gpt2kw.{name}",
                args=arguments,
                default=others,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        problem = _first_paragraph(said.getvalue()) or "the options can't be used"
        raise UserError(problem, f"see python -m gpt2kw.{name} --help") from None


def _first_paragraph(box: str) -> str:
    """The text of a message in a frame, of box-drawing characters or of ASCII, as one line."""
    paragraph: list[str] = []
    for line in box.splitlines():
        if re.fullmatch(r"[│| ]*[─-]+[│| ]*", line):
            break
        if line.startswith(("│", "|")):
            paragraph.append(line.strip("│| "))
    return " ".join(paragraph)


class _TqdmHandler(logging.Handler):
    """Writes messages above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _speak_on_standard_error() -> None:
    logger = logging.getLogger("gpt2kw")
    logger.setLevel(logging.INFO)
    logger.handlers = [_TqdmHandler()]
    logger.propagate = False
    warnings.filterwarnings("ignore")
