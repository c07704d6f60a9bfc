"""What packing documents costs and saves.

    python tests/benchmarks/batching.py loss TEXT [--steps 300] [--seeds 0 1]

trains a new model on the text twice for each seed: with gpt2kw's batches, and with each
document alone in its row, padded to the longest of its batch, which has as many tokens.
Prints the validation losses, the tokens seen, the share of positions that are no padding,
and the seconds.

    python tests/benchmarks/batching.py share TEXT [--sizes 8 32 128]

goes through an epoch with so many documents a step: steps by the shape of their batches, and
the share of positions that are no padding.

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
from collections import Counter
from pathlib import Path

import numpy as np

ALONE = "each alone"
SENTENCES = Path(__file__).parents[2] / "data" / "titles.csv"


def losses(text: Path, steps: int, seeds: list[int]) -> None:
    print("| seed | batches | validation loss | tokens | not padding | seconds |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for seed, way in itertools.product(seeds, ("packed", ALONE)):
        arguments = ["--way", way, "--steps", str(steps), "--seeds", str(seed)]
        subprocess.run([sys.executable, __file__, "loss", str(text), *arguments], check=True)


def train(text: Path, steps: int, seed: int, way: str) -> None:
    from gpt2kw.training import batches, loop

    class AloneInRows(batches.BatchOrder):
        """Takes documents as they come, until they have as many tokens as a packed batch."""

        def _packed(self, numbers, with_category, rng):
            corpus = self._corpus
            lengths = corpus.lengths[numbers] - ~with_category * corpus.categories[numbers]
            rows, length = self._shapes[0]
            batch = np.cumsum(lengths, dtype=np.int64) // (rows * length)
            documents = list(zip(numbers.tolist(), with_category.tolist(), strict=True))
            found = []
            for _, places in itertools.groupby(range(len(documents)), batch.__getitem__):
                chosen = list(places)
                alone = [[documents[place]] for place in chosen]
                # Else it would be compiled for every step anew.
                alone += [[] for _ in range(-len(alone) % 8)]
                longest = int(lengths[chosen].max())
                found.append(batches._Packed(longest + -longest % 16, alone))
            return found

    if way == ALONE:
        batches.BatchOrder = loop.BatchOrder = AloneInRows
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


def share(text: Path, sizes: list[int]) -> None:
    from gpt2kw.model.folder import new_model
    from gpt2kw.model.named import MINI_SHAPE, MINI_VOCABULARY
    from gpt2kw.text.tally import Tally
    from gpt2kw.training.batches import BatchOrder, Place
    from gpt2kw.training.corpus import checksum, open_corpus, read_records

    model = new_model(read_records(text, Tally()), MINI_VOCABULARY, 0, **MINI_SHAPE)
    print("| documents a step | steps of an epoch, by rows x positions | not padding |")
    print("| ---: | --- | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(text, checksum(text), model.tokenizer, model.context, Path(folder))
        for size in sizes:
            shapes: Counter[str] = Counter()
            tokens = positions = 0
            for batch, place in BatchOrder(corpus, size, 0, category_dropout=0.2).from_place(
                Place()
            ):
                shapes["{} x {}".format(*batch.ids.shape)] += 1
                tokens += batch.tokens
                positions += batch.ids.size
                if place.epoch:
                    break
            found = ", ".join(f"{count:,} of {shape}" for shape, count in shapes.most_common())
            print(f"| {size} | {found} | {tokens / positions:.1%} |", flush=True)


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
    parser.add_argument("what", choices=["loss", "share", "memory"])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[30, 300, 1000])
    parser.add_argument("--way")
    parser.add_argument("--one", type=int)
    options = parser.parse_args()
    if options.one:
        read_one(options.one)
    elif options.what == "memory":
        memory(options.megabytes)
    elif options.what == "share":
        share(options.text, options.sizes)
    elif options.way:
        train(options.text, options.steps, options.seeds[0], options.way)
    else:
        losses(options.text, options.steps, options.seeds)


if __name__ == "__main__":
    main()
