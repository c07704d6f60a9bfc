"""From tables to training text, in parallel.

One row's way: a reader yields its fields; they become a `Record`; a worker finds the
record's keywords, chooses some for each of its documents and renders them; the
writer puts the n-th document of every record into the n-th part of the file, so that
copies of one record stand a whole pass apart.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tqdm import tqdm

from gpt2kw.errors import UserError, check_option, is_unicode
from gpt2kw.text.files import (
    check_not_source,
    check_output,
    link_target,
    output_errors,
    scratch_folder,
    set_aside,
)
from gpt2kw.text.format import Record, render
from gpt2kw.text.keywords import (
    choose_keywords,
    extract_keywords,
    find_spacy_model,
    split_keywords,
    straighten_quotes,
)
from gpt2kw.text.parallel import batched, worker_pool
from gpt2kw.text.sources import Field, check_columns, check_source, read_rows
from gpt2kw.text.tally import Tally

if TYPE_CHECKING:
    from gpt2kw.text.pipeline import Pipeline

_KEYWORD_TEXT = 5_000
"""Characters of a text that keywords are taken from: a parse needs memory for each."""
_BATCHES_REMEMBERED = 32
"""Batches of a worker after which it forgets words, and has to look at them anew."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Turn tables of short texts into training text."""

    source: tyro.conf.Positional[tuple[str, ...]]
    """Files to read: .csv .tsv .jsonl .txt, also with .gz; .parquet; or tfds:NAME/SPLIT."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The training text. Validation text goes beside it, with .val before the suffix."""
    title_field: str = "title"
    """Column of the text itself."""
    category_field: str | None = None
    """Column of the kind of text, such as a forum's name."""
    keywords_field: str | None = None
    """Column of ready keywords; without it spaCy finds them."""
    body_field: str | None = None
    """Column of a longer text that follows the title."""
    keyword_gen: Literal["title", "body"] = "title"
    """The section in which spaCy looks for keywords."""
    keyword_sep: str = ","
    """What parts the keywords of --keywords-field."""
    header: bool = True
    """With --no-header, CSV and TSV files are a single column without a header."""
    repeat: int = 3
    """Documents per record, each with other keywords."""
    max_keywords: int = 3
    """Most keywords in a document; each has 0 to this many."""
    keyword_length_max: int = 20
    """Longest keyword that spaCy may find, in characters."""
    spacy_model: str = "en_core_web_sm"
    """spaCy's model, for the language of the texts."""
    workers: int = 0
    """Parallel workers; 0 means one for each core."""
    address: str | None = None
    """A running ray cluster, such as auto or ray://host:10001, instead of this machine."""
    validation_fraction: float = 0.05
    """Share of the records that is kept apart for validation."""
    seed: int = 0
    """Of the choice of keywords and of validation records."""

    def __post_init__(self) -> None:
        if isinstance(self.source, str | Path):
            object.__setattr__(self, "source", (self.source,))
        object.__setattr__(self, "source", tuple(map(str, self.source)))
        object.__setattr__(self, "output", Path(self.output))
        check_option("source", self.source, bool(self.source), "at least one file")
        check_option("title-field", self.title_field, bool(self.title_field), "a column's name")
        check_option("keyword-sep", self.keyword_sep, bool(self.keyword_sep), "a separator")
        check_option("repeat", self.repeat, 1 <= self.repeat <= 100, "1 to 100")
        check_option("max-keywords", self.max_keywords, self.max_keywords >= 0, "0 or more")
        check_option(
            "keyword-length-max", self.keyword_length_max, self.keyword_length_max >= 1, "1 or more"
        )
        check_option("workers", self.workers, 0 <= self.workers <= 256, "0 to 256")
        fraction = self.validation_fraction
        check_option("validation-fraction", fraction, 0 <= fraction < 1, "0 to less than 1")
        if self.keyword_gen == "body" and not (self.body_field or self.keywords_field):
            raise UserError("--keyword-gen is body without a body", "name it with --body-field")

    @property
    def validation_output(self) -> Path:
        """Where the validation text goes."""
        return validation_path(self.output)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are used, by section."""
        fields = {
            "title": self.title_field,
            "category": self.category_field,
            "keywords": self.keywords_field,
            "body": self.body_field,
        }
        return {section: column for section, column in fields.items() if column}


def validation_path(text: Path) -> Path:
    """Return the path of the validation text that belongs to a training text."""
    return text.with_name(f"{text.stem}.val{text.suffix}")


@dataclass(frozen=True)
class EncodeReport:
    """What an encoding wrote.

    `problems` says in a line each what was skipped, mended or moved away, and where.
    """

    records: int
    training_documents: int
    validation_documents: int
    problems: list[str]


def encode_keywords(
    options: EncodeOptions | None = None, *, progress: bool = False, **fields: Any
) -> EncodeReport:
    """Turn tables into training text; the fields of `EncodeOptions` may be given as such.

    The same options give the same bytes for any number of workers. Memory does not
    depend on the number of rows.

    Raises:
        UserError: the options or the sources can't be used, or nothing could be
            read. Then no file was written.
    """
    options = replace(options, **fields) if options else EncodeOptions(**fields)
    for source in options.source:
        check_source(source)
    check_output(options.output)
    check_output(options.validation_output)
    check_not_source(options.output, options.source)
    check_not_source(options.validation_output, options.source)
    tally = Tally()
    records = _read_records(options, tally)
    # What can't be read, or has no such column, had better not wait until workers have started.
    for source in filter(os.path.isfile, options.source):
        check_columns(source, list(options.columns.values()), options.header)
    first = list(islice(records, 1))
    if not first:
        why = f" ({'; '.join(lines)})" if (lines := tally.lines()) else ""
        raise UserError(
            f"{', '.join(options.source)}: no row with a {options.title_field}{why}",
            "check the file and --title-field",
        )
    with (
        _encoder(options) as encode,
        tqdm(desc="encode", unit=" rows", disable=None if progress else True) as bar,
    ):
        counts, notes = _write(options, encode(chain(first, records)), bar)
    return EncodeReport(*counts, problems=tally.lines() + notes)


def _read_records(options: EncodeOptions, tally: Tally) -> Iterator[Record]:
    columns = options.columns
    for source in options.source:
        for place, row in read_rows(source, list(columns.values()), options.header, tally):
            texts = {s: _text(s, row[column], options) for s, column in columns.items()}
            record = Record(**{s: _encodable(text, place, tally) for s, text in texts.items()})
            if not (record.title or "").strip():
                tally.add("rows with a blank title, skipped", place)
                continue
            text = getattr(record, options.keyword_gen) or ""
            if len(text) > _KEYWORD_TEXT and not options.keywords_field:
                tally.add(
                    f"texts whose keywords come from the first {_KEYWORD_TEXT:,} characters", place
                )
            yield record


def _text(section: str, field: Field, options: EncodeOptions) -> str | None:
    if section == "keywords":
        return " ".join(split_keywords(field, options.keyword_sep))
    if isinstance(field, list):
        return options.keyword_sep.join(field)
    # An empty cell is a table's way to say that there is none.
    return field or None


def _encodable(text: str | None, place: str, tally: Tally) -> str | None:
    if text is None or is_unicode(text):
        return text
    tally.add("texts with half a surrogate pair, which was replaced", place)
    return text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The documents of one record, and whether they are for validation."""

    documents: list[str]
    validation: bool


