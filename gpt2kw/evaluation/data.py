"""What an evaluation reads: keywords with people's texts, and the training text."""

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2kw.errors import UserError
from gpt2kw.evaluation.options import EvaluateOptions
from gpt2kw.evaluation.words import Words, words
from gpt2kw.text.format import Document, Record
from gpt2kw.text.keywords import distinct_keywords, split_keywords
from gpt2kw.text.sources import Field, read_rows
from gpt2kw.text.tally import Tally
from gpt2kw.training.corpus import read_records

log = logging.getLogger(__name__)

PEOPLE = "people"
SHUFFLED = "shuffled"
REPEATED = "repeated"
TRAINING = "training text"
"""What models are compared with, by their names in the report."""

Texts = list[list[Document]]
"""Documents for each prompt."""


@dataclass(frozen=True)
class Prompt:
    """Keywords to write about, and what people wrote about them."""

    category: str | None
    keywords: tuple[str, ...]
    people: tuple[Record, ...]


def text_of(record: Record) -> str:
    """Return title and body as one text."""
    return "\n".join(part for part in (record.title, record.body) if part)


def read_prompts(options: EvaluateOptions) -> tuple[list[Prompt], list[str]]:
    """Return at most `options.prompts` different lists of keywords, chosen by the seed.

    A text by people belongs to one list only, so that none is measured twice. Lists that can't
    be asked for in all settings are left out; a line for each reason says how many.

    Raises:
        UserError: the source can't be read, or has no keywords that can be asked for.
    """
    tally = Tally()
    records = list(
        _table_records(options, tally) if options.is_table else read_records(options.source, tally)
    )
    for line in tally.lines():
        log.info("%s: %s", options.source, line)
    random.Random(options.seed).shuffle(records)
    grouped: defaultdict[tuple[str | None, frozenset[str]], list[Record]] = defaultdict(list)
    known: set[str] = set()
    again = 0
    for record in records:
        text = text_of(record)
        if not record.keywords:
            continue
        if text in known:
            again += 1
            continue
        if text:
            known.add(text)
        keywords = frozenset(record.keywords.lower().split())
        grouped[record.category, keywords].append(record)
    if not grouped:
        raise UserError(
            f"{options.source} has no text with keywords",
            "give validation text that encode wrote, or a table with --keywords-field",
        )
    usable: list[Prompt] = []
    refused: Counter[str] = Counter()
    for some in grouped.values():
        prompt = _prompt(some)
        try:
            for asked in options.settings().values():
                replace(asked, keywords=" ".join(prompt.keywords))
        except UserError as error:
            refused[str(error)] += 1
        else:
            usable.append(prompt)
    if not usable:
        raise UserError(
            f"{options.source} has no list of keywords that can be used", next(iter(refused))
        )
    notes = [f"{count:,} lists of keywords left out: {why}" for why, count in refused.items()]
    if again:
        notes.append(
            f"{again:,} of {len(records):,} documents of {options.source} are other keywords of "
            "the same texts, and not used"
        )
    if len(usable) < options.prompts:
        notes.append(f"{len(usable):,} lists of keywords in {options.source} can be used")
    return usable[: options.prompts], notes


def _prompt(records: Sequence[Record]) -> Prompt:
    first = records[0]
    people = tuple(record for record in records if text_of(record))
    return Prompt(first.category, tuple((first.keywords or "").split()), people)


def _table_records(options: EvaluateOptions, tally: Tally) -> Iterator[Record]:
    columns = {
        "keywords": options.keywords_field,
        "title": options.references_field,
        "category": options.category_field,
    }
    columns = {section: column for section, column in columns.items() if column}
    for place, row in read_rows(str(options.source), list(columns.values()), True, tally):
        fields = {section: row[column] for section, column in columns.items()}
        keywords = _keywords(fields["keywords"], options.keyword_sep)
        if not keywords:
            tally.add("rows without keywords, skipped", place)
            continue
        category = "\n".join(_listed(fields.get("category"))) or None
        for title in _listed(fields.get("title")) or [None]:
            yield Record(category, " ".join(keywords), title)


def _keywords(field: Field, separator: str | None) -> list[str]:
    if separator or isinstance(field, list):
        return split_keywords(field, separator or ",")
    return distinct_keywords((field or "").replace(",", " ").split())


def _listed(field: Field) -> list[str]:
    """Return the texts in a cell, which may be a list of several, without blank ones."""
    return [text for text in (field if isinstance(field, list) else [field]) if text]


@dataclass(frozen=True)
class Training:
    """The different texts of a training text."""

    records: list[Record]
    """A document of each text, in their order."""
    words: list[Words]
    """The words of each."""
    keywords: dict[str, set[int]]
    """The places of the texts that have each keyword in one of their documents."""

    @classmethod
    def read(cls, path: Path) -> "Training":
        """Read a training text; `UserError` if it has no usable document."""
        records: list[Record] = []
        places: dict[str, int] = {}
        keywords: defaultdict[str, set[int]] = defaultdict(set)
        for record in read_records(path, Tally()):
            place = places.setdefault(text_of(record), len(records))
            if place == len(records):
                records.append(record)
            for keyword in (record.keywords or "").lower().split():
                keywords[keyword].add(place)
        return cls(records, [words(text) for text in places], keywords)

    def has_together(self, keywords: Iterable[str]) -> bool:
        """Whether a training text has all of the keywords, perhaps in several documents."""
        holders = [self.keywords.get(keyword.lower(), set()) for keyword in keywords]
        return bool(set.intersection(*holders)) if holders else False


def peoples_texts(prompts: Sequence[Prompt], most: int) -> Texts:
    """Return what people wrote about each prompt's keywords, `most` texts at most."""
    return [[Document(record) for record in prompt.people[:most]] for prompt in prompts]


def shuffled(texts: Texts, seed: int) -> Texts:
    """Return the same texts with the words of each section in random order."""
    rng = random.Random(seed)

    def shuffle(text: str | None) -> str | None:
        parts = (text or "").split()
        return " ".join(rng.sample(parts, len(parts))) if text else text

    return [
        [
            replace(
                one,
                record=replace(
                    one.record, title=shuffle(one.record.title), body=shuffle(one.record.body)
                ),
            )
            for one in some
        ]
        for some in texts
    ]


def repeated(records: Sequence[Record], prompts: int, nsamples: int, seed: int) -> Texts:
    """Return a twentieth as many texts as prompts, over and over, whatever the prompt.

    So writes a model that knows a few texts by heart and nothing else.
    """
    rng = random.Random(seed)
    few = rng.sample(records, min(len(records), max(1, prompts // 20)))
    return [[Document(rng.choice(few))] * nsamples for _ in range(prompts)]
