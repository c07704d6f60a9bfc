"""What an index of training titles takes: seconds, memory, room, and time for a lookup.

    python tests/benchmarks/novelty.py [--titles 1000000] [--file FILE --field title]

makes so many different titles from those of a table (default: the sample titles): each is
the beginning of one and the end of another, with a quarter of the words drawn from all
titles, as often as they occur there, and one in twelve a made word. Then it
builds an index, and looks up three kinds of texts, 2,000 of each: training titles, such
with one word replaced, and titles that were made in the same way but are not in the index.
Prints one line for each figure. A lookup's time is the best of three; memory is that of a
process of its own.
"""

import argparse
import csv
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gpt2kw.text.normalise import normal_form
from gpt2kw.text.title_index import TitleIndex

SAMPLE = Path(__file__).parents[2] / "data" / "titles.csv"
LOOKUPS = 2000


def made_titles(file: Path, field: str, seed: int) -> Iterator[str]:
    """Yield different titles for ever."""
    with open(file, newline="", encoding="utf-8") as table:
        titles = [row[field].split() for row in csv.DictReader(table) if row[field].strip()]
    words = [word for title in titles for word in title]
    rng = random.Random(seed)
    seen = set()
    while True:
        first, second = rng.choice(titles), rng.choice(titles)
        made = first[: (len(first) + 1) // 2] + second[len(second) // 2 :]
        for place in range(len(made)):
            if rng.random() < 1 / 3:
                made[place] = rng.choice(words) if rng.random() < 3 / 4 else _new_word(rng)
        title = " ".join(made)
        if title not in seen:
            seen.add(title)
            yield title


def _new_word(rng: random.Random) -> str:
    """Make one of 600,000 words, of which some come often and most seldom."""
    number, word = int(600_000 * rng.random() ** 3), ""
    while number or not word:
        number, part = divmod(number, 75)
        word += "bdfgklmnprstvwz"[part // 5] + "aeiou"[part % 5]
    return word


def build(count: int, file: Path, field: str, folder: Path) -> None:
    titles = made_titles(file, field, seed=0)
    texts = [next(titles) for _ in range(count)]
    words = sum(len(text.split()) for text in texts)
    print(f"titles: {count:,}, {words / count:.1f} words and", end=" ")
    print(f"{sum(map(len, texts)) / count:.1f} characters each")
    before = _peak()
    start, of_processor = time.perf_counter(), time.process_time()
    TitleIndex.build(texts, folder)
    seconds, of_processor = time.perf_counter() - start, time.process_time() - of_processor
    print(f"build: {seconds:.1f} s, {of_processor:.1f} of them computing;", end=" ")
    print(f"{_peak() - before:.0f} MB of memory")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"on disk: {size / 1e6:.1f} MB, {size / count:.1f} bytes a title")
    for path in sorted(folder.iterdir()):
        print(f"    {path.name}: {path.stat().st_size / 1e6:.2f} MB")


def look_up(count: int, file: Path, field: str, folder: Path) -> None:
    before = _resident()
    index = TitleIndex.open(folder)
    titles = made_titles(file, field, seed=0)
    known = [next(titles) for _ in range(LOOKUPS)]
    changed = [_one_word_changed(title) for title in known]
    others = made_titles(file, field, seed=1)
    new = [next(others) for _ in range(LOOKUPS)]
    for name, texts in (("known", known), ("one word changed", changed), ("new", new)):
        seconds, copies = [], {}
        for text in texts:
            # Of three times, for others use the machine too.
            took = []
            for _ in range(3):
                start = time.perf_counter()
                copy = index.find_copy(text)
                took.append(time.perf_counter() - start)
            seconds.append(min(took))
            rule = copy.rule if copy else "none"
            copies[rule] = copies.get(rule, 0) + 1
        seconds.sort()
        print(
            f"{name}: {1e6 * statistics.mean(seconds):.0f} microseconds a lookup, "
            f"median {1e6 * statistics.median(seconds):.0f}, "
            f"99 of 100 below {1e6 * seconds[len(seconds) * 99 // 100]:.0f}; {copies}"
        )
    # What the texts themselves take is in it: some MB.
    print(f"resident after {3 * LOOKUPS:,} lookups: {_resident() - before:.0f} MB more")
    start = time.perf_counter()
    for text in new:
        normal_form(text)
    print(f"of which normalising: {1e6 * (time.perf_counter() - start) / LOOKUPS:.0f} microseconds")


def _one_word_changed(title: str) -> str:
    words = title.split()
    words[len(words) // 2] = "something"
    return " ".join(words)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _resident() -> float:
    """Return the MB of memory that this process has, with the parts of files that it maps."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--titles", type=int, default=1_000_000)
    parser.add_argument("--file", type=Path, default=SAMPLE)
    parser.add_argument("--field", default="title")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for part in (build, look_up):
            arguments = (options.titles, options.file, options.field, Path(scratch) / "titles")
            process = multiprocessing.get_context("spawn").Process(target=part, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
