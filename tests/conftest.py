"""What tests share: small texts, a small model, and commands run as a user does."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2kw.text.format import Record, render

TITLES = [
    ("cats", "The cat sleeps on the warm keyboard"),
    ("cats", "Why does my cat stare at the wall"),
    ("dogs", "My dog learned to open the fridge"),
    ("dogs", "Two old dogs share a single blanket"),
    ("books", "Looking for short novels about the sea"),
    ("books", "The library closed and nobody told the librarian"),
    ("school", "School project due on Monday, glue is missing"),
    ("games", "Board games for a rainy evening in October"),
]

RUN = Path("checkpoint/run1")
"""Of a test whose run has no name."""


@pytest.fixture
def titles_csv(tmp_path: Path) -> Path:
    """A table of 48 different titles with their categories."""
    return write_titles(tmp_path / "titles.csv")


def write_titles(path: Path, rounds: int = 6) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "title"])
        for number in range(rounds):
            for category, title in TITLES:
                writer.writerow([category, f"{title} {number}" if number else title])
    return path


@pytest.fixture(scope="session")
def training_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training text with keywords, and a validation text beside it."""
    path = tmp_path_factory.mktemp("text") / "titles.txt"
    records = [
        Record(category, " ".join(title.split()[1:3]), f"{title} {number}")
        for number in range(6)
        for category, title in TITLES
    ]
    path.write_text("".join(render(record) + "\n" for record in records), "utf-8")
    validation = "".join(render(record) + "\n" for record in records[:8])
    path.with_name("titles.val.txt").write_text(validation, "utf-8")
    return path


def run_command(
    name: str, *arguments: object, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m gpt2kw.NAME` in a folder, and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", f"gpt2kw.{name}" if name else "gpt2kw", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def assert_one_error_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check for exit status 2 and a single line of error that has all the words."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GPT-2 with two layers and random weights."""
    from gpt2kw.model.folder import new_model

    folder = tmp_path_factory.mktemp("tiny")
    records = [Record(category, title, title) for category, title in TITLES]
    new_model(records, 400, 0, n_layer=2, n_head=2, n_embd=32, n_positions=64).save(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(here, training_text, tiny_model):
    """Options of a run of a second or two."""
    return run_settings(training_text, tiny_model)


def run_settings(training_text, tiny_model):
    return {
        "text": training_text,
        "model": str(tiny_model),
        "steps": 20,
        "batch_size": 8,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "dropout": 0.0,
        "category_dropout": 0.0,
        "save_every": 10,
        "validate_every": 10,
        "sample_every": 0,
        "precision": "float32",
    }


@pytest.fixture(scope="session")
def run_of_20_steps(training_text, tiny_model, tmp_path_factory):
    """A folder in which `settings` were trained, for tests to copy."""
    from gpt2kw import finetune

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finetune(**run_settings(training_text, tiny_model))
    return folder


@pytest.fixture
def trained(settings, run_of_20_steps):
    """The same options, with their run done already."""
    shutil.copytree(run_of_20_steps / "checkpoint", "checkpoint")
    return settings


def metrics(key):
    """Return what a run wrote down under a key, by step."""
    lines = map(json.loads, (RUN / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[key] for line in lines if key in line}


def steps_kept():
    """Return the steps of the checkpoints that a run has."""
    from gpt2kw.model.runs import Run

    return [checkpoint.step for checkpoint in Run(RUN).checkpoints()]


def with_clear_choices(model):
    """Return a small model with weights so large that its choices are clear."""
    rng = np.random.default_rng(0)
    for name, weight in model.weights.items():
        noise = rng.normal(0, 2.0 if "wpe" in name else 0.3, weight.shape)
        model.weights[name] = (weight + noise).astype(np.float32)
    return model
