"""Kill a fine-tuning at random moments, and compare it with one that was left alone.

    python tests/benchmarks/resume.py TEXT [--kills 30] [--steps 600] [--model new]

Every kill is a SIGKILL at a random moment of the command's life, start-up and the
writing of checkpoints included; the same command then goes on. Prints whether all losses
and all weights of the last checkpoint are the same, bit for bit; exit status 1 if not.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

SPEEDS = ("tokens_per_second", "input_wait")


def command(options: argparse.Namespace, run: str) -> list[str]:
    return [
        *(sys.executable, "-m", "gpt2kw.finetune", str(options.text.resolve())),
        *("--run-name", run, "--model", options.model, "--steps", str(options.steps)),
        *("--save-every", "5", "--validate-every", "50", "--sample-every", "0"),
    ]


def curve(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEEDS} for line in lines]


def steps_done(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("ckpt-*")), default=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--model", default="new")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"cwd": folder, "stderr": subprocess.DEVNULL}
        start = time.monotonic()
        subprocess.run(command(options, "undisturbed"), check=True, **quiet)
        whole = time.monotonic() - start
        print(f"undisturbed: {options.steps} steps in {whole:.0f} s", flush=True)
        killed = Path(folder) / "checkpoint/killed"
        kills = 0
        while True:
            process = subprocess.Popen(command(options, "killed"), **quiet)
            # Long enough that the whole run lasts for about that many kills.
            moment = rng.uniform(0.2, 2.0) * (whole / options.kills + 10)
            try:
                process.wait(moment if kills < options.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"kill {kills} after {moment:.1f} s: at {steps_done(killed)}", flush=True)
                continue
            if process.returncode:
                sys.exit(f"the command ended with {process.returncode}")
            break
        same_curve = curve(killed) == curve(killed.with_name("undisturbed"))
        last = f"ckpt-{options.steps}"
        same_arrays = True
        for name in ("model.safetensors", "optimizer.safetensors"):
            arrays = load_file(killed / last / name)
            wanted = load_file(killed.with_name("undisturbed") / last / name)
            same_arrays &= all(np.array_equal(wanted[key], arrays[key]) for key in wanted)
        print(
            f"{kills} kills; losses {'identical' if same_curve else 'DIFFERENT'} in "
            f"{len(curve(killed))} lines, weights and optimizer "
            f"{'identical' if same_arrays else 'DIFFERENT'}"
        )
        sys.exit(not (same_curve and same_arrays))


if __name__ == "__main__":
    main()
