"""Text files: read in chunks; written whole or not at all."""

import contextlib
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from gpt2kw.errors import UserError


def check_output(path: str | Path) -> Path:
    """Return where a file can be made for `path`; raise `UserError` before any work if nowhere.

    For a symbolic link that is where it points, so that the link stays.
    """
    path = link_target(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise UserError(f"the output {path} can't be: {error.strerror}", "rename it") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"the output {path} is a folder", "name a file in it")
    if not stat.S_ISREG(mode):
        # It would be replaced: a machine without /dev/null does not get far.
        raise UserError(f"the output {path} is a device or a pipe", "name a file")
    _check_parent(path, "choose another with -o")
    return path


def link_target(path: str | Path) -> Path:
    """Return where a symbolic link points, whether that is there or not, and `path` if it is none.

    So messages name a path as it was given.
    """
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def check_output_folder(path: str | Path) -> Path:
    """Return `path` if a folder can be made there, or is there; raise `UserError` if not."""
    path = Path(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"the output {path} is a file", "name a folder")
    if os.path.realpath(path) == os.getcwd():
        raise UserError(f"the output {path} is the folder that you are in", "name one in it")
    _check_parent(path, "choose another place")
    return path


def _check_parent(path: Path, fix: str) -> None:
    folder = path.parent
    if not os.path.isdir(folder):
        raise UserError(f"the output folder {folder} does not exist", f"make it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"the output folder {folder} is read-only", fix)


def check_not_source(output: Path, sources: Iterable[str | Path]) -> None:
    """Raise `UserError` if a file would be written over one that is read."""
    for source in sources:
        if Path(source).resolve() == output.resolve():
            raise UserError(f"{output} would be written over {source}", "choose another with -o")


def read_chunks(path: str | Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file in chunks of a mebibyte, line breaks as they are.

    Raises:
        UserError: the file can't be read, or holds something else.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            while chunk := file.read(2**20):
                yield chunk
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason}", "give a file that the encoder wrote"
        ) from error
    except OSError as error:
        raise UserError(
            f"can't read {path}: {error.strerror or error}", "check the path"
        ) from error


def lock_file(file: IO, path: Path) -> bool:
    """Lock `file`, opened at `path`, until it is closed; false if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Else this is the file of one who ended meanwhile, and others make a new one.
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


@contextlib.contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Turn what the system says of a failed write to `path` into a `UserError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"can't write {path}: {reason}", "free some space or choose another place"
        ) from error


@contextlib.contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[str]]:
    """Open `path` for UTF-8 text that replaces it when the block ends without an error.

    Line breaks are written as they are. On an error the file keeps its old content,
    or stays absent.
    """
    path = check_output(path)
    with output_errors(path), scratch_folder(path) as folder:
        draft = folder / path.name
        with open(draft, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `path` when the block ends without an error.

    A folder that was there before is removed then; on an error it stays as it was. Files
    are made in the folder itself, not in folders below.
    """
    check_output_folder(path)
    target = link_target(path)
    with output_errors(path), scratch_folder(target) as scratch:
        draft, before = scratch / "new", scratch / "before"
        draft.mkdir()
        yield draft
        for file in draft.iterdir():
            to_disk(file)
        try:
            if target.exists():
                target.rename(before)
            draft.rename(target)
        except BaseException:
            if before.exists() and not target.exists():
                before.rename(target)
            raise
        to_disk(target.parent)


def set_aside(path: Path) -> Path:
    """Rename a file or folder to a free name beside it, and return that."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    with output_errors(path):
        return path.rename(aside)


def to_disk(path: Path) -> None:
    """Make the system write out what it still holds of a file or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_writer_or_stdout(path: str | Path | None) -> Iterator[IO[str]]:
    """Open `path` as `atomic_writer` does, or give standard output if it is None."""
    if path is None:
        yield sys.stdout
        # Before anybody says that all was written.
        sys.stdout.flush()
    else:
        with atomic_writer(path) as file:
            yield file


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; take away again, at the end, those that stayed empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, so that what is made in it can be renamed to `path`."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder)
