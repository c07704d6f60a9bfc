"""Fine-tuning, compared with other tools on the same text, first weights and cores.

    python tests/benchmarks/finetune.py [--model mini|gpt2] [--file FILE] [--field title]
        [--category-field category] [--seconds 40] [--rounds 3] [--peers PYTHON]

Every way is a process of its own; they train in turn, and what is counted are the seconds
behind a warm-up. The weights are random in the shape of the model, the tokenizer is learnt
from the text. PYTHON is one with `peers/requirements.txt`. Without a FILE the texts are the
project's sample titles.

    python tests/benchmarks/finetune.py loss [--minutes 4]

trains each way for that long and compares what was learnt, by the loss on held-out text.

    python tests/benchmarks/finetune.py memory [--model gpt2]

prints the peak memory of a fine-tuning on 8 documents of 128 tokens a step.
"""

import argparse
import contextlib
import itertools
import json
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
from peers.work import FOREVER, Work

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data" / "titles.csv"
PEERS = Path(__file__).parent / "peers"
OURS = "gpt2kw"
WAYS = {
    OURS: [],
    "Trainer, padded": ["trainer.py", "padded"],
    "Trainer, grouped": ["trainer.py", "grouped"],
    "KerasHub, padded": ["kerashub.py"],
    "gpt-2-simple": ["gpt2simple.py"],
}
"""The scripts of the peers, and what they are told."""
GPT2_SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}
GPT2_ROWS = 50_304
"""GPT-2's 50,257 tokens and the marks, rounded up."""
RATES = {"mini": 1e-3, "gpt2": 1e-4}


def prepare(options: argparse.Namespace, folder: Path) -> Work:
    """Encode the text, make the first weights, and say what there is to do."""
    import numpy as np

    from gpt2kw import encode_keywords
    from gpt2kw.model.folder import EMBEDDING, new_model
    from gpt2kw.model.named import MINI_SHAPE, MINI_VOCABULARY
    from gpt2kw.text.tally import Tally
    from gpt2kw.training.corpus import read_records

    text = folder / "text.txt"
    encode_keywords(
        source=options.file or SAMPLE,
        output=text,
        title_field=options.field,
        category_field=options.category_field,
    )
    records = list(read_records(text, Tally()))
    shape = MINI_SHAPE if options.model == "mini" else GPT2_SHAPE
    model = new_model(records, MINI_VOCABULARY, 0, **shape)
    if options.model == "gpt2":
        # GPT-2's own merges need a download. Its output layer's cost is that of its rows.
        rows = np.random.default_rng(1).normal(0, 0.02, (GPT2_ROWS, shape["n_embd"]))
        model.weights[EMBEDDING] = rows.astype(np.float32)
        model.config["vocab_size"] = GPT2_ROWS
    target = folder / "model"
    target.mkdir()
    model.save(target)
    lengths = [len(ids) for ids in model.tokenizer.encode(records)]
    mean = statistics.mean(lengths)
    print(
        f"{options.model}: {model.parameters / 1e6:.1f} million weights, {len(lengths):,} "
        f"documents of {mean:.1f} tokens on average, {max(lengths)} at most, "
        f"{len(os.sched_getaffinity(0))} cores\n",
        flush=True,
    )
    return Work(
        text=str(text),
        model=str(target),
        out=str(folder),
        mean_tokens=mean,
        rate=RATES[options.model],
        documents=options.documents,
        blocks=8,
    )


def way_gpt2kw(work: Work) -> None:
    import numpy as np

    import gpt2kw
    from gpt2kw.model.runs import Run

    os.chdir(work.out)
    if work.seconds:
        threading.Thread(target=watch, args=[work], daemon=True).start()
    report = gpt2kw.finetune(
        text=work.text,
        model=work.model,
        run_name="run",
        steps=work.steps or FOREVER,
        batch_size=work.documents,
        learning_rate=work.rate,
        # The peers don't drop categories.
        category_dropout=0,
        validate_every=0,
        sample_every=0,
        save_every=work.export_every or FOREVER,
        keep=FOREVER,
    )
    steps, seconds = [0], [0.0]
    for line in metrics(work):
        steps.append(line["step"])
        seconds.append(seconds[-1] + line["seconds"])
    # Checkpoints may stand between lines.
    exports = [
        (float(np.interp(checkpoint.step, steps, seconds)), str(checkpoint.folder.resolve()))
        for checkpoint in Run(report.run).checkpoints()
        if work.export_every
    ]
    print(json.dumps({"exports": exports}))


