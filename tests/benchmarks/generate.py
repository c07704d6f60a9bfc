"""Generation, compared with other tools on the same weights and cores.

    python tests/benchmarks/generate.py [--model mini|gpt2] [--batches 1 16 64] [--seconds 5]
        [--calls 2] [--rounds 3] [--ways WAY ...] [--peers PYTHON]

Every way is a process of its own; they run in turn. Each continues prompts of 24 random tokens
by exactly 48, chosen among the 40 likeliest at temperature 0.7. The weights are random in the
shape of the model. Counted is the median call at each batch size, behind a first one, whose
seconds stand in the second table. PYTHON is one with `peers/requirements.txt`.

    python tests/benchmarks/generate.py start [--run RUN] [--rounds 3]

measures the command line: seconds from the start of the process to its first title on standard
output, and to its end, for ten titles. The model is a random `mini`, whose titles all have the
full 64 tokens, or the best checkpoint of a run.
"""

import argparse
import csv
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from finetune import PEERS, ROOT, SAMPLE, log, output
from peers.task import Task, Write, measure
from step import ROWS, SHAPES, random_model

OURS = "gpt2kw"
TORCH = ["PyTorch, float32", "PyTorch, bfloat16"]
WAYS = {
    OURS: [OURS, "plain"],
    "gpt2kw, guarantee": [OURS, "guarantee"],
    "gpt2kw, CTranslate2 int8": [OURS, "ctranslate2"],
    "transformers TF, eager": ["generate_tf.py", "eager"],
    "transformers TF, tf.function": ["generate_tf.py", "function"],
    TORCH[0]: ["generate_torch.py", "float32"],
    TORCH[1]: ["generate_torch.py", "bfloat16"],
    "KerasHub TF, bfloat16": ["generate_kerashub.py", "tensorflow", "bfloat16"],
    "KerasHub JAX, float32": ["generate_kerashub.py", "jax", "float32"],
    "gpt-2-simple": ["generate_gpt2simple.py"],
}
"""The scripts of the peers, or gpt2kw, and what they are told."""
KEYWORD, TITLES = "cats", 10
KEYWORDS = ["cats", "midnight", "piano"]
"""What gpt2kw sees to in its guarantee mode."""


def gpt2kw_way(task: Task, way: str) -> Write:
    """Load the model and return one of gpt2kw's own ways of continuing prompts."""
    from gpt2kw.generation.guide import KeywordPlan, Lexicon
    from gpt2kw.generation.network import CachedNetwork
    from gpt2kw.generation.resampling import Resampler
    from gpt2kw.generation.sampling import Path as Text
    from gpt2kw.generation.sampling import Rules, Sampling
    from gpt2kw.model.backend import choose_precision
    from gpt2kw.model.folder import Model
    from gpt2kw.model.frozen import freeze_weights

    freeze_weights()
    model = Model.load(Path(task.model))
    network = CachedNetwork(model.weights, model.config, choose_precision("auto"))
    # Nothing ends a text, for all ways write as many tokens.
    rules = Rules(np.ones(task.rows, bool), (task.rows - 1,), task.new)
    rules.allowed[-1] = False
    sampling = Sampling(task.temperature, task.top_k)
    lexicon = Lexicon(model.tokenizer, task.rows)
    plan = KeywordPlan(lexicon, KEYWORDS, must=True, bars=rules.stops)

    def write(prompts: np.ndarray) -> np.ndarray:
        texts = [
            Text(
                place,
                prompt,
                0,
                np.random.default_rng(place),
                plan.guide() if way == "guarantee" else None,
            )
            for place, prompt in enumerate(prompts.tolist())
        ]
        shares = network.shares([[text] for text in texts])
        network.decode(prompts.tolist(), *(Resampler(share, sampling, rules) for share in shares))
        return np.concatenate([prompts, [text.tokens for text in texts]], axis=1)

    return write


def ctranslate2_way(task: Task) -> Write:
    """Load the model into CTranslate2 and return its way of continuing prompts."""
    from gpt2kw.generation.ctranslate2_engine import Engine
    from gpt2kw.model.folder import Model

    model = Model.load(Path(task.model))
    # As many rows as the others have.
    model.tokenizer.size = task.rows
    engine = Engine(model)

    def write(prompts: np.ndarray) -> np.ndarray:
        texts = engine.generate(
            prompts.tolist(),
            max_tokens=task.new,
            temperature=task.temperature,
            top_k=task.top_k,
        )
        return np.concatenate([prompts, [text.tokens for [text] in texts]], axis=1)

    return write


def run(way: str, task: Task, options: argparse.Namespace) -> dict:
    """Let a way do its task, and return its report."""
    script, *told = WAYS[way]
    command = [__file__, "--way"] if script == OURS else [str(PEERS / script)]
    # transformers 5 has no TensorFlow, so that this peer lives with gpt2kw.
    python = sys.executable if script in (OURS, "generate_tf.py") else str(options.peers)
    return output([python, *command, *told, task.as_argument()], options)