class _Encoder:
    """Encodes batches of records. Holds spaCy's model, if keywords are to be found."""

    def __init__(self, options: EncodeOptions) -> None:
        self._options = options
        self._batches = 0
        self._zone = ExitStack()

    @cached_property
    def _pipeline(self) -> "Pipeline":
        # With the first batch and not before: what is raised there reaches the caller.
        # The import is spaCy's, which the command itself does without.
        from gpt2kw.text.pipeline import load_pipeline

        return load_pipeline(self._options.spacy_model)

    def run(self, records: list[Record]) -> list[_Encoded]:
        """Return the documents of each record."""
        return [
            self._encode_record(record, keywords)
            for record, keywords in zip(records, self._keywords(records), strict=True)
        ]

    def _keywords(self, records: list[Record]) -> list[list[str]]:
        options = self._options
        if options.keywords_field:
            return [(record.keywords or "").split() for record in records]
        texts = [
            straighten_quotes((getattr(record, options.keyword_gen) or "")[:_KEYWORD_TEXT])
            for record in records
        ]
        if self._batches % _BATCHES_REMEMBERED == 0:
            # Outside a zone spaCy remembers every word that it has ever met.
            self._zone.close()
            self._zone.enter_context(self._pipeline.memory_zone())
        self._batches += 1
        docs = self._pipeline(texts)
        return [extract_keywords(doc, options.keyword_length_max) for doc in docs]

    def _encode_record(self, record: Record, keywords: list[str]) -> _Encoded:
        options = self._options
        rng = random.Random(_hash(options.seed, record.category, record.title, record.body))
        choices = choose_keywords(keywords, options.repeat, options.max_keywords, rng)
        documents = [render(replace(record, keywords=" ".join(chosen))) for chosen in choices]
        # By the text alone, so that a title that two categories share stays on one side.
        text = " ".join(f"{record.title} {record.body or ''}".casefold().split())
        share = _hash(options.seed, text) / 2**64
        return _Encoded(documents, validation=share < options.validation_fraction)