def metrics(work: Work) -> list[dict]:
    """Read the lines of metrics, and add the seconds that each is about."""
    file = Path(work.out) / "checkpoint" / "run" / "metrics.jsonl"
    text = file.read_text("utf-8") if file.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    before = {"step": 0, "tokens": 0}
    for line in lines:
        line["new_tokens"] = line["tokens"] - before["tokens"]
        line["new_steps"] = line["step"] - before["step"]
        line["seconds"] = line["new_tokens"] / line["tokens_per_second"]
        before = line
    return lines


def watch(work: Work) -> None:
    """End the process when the run has written down enough about its speed."""
    began = None
    while True:
        time.sleep(0.1)
        lines = metrics(work)
        if lines and began is None:
            began = time.time() - lines[0]["seconds"]
        warm = 0.0
        while lines and warm < work.warmup:
            warm += lines.pop(0)["seconds"]
        seconds = sum(line["seconds"] for line in lines)
        if lines and seconds >= work.seconds:
            break
    report = {
        "startup": began - psutil.Process().create_time(),
        "tokens_per_second": sum(line["new_tokens"] for line in lines) / seconds,
        "seconds_per_step": seconds / sum(line["new_steps"] for line in lines),
    }
    print(json.dumps(report), flush=True)
    os._exit(0)


def run(way: str, work: Work, options: argparse.Namespace) -> dict:
    """Let a way do its work, and return its report."""
    work = replace(work, out=tempfile.mkdtemp(dir=work.out))
    if way == OURS:
        return output([sys.executable, __file__, "--way", work.as_argument()], options)
    return peer(*WAYS[way], work.as_argument(), options=options)


def peer(script: str, *arguments: str, options: argparse.Namespace) -> dict:
    """Return what a script reports that runs with the peers' Python."""
    return output([str(options.peers), str(PEERS / script), *arguments], options)


