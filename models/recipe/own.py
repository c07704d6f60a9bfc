"""Let mini learn to use its keywords from texts of its own.

    python models/recipe/own.py wishes --round 1
    python -m gpt2kw.generate --prompts models/recipe/build/wishes-1.jsonl ... \
      -o models/recipe/build/written-1.jsonl
    python models/recipe/own.py mix --round 1

The first draws lists of keywords from the training texts. Of the texts that mini then writes for
them, the last keeps those that have all their keywords and say nothing twice, and mixes them with
texts by people: training text for the next round. So what the model does when it succeeds by
chance becomes what it does (Dong et al. 2023, "RAFT: reward ranked finetuning for generative
foundation model alignment"), without a change of what it writes about.

    python models/recipe/critic.py --round 3 --model checkpoint/mini-own-2
    python models/recipe/own.py hard --round 3
    python -m gpt2kw.generate --prompts models/recipe/build/hard-3.jsonl ... \
      -o models/recipe/build/guaranteed-3.jsonl
    python models/recipe/own.py mix --round 3 --chosen-by critic

In a later round the texts are chosen instead of drawn, and lists about which mini hardly ever
succeeds are written about with their keywords guaranteed, for it can't learn from what it does not
do by chance.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import tyro

from gpt2kw.generation.ranking import repeated_words
from gpt2kw.text.files import read_chunks
from gpt2kw.text.format import Record, iter_documents, render
from gpt2kw.text.inflection import keyword_pattern

Asked = tuple[str | None, str | None]
"""A category and keywords."""

TITLE = "title"
SENTENCES = ("sentence", "caption")
FEW, MANY = 4, 6
"""Encode gave each document up to three keywords. Lists of so many are made of several of them."""


@dataclass(frozen=True, kw_only=True)
class OwnOptions:
    """Draw keywords for mini to write about, or make training text of what it wrote."""

    task: tyro.conf.Positional[Literal["wishes", "hard", "mix"]]
    build: Path = Path(__file__).parent / "build"
    """Where titles.txt and texts.txt are, and all else goes."""
    round: int = 1
    """Which round; each shuffles anew what it draws."""
    titles: int = 13_000
    """Lists of keywords of titles."""
    sentences: int = 7_000
    """Those of sentences and captions."""
    longer: int = 2_500
    """Those of four to six keywords of one of these."""
    each: int = 2
    """Texts that are kept for a list, at most."""
    chosen_by: Literal["chance", "critic"] = "chance"
    """Whether these are drawn; or are those that `critic.py` finds best, with texts about the
    hard lists, where keywords were guaranteed."""
    rarely: int = 3
    """A list is hard if no more than so many different texts about it may be kept."""
    others: int = 6_000
    """Texts by people of other kinds, so that these are not forgotten."""


def asked(record: Record) -> Asked:
    """Return what a text is to be about."""
    return record.category, record.keywords


def read_records(text: Path) -> list[Record]:
    """Return the records of a training text that have keywords."""
    records = (document.record for document in iter_documents(read_chunks(text)))
    return [record for record in records if (record.keywords or "").strip()]


def with_many_keywords(records: Iterable[Record], chance: random.Random) -> list[Record]:
    """Return a record with four to six keywords of each text whose records have as many."""
    by_text: defaultdict[Record, set[str]] = defaultdict(set)
    for record in records:
        by_text[replace(record, keywords=None)].update((record.keywords or "").split())
    longer = []
    for text, keywords in by_text.items():
        if len(keywords) >= FEW:
            count = chance.randint(FEW, min(MANY, len(keywords)))
            chosen = chance.sample(sorted(keywords), count)
            longer.append(replace(text, keywords=" ".join(chosen)))
    chance.shuffle(longer)
    return longer


def shuffled(records: Iterable[Record], chance: random.Random) -> list[Record]:
    """Return records in another order."""
    records = list(records)
    chance.shuffle(records)
    return records


def wishes(titles: list[Record], texts: list[Record], options: OwnOptions) -> Iterator[Record]:
    """Yield texts by people about whose keywords mini is to write, no list of keywords twice."""
    chance = random.Random(options.round)
    sentences = [record for record in texts if record.category in SENTENCES]
    pools = (
        (shuffled(titles, chance), options.titles),
        (shuffled(sentences, chance), options.sentences),
        (with_many_keywords(sentences, chance), options.longer),
    )
    for pool, count in pools:
        lists: dict[Asked, Record] = {}
        for record in pool:
            lists.setdefault(asked(record), record)
        yield from islice(lists.values(), count)


def read_texts(path: Path) -> Iterator[Record]:
    """Yield the texts of what `generate --prompts` or the critic wrote, but unfinished ones."""
    with open(path, encoding="utf-8") as lines:
        for text in map(json.loads, lines):
            if text.get("finished", True):
                yield Record(text["category"], text["keywords"], text["title"])


def usable(written: Iterable[Record]) -> dict[Asked, list[Record]]:
    """Return the texts about each list of keywords that have them all and no word twice."""
    good: defaultdict[Asked, dict[Record, None]] = defaultdict(dict)
    for record in written:
        keywords, title = (record.keywords or "").split(), record.title or ""
        complete = all(keyword_pattern(word).search(title) for word in keywords)
        # Half a letter is of bytes that are no text.
        if complete and not repeated_words(title, keywords) and "\ufffd" not in title:
            good[asked(record)][record] = None
    return {about: list(records) for about, records in good.items()}


def kept(texts: dict[Asked, list[Record]], each: int, chance: random.Random) -> list[Record]:
    """Return up to `each` texts about each list of keywords."""
    chosen = []
    for records in texts.values():
        chosen += chance.sample(records, min(each, len(records)))
    return chosen


def best(texts: dict[Asked, list[Record]], each: int) -> list[Record]:
    """Return the first `each` texts about each list of keywords."""
    return [record for records in texts.values() for record in records[:each]]


def mix(
    own: list[Record], titles: list[Record], texts: list[Record], options: OwnOptions
) -> list[Record]:
    """Return texts of mini's; for each one by people, and as far as there are any one with many
    keywords; and some of other kinds.

    Half of the titles are without their category, since titles are what it writes without one.
    """
    chance = random.Random(options.round)
    own_titles = [record for record in own if record.category == TITLE]
    sentences = [record for record in texts if record.category in SENTENCES]
    others = [r for r in texts if r.category not in (*SENTENCES, TITLE)]
    count = len(own) - len(own_titles)
    mixed = [
        *own_titles,
        *shuffled(titles, chance)[: len(own_titles)],
        *with_many_keywords(titles, chance)[: len(own_titles)],
    ]
    mixed = [replace(r, category=TITLE if chance.random() < 0.5 else None) for r in mixed]
    mixed += [record for record in own if record.category != TITLE]
    mixed += shuffled(sentences, chance)[:count]
    mixed += with_many_keywords(sentences, chance)[:count]
    mixed += shuffled(others, chance)[: options.others]
    return shuffled(mixed, chance)


def write_lists(lists: Iterable[Asked], output: Path) -> None:
    """Write lists of keywords for `generate --prompts`."""
    rows = [{"category": category, "keywords": keywords} for category, keywords in lists]
    output.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    print(f"{len(rows):,} lists of keywords in {output}")


def read_lists(path: Path) -> list[Asked]:
    """Return what `write_lists` wrote."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [(row["category"], row["keywords"]) for row in rows]


