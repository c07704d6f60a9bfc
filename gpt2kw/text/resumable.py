"""A file that is made in several goes, if need be: what a kill leaves is gone on with.

While it is made, `FILE.part` holds what was written, and `FILE.part.state` a JSON value in
each line: the settings that the content depends on; then, for each mark, how many bytes
stood before it, a checksum of these, and a note by which the writer goes on from there.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gpt2kw.errors import UserError
from gpt2kw.text.files import check_output, link_target, lock_file, output_errors

_BLOCK = 2**20
"""Bytes that are read at a time."""


class Draft:
    """What there is of a file, to which text is added."""

    def __init__(self, part: IO[bytes], state: IO[bytes]) -> None:
        self._part = part
        self._state = state
        self._digest = hashlib.blake2b(digest_size=16)
        self.notes: list[Any] = []
        """Those of the marks up to here."""

    def write(self, text: str) -> None:
        """Add a text. It is in the file when this returns."""
        content = text.encode()
        self._part.write(content)
        self._part.flush()
        self._digest.update(content)

    def mark(self, note: Any) -> None:
        """Let a later go begin here, and find `note`, a JSON value, among its `notes`."""
        self.notes.append(note)
        _write_line(self._state, [self._part.tell(), self._digest.hexdigest(), note])

    def _go_back(self) -> None:
        """Go to the last mark before which the file is as it was, and forget what follows.

        A power failure may have taken the end of either file, or put zeros there.
        """
        place = self._state.tell()
        digest, end = self._digest.copy(), 0
        for line in self._state:
            mark = _value(line)
            if not isinstance(mark, list) or len(mark) != 3:
                break
            size, checksum, note = mark
            _read_into(digest, self._part, size - end)
            if digest.hexdigest() != checksum:
                break
            self._digest, end, place = digest.copy(), size, place + len(line)
            self.notes.append(note)
        for file, length in ((self._part, end), (self._state, place)):
            file.seek(length)
            file.truncate()


def settings_of(path: str | Path) -> dict[str, Any] | None:
    """Return the settings with which `path` was begun, if it was begun and not finished."""
    part, state = _names(link_target(path))
    try:
        with open(state, "rb") as file:
            return _value(file.readline()) if part.stat().st_size else None
    except OSError:
        return None


@contextlib.contextmanager
def resumable_writer(path: str | Path, settings: dict[str, Any]) -> Iterator[Draft]:
    """Begin `path`, or go on with it; it has its name when the block ends without an error.

    If the block ends with one, what was written stays for a later go, unless there is
    no mark to begin from.

    Args:
        path: of the file.
        settings: JSON values by the names that users know.

    Raises:
        UserError: the file was begun with other settings, or can't be written, or another
            process writes it.
    """
    path = check_output(path)
    part, state = _names(path)
    with output_errors(path), contextlib.ExitStack() as stack:
        draft = Draft(*(stack.enter_context(_open(name, part)) for name in (part, state)))
        if part.stat().st_size:
            _check_settings(part, state, _value(draft._state.readline()), settings)
            draft._go_back()
        else:
            draft._state.truncate(0)
            _write_line(draft._state, settings)
        try:
            yield draft
            os.fsync(draft._part.fileno())
            os.replace(part, path)
        except BaseException:
            if not draft.notes:
                for file in (part, state):
                    file.unlink(missing_ok=True)
            raise
        state.unlink()


def _names(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.state")


@contextlib.contextmanager
def _open(path: Path, part: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading and writing, made if need be, for this process alone."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if not lock_file(file, path):
            raise UserError(
                f"another process is writing {part}", "wait for it, or name another file"
            )
        yield file


def _check_settings(part: Path, state: Path, begun: Any, settings: dict[str, Any]) -> None:
    anew = f"to begin anew, remove {part}"
    if not isinstance(begun, dict):
        if not state.stat().st_size:
            state.unlink()
        raise UserError(f"{part} can't be gone on with, for {state} is missing or damaged", anew)
    # As it is after writing and reading.
    settings = json.loads(json.dumps(settings))
    changed = [
        f"{name} {begun.get(name)} (now {settings.get(name)})"
        for name in begun | settings
        if begun.get(name) != settings.get(name)
    ]
    if changed:
        raise UserError(
            f"{part} was begun with {', '.join(changed)}",
            f"give what it was begun with, or, {anew}",
        )


def _read_into(digest: Any, file: IO[bytes], size: int) -> None:
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)


def _write_line(file: IO[bytes], value: Any) -> None:
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    file.flush()


def _value(line: bytes) -> Any:
    """Return the value of a line; None for one that is torn or damaged."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