def output(command: list[str], options: argparse.Namespace) -> dict:
    """Return the last line of a command's output, which is JSON, and the peak of its memory."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TRANSFORMERS_VERBOSITY": "error"}
    command = [*shlex.split(options.under), *command]
    peak = 0
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(command, stdout=printed, stderr=errors, env=environment)
        while process.poll() is None:
            if options.what == "memory":
                peak = max(peak, memory_of(process))
            time.sleep(0.2)
        printed.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{errors.read()[-4000:]}")
        return json.loads(printed.readlines()[-1]) | {"peak": peak}


def memory_of(process: psutil.Process) -> int:
    """Return the bytes that a process and its children have to themselves."""
    total = 0
    for part in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += part.memory_full_info().uss
    return total


def speed(options: argparse.Namespace, folder: Path) -> None:
    work = replace(prepare(options, folder), seconds=options.seconds)
    reports: dict[str, list[dict]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way, found in reports.items():
            found.append(run(way, work, options))
            log(f"{way}: {found[-1]['tokens_per_second']:,.0f} useful tokens/s")
    first = options.ways[0]
    print(
        "| way | documents/s | useful tokens/s | seconds a step | seconds to its first step "
        f"| speed of {first} against it |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    ours = [report["tokens_per_second"] for report in reports[first]]
    for way, found in reports.items():
        rates = [report["tokens_per_second"] for report in found]
        ratio = statistics.median(a / b for a, b in zip(ours, rates, strict=True))
        median = statistics.median(rates)
        step, start = (
            statistics.median(report[name] for report in found)
            for name in ("seconds_per_step", "startup")
        )
        print(
            f"| {way} | {median / work.mean_tokens:.1f} | {median:,.0f} | {step:.2f} "
            f"| {start:.0f} | {ratio:.2f} |"
        )


POINTS = 12
"""Exports of a training, at equal distances."""
SHOWN = [POINTS // 4, POINTS // 2, POINTS]


def loss(options: argparse.Namespace, folder: Path) -> None:
    work = prepare(options, folder)
    curves: dict[str, list[tuple[float, float]]] = {}
    for way in options.ways:
        step = run(way, replace(work, seconds=10), options)["seconds_per_step"]
        every = max(1, round(options.minutes * 60 / step / POINTS))
        training = replace(work, steps=every * POINTS, export_every=every)
        exports = [(0.0, work.model), *run(way, training, options)["exports"]]
        if curves:
            # Of the peers only these are looked at.
            exports = [exports[point] for point in SHOWN]
        text = str(validation_of(work))
        folders = [folder for _, folder in exports]
        losses = peer("evaluate.py", text, *folders, work.as_argument(), options=options)
        curves[way] = [(seconds / 60, losses[folder]) for seconds, folder in exports]
        log(f"{way}: " + ", ".join(f"{m:.1f} min {found:.3f}" for m, found in curves[way]))
    first = options.ways[0]
    print(
        "| way | minutes | loss after a quarter | after half | at the end "
        f"| {first} had this loss after | times as fast |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way, curve in curves.items():
        minutes, end = curve[-1]
        shown = [curve[point] for point in SHOWN] if way == first else curve
        there = minutes_to(end, curves[first])
        print(
            f"| {way} | {minutes:.1f} | "
            + " | ".join(f"{found:.3f}" for _, found in shown)
            + (f" | {there:.1f} min | {minutes / there:.1f} |" if there else " | not yet | |")
        )


def validation_of(work: Work) -> Path:
    from gpt2kw.text.encoding import validation_path

    return validation_path(Path(work.text))


def minutes_to(wanted: float, curve: list[tuple[float, float]]) -> float | None:
    """Return when a curve first came down to a loss, on a straight line between its points."""
    for (before, higher), (after, lower) in itertools.pairwise(curve):
        if lower <= wanted:
            return before + (after - before) * (higher - wanted) / (higher - lower)
    return None


def memory(options: argparse.Namespace, folder: Path) -> None:
    work = prepare(options, folder)
    text = folder / "long.txt"
    write_long_documents(work, text)
    training = replace(work, text=str(text), documents=8, steps=20, export_every=20)
    print("| way | peak memory |\n| --- | ---: |")
    for way in options.ways:
        peak = run(way, training, options)["peak"]
        print(f"| {way} | {peak / 2**30:.1f} GiB |", flush=True)


def write_long_documents(work: Work, target: Path) -> None:
    """Join titles into documents of nearly 128 tokens."""
    from gpt2kw.model.tokenizer import Tokenizer
    from gpt2kw.text.format import Record, render
    from gpt2kw.text.tally import Tally
    from gpt2kw.training.corpus import read_records

    titles = [Record(None, None, r.title) for r in read_records(Path(work.text), Tally())]
    lengths = map(len, Tokenizer.load(Path(work.model)).encode(titles))
    documents: list[str] = []
    joined, total = "", 0
    for record, length in zip(titles, lengths, strict=True):
        if total + length > work.length:
            documents.append(render(Record(None, None, joined)))
            joined, total = "", 0
        joined, total = f"{joined} {record.title}".strip(), total + length
    target.write_text("\n".join(documents) + "\n", "utf-8")


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--way"]:
        way_gpt2kw(Work.given())
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["speed", "loss", "memory"], default="speed")
    parser.add_argument("--model", choices=sorted(RATES), default="mini")
    parser.add_argument("--file")
    parser.add_argument("--field", default="title")
    parser.add_argument("--category-field", default="category")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--documents", type=int, default=32, help="a step, but in the blocks")
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument(
        "--under", default="", help="put before each way's command, such as 'taskset -c 0,1'"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"speed": speed, "loss": loss, "memory": memory}[options.what](options, Path(folder))


if __name__ == "__main__":
    main()