def _hash(*values: object) -> int:
    """Return 64 bits that depend on the values alone, not on the process."""
    return int.from_bytes(blake2b(repr(values).encode(), digest_size=8).digest(), "big")


@contextmanager
def _encoder(options: EncodeOptions) -> Iterator[Callable[[Iterable[Record]], Iterator[_Encoded]]]:
    """Yield a function that encodes a stream of records, in order."""
    if options.keywords_field:
        # Without spaCy there is too little to do for more processes to help.
        encoder = _Encoder(options)
        yield lambda records: (e for batch in batched(records) for e in encoder.run(batch))
        return
    if not options.address:
        find_spacy_model(options.spacy_model)
    with worker_pool(_Encoder, options, workers=options.workers, address=options.address) as encode:
        yield encode


def _write(
    options: EncodeOptions, encoded: Iterator[_Encoded], bar: tqdm
) -> tuple[tuple[int, int, int], list[str]]:
    """Write both files; return the numbers of records and of documents in each, and what to say.

    The n-th documents of all records go to a file of their own, the files then one
    behind the other: so copies of a record are far apart, in constant memory.
    """
    outputs = [link_target(path) for path in (options.output, options.validation_output)]
    records, documents, notes = 0, [0, 0], []
    with output_errors(options.output), ExitStack() as scratch:
        folders = [scratch.enter_context(scratch_folder(path)) for path in outputs]
        passes = [[folder / str(n) for n in range(options.repeat)] for folder in folders]
        with ExitStack() as stack:
            files = [[stack.enter_context(_create(path)) for path in side] for side in passes]
            for item in encoded:
                for file, document in zip(files[item.validation], item.documents, strict=False):
                    file.write(document + "\n")
                records += 1
                documents[item.validation] += len(item.documents)
                bar.update()
        if not documents[0]:
            raise UserError(
                f"--validation-fraction {options.validation_fraction} leaves no training text",
                f"give less; there are {records:,} records",
            )
        drafts = [_joined(side) for side in passes]
        for draft, output, count in zip(drafts, outputs, documents, strict=True):
            if count:
                os.replace(draft, output)
            elif output.exists():
                # Most likely from an earlier encoding, with texts that now are for training.
                notes.append(
                    f"no validation text was made; the earlier {options.validation_output} is now "
                    f"{set_aside(options.validation_output)} (see finetune --validation)"
                )
    return (records, documents[0], documents[1]), notes


def _create(path: Path) -> IO[str]:
    return open(path, "w", encoding="utf-8", newline="")


def _joined(paths: list[Path]) -> Path:
    """Append all files to the first one, which is then safe on the disk."""
    first, *others = paths
    with open(first, "ab") as target:
        for path in others:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, target)
            path.unlink()
        target.flush()
        os.fsync(target.fileno())
    return first
