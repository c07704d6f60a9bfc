"""Encoding, compared with other ways to run spaCy on the same texts and cores.

    python tests/benchmarks/encode.py [--file FILE] [--field title] [--rows 16000] [--rounds 3]

Every way is a process of its own, start-up included, and finds keywords in the same
texts with the same rules; they run in turn. `one text per call` gets a sample, since it
is slow: its time is its start-up and the rest in proportion. Without a FILE the texts
are the project's sample titles over and over, each numbered so that none is the same.

    python tests/benchmarks/encode.py memory [--rows 16000 500000]

prints the peak memory of all processes of an encoding, for each number of rows.
"""

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SAMPLE = Path(__file__).parents[2] / "data" / "titles.csv"
CHUNK = 128


def texts_of(path: str) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return [row["title"] for row in csv.DictReader(file)]


def keywords_of(texts: list[str], nlp) -> list[list[str]]:
    from gpt2kw.text.keywords import extract_keywords

    return [extract_keywords(doc, 20) for doc in nlp.pipe(texts, batch_size=CHUNK)]


def load():
    from gpt2kw.text.keywords import load_spacy

    return load_spacy("en_core_web_sm")


def way_gpt2kw(path: str) -> None:
    from gpt2kw import encode_keywords

    with tempfile.TemporaryDirectory() as folder:
        encode_keywords(source=path, output=Path(folder) / "out.txt")


def way_two_processes(path: str) -> None:
    """Two independent processes, each on a core of its own with half of the texts."""
    command = [sys.executable, __file__, "--way", "half", path]
    cores = sorted(os.sched_getaffinity(0))[:2]
    halves = [subprocess.Popen([*command, str(n), str(core)]) for n, core in enumerate(cores)]
    assert [half.wait() for half in halves] == [0, 0]


def way_half(path: str, number: str, core: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    os.environ["OMP_NUM_THREADS"] = "1"
    keywords_of(texts_of(path)[int(number) :: 2], load())


def start_ray():
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", include_dashboard=False, **quiet)
    return ray


def way_one_text_per_call(path: str) -> None:
    """What gpt-2-keyword-generation does: two actors a core, a text each, wait for all."""
    ray = start_ray()

    @ray.remote
    class Encoder:
        def __init__(self):
            self.nlp = load()

        def encode(self, text):
            return keywords_of_one(text, self.nlp)

    actors = [Encoder.remote() for _ in range(2 * len(os.sched_getaffinity(0)))]
    texts = iter(texts_of(path))
    while chunk := list(itertools.islice(texts, len(actors))):
        calls = zip(actors, chunk, strict=False)
        ray.get([actor.encode.remote(text) for actor, text in calls])
    ray.shutdown()


def keywords_of_one(text: str, nlp) -> list[str]:
    from gpt2kw.text.keywords import extract_keywords

    return extract_keywords(nlp(text), 20)


def way_ray_data(path: str) -> None:
    """Ray Data: blocks of texts through a pool of actors, in order."""
    import pyarrow as pa
    import ray.data

    start_ray()

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True

    class Encoder:
        def __init__(self):
            self.nlp = load()

        def __call__(self, batch):
            texts = batch["title"].tolist()
            return {"keywords": [" ".join(found) for found in keywords_of(texts, self.nlp)]}

    texts = texts_of(path)
    blocks = [
        pa.table({"title": texts[start : start + CHUNK]}) for start in range(0, len(texts), CHUNK)
    ]
    encoded = ray.data.from_arrow(blocks).map_batches(
        Encoder, batch_size=CHUNK, concurrency=len(os.sched_getaffinity(0)), num_cpus=1
    )
    assert sum(len(batch["keywords"]) for batch in encoded.iter_batches()) == len(texts)
    ray.shutdown()


WAYS = {
    "gpt2kw": way_gpt2kw,
    "two pinned spaCy processes": way_two_processes,
    "Ray Data over actors": way_ray_data,
    "one text per ray call": way_one_text_per_call,
    "half": way_half,
}
SLOW = "one text per ray call"
SLOW_ROWS = (1000, 3000)


def seconds(way: str, path: str) -> float:
    start = time.monotonic()
    command = [sys.executable, __file__, "--way", way, path]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def write_rows(path: Path, source: str | None, field: str, rows: int) -> str:
    """Write `rows` titles of a file, again from its beginning if it has fewer."""
    with open(source or SAMPLE, encoding="utf-8", newline="") as file:
        texts = [row[field] for row in csv.DictReader(file)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title"])
        for number in range(rows):
            round_, place = divmod(number, len(texts))
            writer.writerow([texts[place] if not round_ else f"{texts[place]} {round_}"])
    return str(path)


def compare(options: argparse.Namespace, folder: Path) -> None:
    rows = options.rows[0]
    path = write_rows(folder / "all.csv", options.file, options.field, rows)
    parts = [write_rows(folder / f"{n}.csv", options.file, options.field, n) for n in SLOW_ROWS]
    times: dict[str, list[float]] = {way: [] for way in WAYS if way != "half"}
    for _ in range(options.rounds):
        for way in times:
            if way == SLOW:
                short, long = (seconds(way, part) for part in parts)
                each = (long - short) / (SLOW_ROWS[1] - SLOW_ROWS[0])
                times[way].append(short + each * (rows - SLOW_ROWS[0]))
            else:
                times[way].append(seconds(way, path))
    print(f"{rows:,} texts, {len(os.sched_getaffinity(0))} cores, median of {options.rounds}\n")
    print("| way | seconds | texts/s | speed of gpt2kw against it |")
    print("| --- | ---: | ---: | ---: |")
    ours = times["gpt2kw"]
    for way, found in times.items():
        ratio = statistics.median(b / a for a, b in zip(ours, found, strict=True))
        median = statistics.median(found)
        print(f"| {way} | {median:.1f} | {rows / median:,.0f} | {ratio:.2f} |")


def peak_memory(command: list[str]) -> tuple[float, dict[str, float]]:
    """Run a command; return the peak of its processes' own memory together, and by name, in MiB."""
    peak, by_name = 0.0, {}
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        found: dict[str, float] = {}
        for part in [process, *process.children(recursive=True)]:
            try:
                name = part.name()
                # Shared pages, such as ray's object store, would count once a process.
                memory = part.memory_full_info().uss
                found[name] = found.get(name, 0) + memory / 2**20
            except psutil.Error:
                continue
        if sum(found.values()) > peak:
            peak, by_name = sum(found.values()), found
        time.sleep(0.5)
    assert process.returncode == 0
    return peak, by_name


def memory(options: argparse.Namespace, folder: Path) -> None:
    print("| rows | peak of all processes | of the command | of the workers | seconds |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for rows in options.rows:
        path = write_rows(folder / "rows.csv", options.file, options.field, rows)
        start = time.monotonic()
        command = [sys.executable, "-m", "gpt2kw.encode", path, "-o", str(folder / "out.txt")]
        peak, by_name = peak_memory(command)
        own = sum(size for name, size in by_name.items() if name.startswith("python"))
        workers = sum(size for name, size in by_name.items() if "Encoder" in name)
        print(
            f"| {rows:,} | {peak:,.0f} MiB | {own:,.0f} MiB | {workers:,.0f} MiB "
            f"| {time.monotonic() - start:.0f} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--way"]:
        WAYS[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="compare")
    parser.add_argument("--file")
    parser.add_argument("--field", default="title")
    parser.add_argument("--rows", type=int, nargs="+", default=[16_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"compare": compare, "memory": memory}[options.what](options, Path(folder))


if __name__ == "__main__":
    main()
