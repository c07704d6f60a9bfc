"""Texts for each row of a table, in order, however often the job is stopped.

A row is a request: where it lacks something, the options hold. Its texts depend on the
seed and on its place in the table, so that they are the same whoever writes them, and
after a kill the rows go on behind the texts that are on the disk.
"""

import contextlib
import difflib
import logging
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from gpt2kw.errors import UserError, check_option
from gpt2kw.generation.asking import Asker, Portion
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.generation.output import lines
from gpt2kw.generation.ranking import LeftOut, Text
from gpt2kw.generation.word_filter import WordFilter
from gpt2kw.model.folder import Model
from gpt2kw.model.frozen import freeze_weights
from gpt2kw.model.named import load_model
from gpt2kw.model.runs import checksum
from gpt2kw.text.files import check_not_source
from gpt2kw.text.keywords import clean_keyword
from gpt2kw.text.normalise import normal_form
from gpt2kw.text.parallel import worker_pool
from gpt2kw.text.resumable import resumable_writer, settings_of
from gpt2kw.text.sources import Field, Row, column_names, read_rows
from gpt2kw.text.tally import Tally

log = logging.getLogger(__name__)

_ABOUT = ("keywords", "category", "prefix")
_COLUMNS = (*_ABOUT, "nsamples")
_NEAR = 0.8
"""A column whose name is so like one of these is taken for a slip."""
_MARK_EVERY = 32
"""Texts that a kill costs at most, with those of a row where beams search."""
_BATCHES_PER_SHARE = 4
"""Batches that a worker on the cluster writes in one go: only its last one may be small."""

_FILES = ("prompts", "word_list")
_OF_THE_JOB = ("output", "address", "workers", "batch_size", "run_name", "model", *_FILES)
"""Options that no text depends on, or whose content counts and not its name."""

Outcome = Text | LeftOut


@dataclass
class BulkReport:
    """What has been done so far.

    `problems` says in a line each what rows were skipped or mended, and where.
    """

    tried: int = 0
    """Texts that were tried; those that are there, and those that were left out."""
    texts: int = 0
    cut: int = 0
    """Texts that are as long as they may be, and have no end."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Texts that are missing, by what those that were written were."""
    problems: list[str] = field(default_factory=list)


class _Output(Protocol):
    """Where texts go."""

    notes: list[Any]

    def write(self, text: str) -> object: ...

    def mark(self, note: Any) -> object: ...


def generate_many(
    options: GenerateOptions | None = None, *, progress: bool = False, **fields: Any
) -> BulkReport:
    """Write the texts of all rows of `options.prompts`; the fields may be given as such.

    To a file they go by way of `resumable_writer`: a job that was killed goes on when it
    is called again with the same options, and the file becomes what it would have been.

    Raises:
        UserError: the options, the table, its columns or the model can't be used, or no
            row can; or what is there of the file was begun with other options.
    """
    options = replace(options, **fields) if options else GenerateOptions(**fields)
    check_option("prompts", options.prompts, options.prompts is not None, "a table")
    options = _resolved(options)
    table = _Table(options)
    if options.output:
        check_not_source(options.output, [table.source])
    model, titles = load_model(options.run_name, options.model)
    writer = _Writer(model, titles.resolve(), options)
    with _output(options, model) as output:
        done = BulkReport(**output.notes[-1]["done"]) if output.notes else BulkReport()
        if done.tried:
            log.info("going on behind the %d texts of %s.part", done.texts, options.output)
        with (
            tqdm(
                desc="generate",
                unit=" texts",
                total=table.count_texts(),
                initial=done.tried,
                disable=None if progress else True,
            ) as bar,
            _hope(output, options),
        ):
            _write(table, writer, output, done, bar)
            # Rows that can't be used had been counted.
            bar.total = bar.n
    return replace(done, problems=table.tally.lines())


