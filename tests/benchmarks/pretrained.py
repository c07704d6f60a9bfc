"""What beginning with the pretrained mini buys, on titles that it has not seen.

    python tests/benchmarks/pretrained.py TABLE [--title-field title] [--steps 100 300 1000]
        [--starts mini new] [--heldout models/recipe/build/titles.val.txt]
        [--unseen models/recipe/build/records.jsonl] [--options "--learning-rate 0.0003"]

fine-tunes from each start on the titles of TABLE for so many steps, each time from the beginning
and with the command's own defaults, and prints how likely the held-out titles are then, each
behind its keywords: in nats per word, since a new model has tokens of its own. Held out are those
of TABLE that are in HELDOUT, a validation text of `make mini`, from which mini was kept as well;
they are taken out of what is learned here, however they are punctuated. With --unseen only those
titles of TABLE are used that are not in this file, which has all texts of `make mini`: so mini has
learnt neither what is learned here nor what is held out, a twentieth of them, if perhaps something
like it. The seconds are the whole command's. With options they are finetune's own, for every run.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2kw.text.format import Record

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "models" / "recipe"))


def known_form(title: str) -> str:
    """Return a title as `make mini` cleans it, in small letters."""
    from clean import Text, as_title

    return as_title(Text("", "title", title)).casefold()


def split(titles: list[str], heldout: Path, folder: Path) -> tuple[Path, Path]:
    """Write training text, and the documents of `heldout` about titles that are here too.

    Both are without categories.
    """
    from gpt2kw.text.format import Record

    here = {known_form(title) for title in titles}
    # Those are cleaned already, and cleaning twice may take more away.
    kept = [record for record in records_of(heldout) if record.title.casefold() in here]
    apart = {record.title.casefold() for record in kept}
    text, _ = encode([title for title in titles if known_form(title) not in apart], 0, folder)
    other = folder / "heldout.txt"
    write(other, [Record(None, record.keywords, record.title) for record in kept])
    return text, other


def split_unseen(titles: list[str], seen: Path, folder: Path) -> tuple[Path, Path]:
    """Write training text of the titles that are not in a table of `make mini`, and other such."""
    with open(seen, encoding="utf-8") as lines:
        known = {json.loads(line)["title"].casefold() for line in lines}
    unseen = [title for title in titles if known_form(title) not in known]
    text, validation = encode(unseen, 0.05, folder)
    # Where fine-tuning does not find it, and choose a checkpoint by it.
    return text, validation.rename(folder / "heldout.txt")


def encode(titles: list[str], validation_fraction: float, folder: Path) -> tuple[Path, Path]:
    from gpt2kw.text.encoding import EncodeOptions, encode_keywords

    source = folder / "titles.txt"
    source.write_text("".join(f"{' '.join(title.split())}\n" for title in titles), "utf-8")
    options = EncodeOptions(
        source=str(source), output=folder / "text.txt", validation_fraction=validation_fraction
    )
    encode_keywords(options)
    return options.output, options.validation_output


def records_of(text: Path) -> list["Record"]:
    from gpt2kw.text.files import read_chunks
    from gpt2kw.text.format import iter_documents

    return [document.record for document in iter_documents(read_chunks(text))]


def write(text: Path, records: list["Record"]) -> None:
    from gpt2kw.text.format import render

    text.write_text("".join(f"{render(record)}\n" for record in records), "utf-8")


def nats_per_word(run: Path, heldout: Path) -> float:
    from gpt2kw.evaluation.likelihood import Scorer
    from gpt2kw.evaluation.words import words
    from gpt2kw.model.folder import Model
    from gpt2kw.model.runs import Run

    records = records_of(heldout)
    model = Run(run).latest().load_model() if run.parent.name == "checkpoint" else Model.load(run)
    scores = Scorer(model).after_keywords(records)
    known = [(s, r) for s, r in zip(scores, records, strict=True) if s is not None]
    return sum(s.nats for s, _ in known) / sum(len(words(r.title)) for _, r in known)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("--title-field", default="title")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--starts", nargs="+", default=["mini", "new"])
    parser.add_argument("--heldout", type=Path, default=ROOT / "models/recipe/build/titles.val.txt")
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--options", default="")
    options = parser.parse_args()
    with open(options.table, encoding="utf-8", newline="") as file:
        titles = [row[options.title_field] for row in csv.DictReader(file)]
    titles = [title for title in titles if title]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.unseen:
            text, heldout = split_unseen(titles, options.unseen, folder)
        else:
            text, heldout = split(titles, options.heldout, folder)
        learned, kept = records_of(text), records_of(heldout)
        print(
            f"{options.table.name}: {len({r.title for r in learned}):,} titles to learn, "
            f"{len({r.title for r in kept}):,} held out, with {len(kept):,} lists of keywords\n"
        )
        print("| from | steps | nats a word, held out | seconds |\n| --- | ---: | ---: | ---: |")
        if "mini" in options.starts:
            before = nats_per_word(ROOT / "models" / "mini", heldout)
            print(f"| mini | 0 | {before:.3f} | |", flush=True)
        for steps in options.steps:
            for start in options.starts:
                run = f"{Path(start).name}-{steps}"
                command = [
                    *(sys.executable, "-m", "gpt2kw.finetune", str(text), "--model", start),
                    *("--run-name", run, "--steps", str(steps), "--save-every", str(steps)),
                    *("--sample-every", "0", *shlex.split(options.options)),
                ]
                began = time.monotonic()
                done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                seconds = time.monotonic() - began
                nats = nats_per_word(folder / "checkpoint" / run, heldout)
                print(f"| {start} | {steps:,} | {nats:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
