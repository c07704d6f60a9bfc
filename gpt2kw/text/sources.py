"""Reading rows from tables of texts: CSV, TSV, JSON lines, Parquet, plain lines, TFDS.

Every reader streams and yields `(place, row)`: where the row stands, for messages,
and a dict from column names to text, or to a list of texts where a format has lists.
What can't be read is counted in a `Tally`.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gpt2kw.errors import UserError, did_you_mean
from gpt2kw.text.tally import Tally

Field = str | list[str] | None
Row = tuple[str, dict[str, Field]]

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
_TFDS = "tfds:"
_LONGEST_FIELD = 16 * 2**20
"""Characters. A longer CSV field is nearly always a quote that was never closed."""

# The csv module's limit is one number for the process, and low (128 KiB).
csv.field_size_limit(_LONGEST_FIELD)


def check_source(source: str) -> None:
    """Raise `UserError` unless `source` names something that can be opened."""
    if source.startswith(_TFDS):
        if "/" not in source:
            raise UserError(f"{source} names no split", f"write {source}/train")
        return
    path = Path(source)
    try:
        exists = path.exists()
    except OSError as error:
        raise UserError(f"can't look for {source}: {error.strerror}", "check the path") from error
    if not exists:
        near = did_you_mean(path.name, (p.name for p in _siblings(path)))
        raise UserError(f"there is no file {source}", f"{near}check the path")
    if path.is_dir():
        raise UserError(f"{source} is a folder", "name the files in it, such as folder/*.csv")
    if (form := _format_of(source)) not in FORMATS:
        raise UserError(
            f"{source} has an unknown ending",
            f"use {' '.join(_TEXT_READERS)}, also with .gz behind it, or .parquet",
        )
    if form == ".parquet" and _is_gzip(source):
        raise UserError(f"{source} is Parquet in gzip, which can't be read", f"gunzip {source}")
    if path.stat().st_size == 0:
        raise UserError(f"{source} is empty", "give a file with rows")


def _siblings(path: Path) -> Iterator[Path]:
    return path.parent.iterdir() if path.parent.is_dir() else iter(())


def _format_of(source: str) -> str:
    return Path(source.lower().removesuffix(".gz")).suffix


def read_rows(source: str, columns: list[str], header: bool, tally: Tally) -> Iterator[Row]:
    """Yield the rows of one source.

    Args:
        source: a file, or `tfds:NAME/SPLIT`.
        columns: the columns that will be used. `UserError` if one is not there.
        header: false if CSV and TSV files have no header and a single column. That
            one, and a line of plain text, takes the first name of `columns`.
        tally: gets what was skipped or mended.
    """
    check_source(source)
    if source.startswith(_TFDS):
        yield from _read_tfds(source, columns)
        return
    with _read_errors(source):
        if _format_of(source) == ".parquet":
            yield from _read_parquet(source, columns)
            return
        with _open(source) as file:
            lines = _decoded_lines(file, source, tally)
            yield from _TEXT_READERS[_format_of(source)](lines, source, columns, header, tally)


def check_columns(source: str, columns: list[str], header: bool) -> None:
    """Raise `UserError` unless a file can be read and has the columns.

    Of JSON lines, in which each may have others, only so many are read as it takes to see all.
    """
    skipped = Tally()
    if _format_of(source) != ".jsonl":
        next(read_rows(source, columns, header, skipped), None)
        return
    seen: set[str] = set()
    with _read_errors(source), _open(source) as file:
        for _, value in _json_objects(_decoded_lines(file, source, skipped), source, skipped):
            seen.update(value)
            if seen.issuperset(columns):
                return
    if seen:
        _check_columns(source, columns, sorted(seen))


def column_names(source: str) -> list[str]:
    """Return the names of a file's columns; none for plain text.

    All lines of a JSON lines file are read, for each may have others.

    Raises:
        UserError: the file can't be read.
    """
    check_source(source)
    form, skipped = _format_of(source), Tally()
    with _read_errors(source):
        if form == ".parquet":
            with _parquet(source) as table:
                return table.schema_arrow.names
        with _open(source) as file:
            lines = _decoded_lines(file, source, skipped)
            if form == ".txt":
                return []
            if form == ".jsonl":
                objects = _json_objects(lines, source, skipped)
                return list(dict.fromkeys(name for _, value in objects for name in value))
            _, values = next(_csv_rows(lines, source, skipped), ("", []))
            return [name.strip() for name in values]


@contextmanager
def _read_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{source} is not a whole gzip file: {error}", "make it again") from error
    except OSError as error:
        raise UserError(f"can't read {source}: {error.strerror or error}", "check it") from error


def _open(source: str) -> IO[bytes]:
    return gzip.open(source, "rb") if _is_gzip(source) else open(source, "rb")


def _is_gzip(source: str) -> bool:
    return source.lower().endswith(".gz")


def _decoded_lines(file: IO[bytes], source: str, tally: Tally) -> Iterator[str]:
    """Decode line by line: UTF-8, or where a line is not that, Windows' Latin-1."""
    start = file.read(4)
    file.seek(0)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from io.TextIOWrapper(file, encoding="utf-16", errors="replace", newline="")
        return
    for number, raw in enumerate(file, start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if b"\0" in raw:
            tally.add("lines with NUL bytes, which were removed", f"{Path(source).name}:{number}")
            raw = raw.replace(b"\0", b"")
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            tally.add("lines that are not UTF-8, read as Latin-1", f"{Path(source).name}:{number}")
            # Windows-1252 is Latin-1 with printable characters in place of most controls.
            yield raw.decode("cp1252", errors="replace")


def _check_columns(source: str, columns: list[str], present: list[str]) -> None:
    for column in columns:
        if column not in present:
            raise UserError(
                f"{source} has no column {column!r}, only {', '.join(map(repr, present))}",
                f"{did_you_mean(column, present)}name it with the option that ends in -field",
            )
        if present.count(column) > 1:
            raise UserError(
                f"{source} has {present.count(column)} columns named {column!r}",
                "rename all but one",
            )


def _read_csv(
    lines: Iterator[str], source: str, columns: list[str], header: bool, tally: Tally
) -> Iterator[Row]:
    rows = _csv_rows(lines, source, tally)
    names = columns[:1]
    if header:
        _, values = next(rows, ("", []))
        names = [name.strip() for name in values]
        if not any(names):
            why = f" ({'; '.join(skipped)})" if (skipped := tally.lines()) else ""
            raise UserError(f"{source} has no header row{why}", "give one, or use --no-header")
    _check_columns(source, columns, names)
    for place, values in rows:
        if len(values) == len(names):
            yield place, dict(zip(names, values, strict=True))
        elif header:
            kind = "fewer" if len(values) < len(names) else "more"
            tally.add(f"rows with {kind} fields than the header, skipped", place)
        else:
            tally.add("rows with several fields where one was expected, skipped", place)


def _csv_rows(lines: Iterator[str], source: str, tally: Tally) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the fields of every row that is not an empty line."""
    delimiter = "\t" if _format_of(source) == ".tsv" else ","
    # strict: a field that is torn or never closed must be noticed, not guessed.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        before = reader.line_num
        place = f"{Path(source).name}:{before + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                raise UserError(
                    f"{place}: a quote that opens there is never closed", "close it or double it"
                ) from error
            if "new-line character" in str(error):
                tally.add("rows with a carriage return that is no line's end, skipped", place)
                continue
            # A quote that is closed much later takes lines with it: count them all.
            lines_lost = reader.line_num - before
            tally.add("lines of rows with text behind a closing quote, skipped", place, lines_lost)
            continue
        if values:
            yield place, values


def _read_plain(
    lines: Iterator[str], source: str, columns: list[str], header: bool, tally: Tally
) -> Iterator[Row]:
    _check_columns(source, columns, columns[:1])
    for number, line in enumerate(lines, start=1):
        yield f"{Path(source).name}:{number}", {columns[0]: line.rstrip("\r\n")}


def _read_json_lines(
    lines: Iterator[str], source: str, columns: list[str], header: bool, tally: Tally
) -> Iterator[Row]:
    seen: set[str] = set()
    for place, value in _json_objects(lines, source, tally):
        seen.update(value)
        yield place, {column: _as_field(value.get(column)) for column in columns}
    if seen:
        _check_columns(source, columns, sorted(seen))


def _json_objects(
    lines: Iterator[str], source: str, tally: Tally
) -> Iterator[tuple[str, dict[str, object]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{Path(source).name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            tally.add("lines that are not JSON, skipped", place)
            continue
        if not isinstance(value, dict):
            tally.add("lines that are not a JSON object, skipped", place)
            continue
        yield place, value


def _as_field(value: object) -> Field:
    """Return a JSON, Parquet or TFDS value as text, or as texts if it is a list."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, list | tuple):
        return [str(_as_field(part) or "") for part in value]
    return str(value)


def _read_parquet(source: str, columns: list[str]) -> Iterator[Row]:
    with _parquet(source) as file:
        _check_columns(source, columns, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{Path(source).name}:{number}", {c: _as_field(row[c]) for c in columns}


@contextmanager
def _parquet(source: str) -> Iterator[Any]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            yield file
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{source} is not a Parquet file: {error}", "make it again") from error


def _read_tfds(source: str, columns: list[str]) -> Iterator[Row]:
    # Reading TFDS records takes TensorFlow itself, the one source that does.
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix(_TFDS).rpartition("/")
    try:
        data = tfds.load(name, split=split)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(
            f"tensorflow-datasets has no data set {name!r}",
            "see https://www.tensorflow.org/datasets, or set TFDS_DATA_DIR to where yours lies",
        ) from error
    except (ValueError, AssertionError, OSError) as error:
        raise UserError(
            f"can't load {source}: {error}",
            "check the name, the split and, for a download, the network",
        ) from error
    _check_columns(source, columns, list(data.element_spec))
    for number, row in enumerate(tfds.as_numpy(data), start=1):
        values = {column: _from_numpy(row[column]) for column in columns}
        yield f"{Path(source).name}:{number}", {c: _as_field(value) for c, value in values.items()}


def _from_numpy(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value


_TEXT_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".txt": _read_plain,
}