def speed(options: argparse.Namespace, folder: Path) -> None:
    random_model(options.model, ["a title"]).save(folder)
    task = Task(
        model=str(folder),
        rows=ROWS[options.model],
        batches=options.batches,
        calls=options.calls,
        seconds=options.seconds,
    )
    print(
        f"{options.model}: {SHAPES[options.model]}, {task.rows:,} rows; {task.prompt} + {task.new} "
        f"tokens; {len(os.sched_getaffinity(0))} cores\n",
        flush=True,
    )
    reports: dict[str, list[dict]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way, found in reports.items():
            found.append(run(way, task, options))
            log(f"{way}: {found[-1].get('unable') or found[-1]['tokens_per_second']}")
    able = {way: found for way, found in reports.items() if "unable" not in found[0]}
    print_speeds(able, task.batches)
    print()
    print_starts(able, task.batches)
    for way, found in reports.items():
        if way not in able:
            print(f"\n{way} was not measured: {found[0]['unable']}")


def print_speeds(reports: dict[str, list[dict]], batches: list[int]) -> None:
    """Print tokens a second, and how many times as fast the first way is."""
    # [round, batch size] for each way.
    rates = {way: table_of(found, "tokens_per_second") for way, found in reports.items()}
    if rates.keys() >= set(TORCH):
        rates["PyTorch, the better"] = np.maximum(*(rates[way] for way in TORCH))
    first = next(iter(rates))
    speeds = [f"tokens/s, batch {batch}" for batch in batches]
    print_row("way", *speeds, *(f"speed of {first} against it, batch {n}" for n in batches))
    print_rule(2 * len(batches))
    for way, found in rates.items():
        ratios = np.median(rates[first] / found, axis=0)
        shown = [f"{rate:,.0f}" for rate in np.median(found, axis=0)]
        print_row(way, *shown, *(f"{ratio:.2f}" for ratio in ratios))


def print_starts(reports: dict[str, list[dict]], batches: list[int]) -> None:
    """Print what comes before the calls that are counted."""
    print_row(
        "way",
        "seconds from its start to the end of its first call",
        *(f"seconds of the first call, batch {batch}" for batch in batches),
    )
    print_rule(1 + len(batches))
    for way, found in reports.items():
        start = np.median(table_of(found, "start"))
        calls = np.median(table_of(found, "first_calls"), axis=0)
        print_row(way, f"{start:.1f}", *(f"{seconds:.1f}" for seconds in calls))


def table_of(reports: list[dict], name: str) -> np.ndarray:
    return np.array([report[name] for report in reports])


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def print_rule(numbers: int) -> None:
    """Print the line below the names of columns: a way, and numbers."""
    print_row("---", *["---:"] * numbers)


def start(options: argparse.Namespace, folder: Path) -> None:
    from gpt2kw.generation.export import export_model
    from gpt2kw.model.runs import Run
    from gpt2kw.text.format import Record, prompt

    if options.run:
        model = Run.at(options.run).folder
        export_model(run=options.run, folder=folder)
    else:
        model = folder
        with SAMPLE.open(encoding="utf-8") as file:
            random_model("mini", [row["title"] for row in csv.DictReader(file)]).save(folder)
    asked = ["--model", str(model), "--keywords", KEYWORD, "--nsamples", str(TITLES)]
    asked_there = [str(folder), prompt(Record(keywords=KEYWORD, title="")), str(TITLES)]
    commands = {
        OURS: [sys.executable, "-m", "gpt2kw.generate", *asked],
        "transformers, PyTorch": [str(options.peers), str(PEERS / "start_torch.py"), *asked_there],
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in commands}
    for _ in range(options.rounds):
        for way, command in commands.items():
            found[way].append(seconds_to_titles([*shlex.split(options.under), *command]))
            log(f"{way}: first title {found[way][-1][0]:.1f} s, end {found[way][-1][1]:.1f} s")
    print_row("way", "seconds to the first title", f"seconds to the end of {TITLES} titles")
    print_rule(2)
    for way, seconds in found.items():
        print_row(way, *(f"{median:.1f}" for median in np.median(seconds, axis=0)))


def seconds_to_titles(command: list[str]) -> tuple[float, float]:
    """Return when a command wrote its first title, and when it had ended."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        moments = [time.perf_counter() for line in process.stdout if line.strip()]
        code = process.wait()
        end = time.perf_counter()
        errors.seek(0)
        if code or not moments:
            sys.exit(f"{shlex.join(command)} wrote {len(moments)} titles:\n{errors.read()[-4000:]}")
    return moments[0] - began, end - began


def main() -> None:
    if sys.argv[1:2] == ["--way"]:
        task = Task.given()
        way = sys.argv[2]
        measure(task, ctranslate2_way(task) if way == "ctranslate2" else gpt2kw_way(task, way))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["speed", "start"], default="speed")
    parser.add_argument("--model", choices=sorted(SHAPES), default="mini")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=5, help="at least, a batch size")
    parser.add_argument("--calls", type=int, default=2, help="at least, a batch size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", help="for start: its name, or its directory")
    parser.add_argument("--peers", default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument(
        "--under", default="", help="put before each way's command, such as 'taskset -c 0,1'"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"speed": speed, "start": start}[options.what](options, Path(folder))


if __name__ == "__main__":
    main()