class _Table:
    """The rows of a file, and what is wrong with them."""

    def __init__(self, options: GenerateOptions) -> None:
        """Look at the file's columns."""
        self.source = str(options.prompts)
        self.options = options
        self.tally = Tally()
        self._columns = _used_columns(self.source)
        self._kinds: dict[str, str] = {}

    def count_texts(self) -> int:
        """Return how many texts are asked for."""
        count = 0
        for _, row in self._rows(Tally()):
            with contextlib.suppress(UserError):
                count += _nsamples(row, self.options)
        return count

    def portions(self, model: Model) -> Iterator[Portion]:
        """Yield the rows that can be used; the others are counted.

        Raises:
            UserError: none can be used.
        """
        asker, found = Asker.of(model), False
        self.tally = Tally()
        for place, (where, row) in enumerate(self._rows(self.tally)):
            try:
                request = _request(row, self.options)
                asker.ask(request)
            except UserError as error:
                self._refuse(error, where)
                continue
            if doubt := asker.doubt(request):
                self._count(f"rows in doubt, such as: {doubt}", "doubt", where)
            found = True
            yield Portion(request, place, range(request.nsamples))
        if not found:
            reasons = "; ".join(self.tally.lines()) or "it has none"
            raise UserError(f"no row of {self.source} can be used: {reasons}", "mend the rows")

    def _rows(self, tally: Tally) -> Iterator[Row]:
        return read_rows(self.source, self._columns, True, tally)

    def _refuse(self, error: UserError, where: str) -> None:
        # What has the same remedy is of one kind, and the first shows which.
        self._count(f"rows skipped, such as: {error}", error.args[1], where)

    def _count(self, problem: str, kind: str, where: str) -> None:
        self.tally.add(self._kinds.setdefault(kind, problem), where)


def _used_columns(source: str) -> list[str]:
    """Return the columns of a file that say what to write."""
    if source.startswith("tfds:"):
        raise UserError(f"--prompts is {source!r}", "give a file")
    # A line of plain text is keywords.
    names = column_names(source) or ["keywords"]
    absent = [column for column in _COLUMNS if column not in names]
    others = [name for name in names if name not in _COLUMNS]
    for name in others:
        for near in difflib.get_close_matches(name.lower(), absent, 1, _NEAR):
            raise UserError(
                f"{source} has a column {name!r} and none {near!r}", "rename it, or take it out"
            )
    if not set(_ABOUT) & set(names):
        raise UserError(
            f"{source} has no column {', '.join(_ABOUT)}, only {', '.join(map(repr, names))}",
            "name one of its columns so",
        )
    if others:
        log.info("%s: not used are the columns %s", source, ", ".join(map(repr, others)))
    return [column for column in _COLUMNS if column in names]


def _request(row: dict[str, Field], options: GenerateOptions) -> GenerateOptions:
    keywords = row.get("keywords")
    if isinstance(keywords, list):
        # What is no word stays, to be complained of.
        keywords = " ".join(clean_keyword(keyword) or keyword for keyword in keywords)
    found = {"keywords": keywords} | {name: _joined(row.get(name)) for name in _ABOUT[1:]}
    given = {name: text for name, text in found.items() if text and text.strip()}
    return replace(
        options, prompts=None, address=None, workers=0, nsamples=_nsamples(row, options), **given
    )


def _joined(cell: Field) -> str | None:
    return " ".join(cell) if isinstance(cell, list) else cell


def _nsamples(row: dict[str, Field], options: GenerateOptions) -> int:
    """Return how many texts a row asks for; `UserError` if that is no number."""
    cell = (_joined(row.get("nsamples")) or "").strip()
    if not cell:
        return options.nsamples
    # Where a cell of the column is empty, some tools write 3.0 for 3.
    number = re.fullmatch(r"([0-9]{1,10})(\.0*)?", cell)
    count = int(number[1]) if number else 0
    check_option("nsamples", cell, 1 <= count <= 10**9, "1 to 1,000,000,000")
    return count


def _resolved(options: GenerateOptions) -> GenerateOptions:
    """Return options that mean the same in all processes, and in the next go."""
    if options.word_list:
        # What is wrong with it is better said at once.
        WordFilter.load(options.word_list)
        options = replace(options, word_list=options.word_list.resolve())
    if options.seed is None:
        begun = settings_of(options.output) if options.output else None
        found = begun.get("--seed") if isinstance(begun, dict) else None
        options = replace(options, seed=found if isinstance(found, int) else secrets.randbits(32))
    return options


@contextlib.contextmanager
def _output(options: GenerateOptions, model: Model) -> Iterator[_Output]:
    if not options.output:
        yield _StandardOutput()
        return
    settings = {"the model's checksum": model.checksum()}
    for name in _FILES:
        if path := getattr(options, name):
            with open(path, "rb") as file:
                settings[f"the checksum of --{name.replace('_', '-')}"] = checksum(file)
    sampling = asdict(options.sampling(model.sampling))
    chosen = asdict(options) | sampling | {"format": options.output_format}
    settings |= {
        f"--{name.replace('_', '-')}": value
        for name, value in chosen.items()
        if name not in _OF_THE_JOB
    }
    with resumable_writer(options.output, settings) as draft:
        yield draft


