"""Draw lists of one to six keywords from sentences that mini has not seen.

    python models/recipe/sets.py [--heldout models/recipe/build/heldout.jsonl] [--count 500]

writes `sets.txt` beside HELDOUT, for `python -m gpt2kw.evaluate`: as many documents of each number
of keywords, which are those that encode finds in the first sentence of each held-out set. No
sentence is used twice.
"""

import argparse
import csv
import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path

from gpt2kw import encode_keywords
from gpt2kw.text.files import read_chunks
from gpt2kw.text.format import Record, iter_documents, render

MOST = 6
"""Keywords that generate takes."""


def draw(records: list[Record], count: int, seed: int) -> list[Record]:
    """Choose `count` records, as many of each number of keywords, each with another title.

    Those with many keywords are chosen first, for they are the rarest.
    """
    chance = random.Random(seed)
    by_number: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_number[len((record.keywords or "").split())].append(record)
    chosen: dict[str | None, Record] = {}
    for number in range(MOST, 0, -1):
        wanted = len(chosen) + (count - len(chosen)) // number
        chance.shuffle(by_number[number])
        for record in by_number[number]:
            if len(chosen) < wanted:
                chosen.setdefault(record.title, record)
    drawn = list(chosen.values())
    chance.shuffle(drawn)
    return drawn


def main() -> None:
    """Do as the options say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    build = Path(__file__).with_name("build")
    parser.add_argument("--heldout", type=Path, default=build / "heldout.jsonl")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, text = Path(folder) / "sentences.csv", Path(folder) / "sentences.txt"
        with (
            options.heldout.open(encoding="utf-8") as lines,
            table.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["kind", "title"])
            writer.writerows(["sentence", json.loads(line)["sentences"][0]] for line in lines)
        encode_keywords(
            source=str(table),
            output=text,
            category_field="kind",
            max_keywords=MOST,
            repeat=MOST,
            validation_fraction=0,
        )
        records = [document.record for document in iter_documents(read_chunks(text))]
    drawn = draw(records, options.count, options.seed)
    output = options.heldout.with_name("sets.txt")
    output.write_text("".join(f"{render(record)}\n" for record in drawn), "utf-8")
    print(f"{len(drawn):,} lists of keywords in {output}")


if __name__ == "__main__":
    main()
