"""What beginning with the pretrained mini buys, on titles that it has not seen.

    python tests/benchmarks/pretrained.py TABLE [--title-field title] [--steps 100 300 1000]
        [--starts mini new] [--heldout models/recipe/build/titles.val.txt]
        [--options "--learning-rate 0.0003"]

fine-tunes from each start on the titles of TABLE for so many steps, each time from the beginning
and with the command's own defaults, and prints how likely the held-out titles are then, each
behind its keywords: in nats per word, since a new model has tokens of its own. Held out are those
of TABLE that are in HELDOUT, a validation text of `make mini`, from which mini was kept as well;
they are taken out of what is learned here, however they are punctuated. The seconds are the whole
command's. With options they are finetune's own, for every run.
"""

import argparse
import csv
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "models" / "recipe"))


def split(table: Path, field: str, heldout: Path, folder: Path) -> tuple[Path, Path]:
    """Write the training text and the held-out text, both without categories."""
    from clean import Text, as_title

    from gpt2kw.text.encoding import EncodeOptions, encode_keywords
    from gpt2kw.text.files import read_chunks
    from gpt2kw.text.format import Record, iter_documents, render

    def known(title: str) -> str:
        return as_title(Text("", "title", title)).casefold()

    with open(table, encoding="utf-8", newline="") as file:
        titles = [row[field] for row in csv.DictReader(file) if row[field]]
    here = {known(title) for title in titles}
    documents = [d.record for d in iter_documents(read_chunks(heldout))]
    kept = [record for record in documents if known(record.title) in here]
    apart = {known(record.title) for record in kept}
    rest = [" ".join(title.split()) for title in titles if known(title) not in apart]
    (folder / "rest.txt").write_text("".join(f"{title}\n" for title in rest), "utf-8")
    text, other = folder / "text.txt", folder / "heldout.txt"
    encode_keywords(
        EncodeOptions(source=str(folder / "rest.txt"), output=text, validation_fraction=0)
    )
    records = (Record(None, record.keywords, record.title) for record in kept)
    other.write_text("".join(f"{render(record)}\n" for record in records), "utf-8")
    print(
        f"{table.name}: {len(rest):,} titles to learn, {len(apart):,} held out, "
        f"with {len(kept):,} lists of keywords\n"
    )
    return text, other


def nats_per_word(run: Path, heldout: Path) -> float:
    from gpt2kw.evaluation.likelihood import Scorer
    from gpt2kw.evaluation.words import words
    from gpt2kw.model.folder import Model
    from gpt2kw.model.runs import Run
    from gpt2kw.text.files import read_chunks
    from gpt2kw.text.format import iter_documents

    records = [d.record for d in iter_documents(read_chunks(heldout))]
    model = Run(run).best().load_model() if run.parent.name == "checkpoint" else Model.load(run)
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
    parser.add_argument("--options", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, heldout = split(options.table, options.title_field, options.heldout, folder)
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