class _StandardOutput:
    """Standard output, which can't be gone on with."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self._file = sys.stdout

    def write(self, text: str) -> None:
        print(text, end="", file=self._file, flush=True)

    def mark(self, note: Any) -> None:
        """Do nothing, for no later job begins here."""


@contextlib.contextmanager
def _hope(output: _Output, options: GenerateOptions) -> Iterator[None]:
    """Say what can be done about it if the job ends too early."""
    try:
        yield
    except BaseException:
        if output.notes:
            log.info("%s.part stays; the same command goes on with it", options.output)
        raise


def _write(table: _Table, writer: "_Writer", output: _Output, done: BulkReport, bar: tqdm) -> None:
    """Write what is left of all texts, and mark now and then what has been done."""
    options = table.options
    titles: list[str] = []
    """Those since the last mark, where no title may come twice."""
    marked = done.tried
    seen = [title for note in output.notes for title in note["titles"]]
    portions = _behind(table.portions(writer.model), done.tried)
    for outcome in _outcomes(portions, writer, options, seen):
        # A search for all texts of a row can't begin in its middle.
        may_begin = not options.beams or outcome.number == 0
        if done.tried >= marked + _MARK_EVERY and may_begin:
            output.mark({"done": asdict(done), "titles": titles})
            marked, titles = done.tried, []
        done.tried += 1
        if isinstance(outcome, LeftOut):
            done.left_out[outcome.reason] = done.left_out.get(outcome.reason, 0) + 1
        else:
            output.write(lines(outcome, options, done.texts))
            done.texts += 1
            done.cut += not outcome.document.finished
            if options.unique:
                titles.append(normal_form(outcome.whole_title))
        bar.update()


def _behind(portions: Iterable[Portion], done: int) -> Iterator[Portion]:
    """Yield what is left behind so many texts."""
    for portion in portions:
        left = portion.numbers[done:]
        done -= len(portion.numbers) - len(left)
        if left:
            yield replace(portion, numbers=left)


def _outcomes(
    portions: Iterable[Portion], writer: "_Writer", options: GenerateOptions, seen: list[str]
) -> Iterator[Outcome]:
    """Yield what becomes of each text, in order."""
    if not options.address:
        yield from writer.generator.outcomes(portions, options, seen)
        return
    size = _BATCHES_PER_SHARE * options.batch_size
    with (
        # Where ray would tell of workers that died, among the texts.
        contextlib.redirect_stdout(sys.stderr),
        worker_pool(
            _Worker,
            shared=writer,
            workers=options.workers,
            address=options.address,
            batch=1,
            on_gpus=True,
        ) as write,
    ):
        first = None
        for precision, outcomes in write(_shares(portions, size, whole=options.beams > 0)):
            first = first or precision
            if precision != first:
                raise UserError(
                    f"the cluster's machines multiply in {first} and {precision}, "
                    "which gives other texts",
                    "set --precision",
                )
            yield from outcomes


def _shares(portions: Iterable[Portion], size: int, whole: bool) -> Iterator[list[Portion]]:
    """Yield portions whose candidates are `size` together, or more where they stay `whole`."""
    share: list[Portion] = []
    room = size
    for portion in portions:
        left, each = portion.numbers, portion.request.candidate_count
        while left:
            taken = left if whole else left[: max(1, room // each)]
            share.append(replace(portion, numbers=taken))
            left = left[len(taken) :]
            room -= len(taken) * each
            if room <= 0:
                yield share
                share, room = [], size
    if share:
        yield share


@dataclass(frozen=True)
class _Writer:
    """A model, and how to write with it."""

    model: Model
    titles: Path
    options: GenerateOptions

    @cached_property
    def generator(self) -> Any:
        """The model, ready to write."""
        # Here, for the driver of a cluster needs no TensorFlow, which takes seconds to import.
        from gpt2kw.generation.generator import Generator

        options = self.options
        return Generator.of(self.model, options.precision, self.titles, options.backend)


class _Worker:
    """A process on the cluster."""

    def __init__(self) -> None:
        freeze_weights()
        self._writer: _Writer | None = None

    def run(
        self, shares: list[list[Portion]], load: Callable[[], _Writer]
    ) -> list[tuple[str, list[Outcome]]]:
        """Return what becomes of the texts of each share, and how matrices are multiplied."""
        self._writer = self._writer or load()
        generator, options = self._writer.generator, self._writer.options
        return [(generator.precision, list(generator.outcomes(s, options))) for s in shares]
