"""What batches of documents alike in length cost and save.

    python tests/benchmarks/batching.py loss TEXT [--steps 300] [--seeds 0 1]

trains a new model on the text twice for each seed: with gpt2kw's batches, and with the
same documents in batches of any lengths, padded to the longest, with twice the rows, for
half of their positions are padding: as many tokens a step. Prints the validation losses,
the tokens seen, the share of positions that are no padding, and the seconds.

    python tests/benchmarks/batching.py memory [--megabytes 30 300 1000]

tokenises texts of such sizes and goes through 1,000 batches of each: seconds, peak
memory that is the process's own, and batches per second.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SENTENCES = Path(__file__).parents[2] / "data" / "titles.csv"


def losses(text: Path, steps: int, seeds: list[int]) -> None:
    print("| seed | batches | validation loss | tokens | not padding | seconds |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for seed, way in itertools.product(seeds, ("by length", "any lengths")):
        arguments = ["--way", way, "--steps", str(steps), "--seeds", str(seed)]
        subprocess.run([sys.executable, __file__, "loss", str(text), *arguments], check=True)


def train(text: Path, steps: int, seed: int, way: str) -> None:
    from gpt2kw.training import batches, loop

    if way == "any lengths":
        # A pool of one batch has nothing to sort.
        def order(options, corpus):
            return batches.BatchOrder(
                corpus,
                2 * options.batch_size,
                options.seed,
                category_dropout=options.category_dropout,
                pool=1,
            )

        loop.batch_order = order
    with tempfile.TemporaryDirectory() as folder:
        from gpt2kw.model import runs

        runs.CHECKPOINT_FOLDER = Path(folder)
        start = time.monotonic()
        report = loop.finetune(
            text=text.resolve(),
            model="new",
            steps=steps,
            seed=seed,
            validate_every=steps,
            sample_every=0,
        )
        seconds = time.monotonic() - start
        entries = [entry for entry in runs.Run(report.run).metrics() if "padding" in entry]
    real = 1 - sum(entry["padding"] for entry in entries) / len(entries)
    found = f"{report.validation_loss:.3f} | {report.tokens:,} | {real:.1%} | {seconds:.0f}"
    print(f"| {seed} | {way} | {found} |", flush=True)


def memory(sizes: list[int]) -> None:
    print("| megabytes | documents | seconds | peak MiB | batches/s |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        subprocess.run([sys.executable, __file__, "memory", "--one", str(size)], check=True)


def read_one(size: int) -> None:
    import csv
    import random

    from gpt2kw.model.tokenizer import Tokenizer
    from gpt2kw.text.format import Record, render
    from gpt2kw.training.batches import BatchOrder, Place
    from gpt2kw.training.corpus import checksum, open_corpus

    with open(SENTENCES, encoding="utf-8", newline="") as file:
        titles = [row["title"] for row in csv.DictReader(file)]
    tokenizer = Tokenizer.train((Record(title=title) for title in titles), 8192)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        with open(text, "w", encoding="utf-8") as file:
            while file.tell() < size * 10**6:
                chosen = rng.choices(titles, k=2000)
                file.write("\n".join(render(Record("any", "some words", t)) for t in chosen) + "\n")
        peak = _Peak()
        start = time.monotonic()
        corpus = open_corpus(text, checksum(text), tokenizer, 256, Path(folder) / "tokens")
        seconds = time.monotonic() - start
        batches = BatchOrder(corpus, 32, 0, category_dropout=0.2).from_place(Place())
        start = time.monotonic()
        for _ in range(1000):
            next(batches)
        speed = 1000 / (time.monotonic() - start)
    print(f"| {size:,} | {len(corpus):,} | {seconds:.0f} | {peak.mebibytes:.0f} | {speed:,.0f} |")


class _Peak(threading.Thread):
    """Watches the process's memory but for mapped files, which the system can take back."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mebibytes = 0.0
        self.start()

    def run(self) -> None:
        while True:
            with open("/proc/self/status") as file:
                anonymous = next(line for line in file if line.startswith("RssAnon"))
            self.mebibytes = max(self.mebibytes, int(anonymous.split()[1]) / 1024)
            time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["loss", "memory"])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[30, 300, 1000])
    parser.add_argument("--way")
    parser.add_argument("--one", type=int)
    options = parser.parse_args()
    if options.one:
        read_one(options.one)
    elif options.what == "memory":
        memory(options.megabytes)
    elif options.way:
        train(options.text, options.steps, options.seeds[0], options.way)
    else:
        losses(options.text, options.steps, options.seeds)


if __name__ == "__main__":
    main()