def main() -> None:
    """Do as the options say."""
    options = tyro.cli(OwnOptions, description=__doc__.splitlines()[0])
    build = options.build
    wished = build / f"wishes-{options.round}.jsonl"

    def read(name: str) -> dict[Asked, list[Record]]:
        return usable(read_texts(build / f"{name}-{options.round}.jsonl"))

    if options.task == "hard":
        written = read("written")
        lists = read_lists(wished)
        hard = [about for about in lists if len(written.get(about, ())) <= options.rarely]
        write_lists(hard, build / f"hard-{options.round}.jsonl")
        return
    titles = read_records(build / "titles.txt")
    texts = read_records(build / "texts.txt")
    if options.task == "wishes":
        write_lists(map(asked, wishes(titles, texts, options)), wished)
        return

    if options.chosen_by == "critic":
        own = best(read("verdicts"), options.each) + best(read("guaranteed"), options.each)
    else:
        own = kept(read("written"), options.each, random.Random(options.round))
    mixed = mix(own, titles, texts, options)
    output = build / f"own-{options.round}.txt"
    output.write_text("".join(f"{render(record)}\n" for record in mixed), "utf-8")
    print(f"{len(own):,} texts kept; {len(mixed):,} documents in {output}")


if __name__ == "__main__":
    main()
