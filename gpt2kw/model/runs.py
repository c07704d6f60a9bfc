"""Run directories: what a fine-tuning leaves in `checkpoint/<run>/`.

- `run.json`: the options that the run was started with
- `ckpt-<step>/`: a whole model folder, with `optimizer.safetensors` and `state.json`
- `titles/`: an index of the titles that it learnt from, for finding copies of them
- `metrics.jsonl`, `samples/`, `tensorboard/`, `loss.png`: what it said on its way

A checkpoint's number is the optimizer's step. It is made under another name and then
renamed, so one that has its name is whole; `state.json` holds a checksum of each file,
so that damage which came later is noticed.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from gpt2kw.errors import UserError, did_you_mean
from gpt2kw.model.folder import Model
from gpt2kw.text.files import (
    atomic_writer,
    lock_file,
    made_folder,
    output_errors,
    set_aside,
    to_disk,
)

CHECKPOINT_FOLDER = Path("checkpoint")
"""Where runs are kept, below the folder that a command runs in."""
TOKENS_FOLDER = CHECKPOINT_FOLDER / ".tokens"
"""Where texts are kept as tokens, for the next run on the same text."""

_NAME = re.compile(r"ckpt-(\d+)")
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder and step."""

    folder: Path
    step: int

    def load_model(self) -> Model:
        """Read the model; `UserError` that names an older checkpoint if it is damaged."""
        self.check_files()
        return Model.load(self.folder)

    @property
    def validation(self) -> tuple[str, float] | None:
        """The validation loss at this step, behind a checksum of its text, if measured."""
        try:
            found = self._read_state()["training"].get("validation")
        except UserError:
            return None
        return (str(found[0]), float(found[1])) if found else None

    def load_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read the optimizer's arrays and the other state of training."""
        state = self._read_state()
        return load_file(self.folder / _OPTIMIZER_FILE), state["training"]

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / _STATE_FILE).read_text("utf-8"))
            return {"checksums": dict(state["checksums"]), "training": dict(state["training"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(_STATE_FILE) from error

    def check_files(self) -> None:
        """Raise `UserError` that names an older checkpoint if a file is not what was saved."""
        for name, saved in self._read_state()["checksums"].items():
            path = self.folder / name
            if not path.exists() or _checksum_of(path) != saved:
                raise self._damaged(name)

    def _damaged(self, name: str) -> UserError:
        older = [c for c in Run(self.folder.parent).checkpoints() if c.step < self.step]
        return UserError(
            f"the checkpoint {self.folder} is damaged ({name} is not what was saved)",
            f"the one before it: --restore-from {older[-1].folder} (generate takes it as --model, "
            "export as --checkpoint)"
            if older
            else "there is none before it: --restore-from fresh begins anew",
        )


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder of this name is a checkpoint."""
    return bool(_NAME.fullmatch(name))


def checksum(file: IO[bytes]) -> str:
    """Return a checksum of what is left to read in a file."""
    digest = hashlib.blake2b(digest_size=16)
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()


def _checksum_of(path: Path) -> str:
    with open(path, "rb") as file:
        return checksum(file)


@dataclass(frozen=True)
class Run:
    """A run directory, which need not exist yet."""

    folder: Path

    @classmethod
    def named(cls, name: str) -> "Run":
        """Return the run of this name."""
        if not re.fullmatch(r"(?!\.)[^/\\\0]{1,100}", name):
            raise UserError(f"--run-name is {name!r}", "give a plain name, such as run1")
        return cls(CHECKPOINT_FOLDER / name)

    @classmethod
    def at(cls, place: str) -> "Run":
        """Return the run of this name, or with this directory, which has a slash."""
        return cls(Path(place) if "/" in place else CHECKPOINT_FOLDER / place)

    @classmethod
    def of_model(cls, folder: str | Path) -> "Run":
        """Return the run whose directory, or whose checkpoint, this folder is if it is one."""
        folder = Path(folder)
        return cls(folder.parent if is_checkpoint_name(folder.name) else folder)

    @property
    def exists(self) -> bool:
        """Whether a fine-tuning began here."""
        return self._settings_file.exists()

    @property
    def metrics_file(self) -> Path:
        """Where the numbers of the run are."""
        return self.folder / "metrics.jsonl"

    @property
    def samples_folder(self) -> Path:
        """Where the sample texts are, a file for each step that wrote some."""
        return self.folder / "samples"

    @property
    def titles_folder(self) -> Path:
        """Where the index of the titles is, of this run's text and of those before it."""
        return self.folder / "titles"

    @property
    def plot_file(self) -> Path:
        """Where the losses are drawn."""
        return self.folder / "loss.png"

    @property
    def tensorboard_folder(self) -> Path:
        """Where TensorBoard looks."""
        return self.folder / "tensorboard"

    @property
    def lock_file(self) -> Path:
        """What the process that trains the run holds."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    @property
    def _settings_file(self) -> Path:
        return self.folder / "run.json"

    def create(self, settings: dict[str, Any]) -> None:
        """Make the directory and write down the settings."""
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # A run that is gone on with has one, which a full disk must not take away.
            with atomic_writer(self._settings_file) as file:
                file.write(json.dumps(settings, indent=2) + "\n")

    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was started with."""
        try:
            return dict(json.loads(self._settings_file.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.folder} is not a run directory: its run.json can't be read",
                "choose another --run-name, or begin anew with --restore-from fresh",
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return the entries of numbers, oldest first, each with its "step".

        Torn lines are left out.
        """
        try:
            lines = self.metrics_file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [entry for entry in found if isinstance(entry, dict) and "step" in entry]

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            Checkpoint(path, int(match[1]))
            for path in self.folder.iterdir()
            if (match := _NAME.fullmatch(path.name))
        ]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, which need not exist."""
        return Checkpoint(self.folder / f"ckpt-{step}", step)

    def latest(self) -> Checkpoint:
        """Return the newest checkpoint; `UserError` if there is none."""
        if checkpoints := self.checkpoints():
            return checkpoints[-1]
        others = [p.name for p in self.folder.parent.glob("*") if Run(p).checkpoints()]
        there = f"there are {', '.join(sorted(others))}" if others else "run make finetune first"
        raise UserError(
            f"there is no run {self.folder.name!r} with a checkpoint in {self.folder.parent}",
            f"{did_you_mean(self.folder.name, others)}{there}",
        )

    def best(self) -> Checkpoint:
        """Return the checkpoint with the lowest validation loss, or else the newest.

        Losses count if they were measured on the text that the newest of them was.
        """
        measured = [(c.validation, c) for c in self.checkpoints() if c.validation]
        if not measured:
            return self.latest()
        text = measured[-1][0][0]
        return min((v[1], -c.step, c) for v, c in measured if v[0] == text)[2]

    def checkpoint_at(self, folder: str | Path) -> Checkpoint:
        """Return the checkpoint with this folder; `UserError` if the run has none such."""
        there = self.checkpoints() or [self.latest()]
        for checkpoint in there:
            if checkpoint.folder.resolve() == Path(folder).resolve():
                return checkpoint
        raise UserError(
            f"{folder} is no checkpoint of {self.folder}",
            f"there are {', '.join(str(checkpoint.folder) for checkpoint in there)}",
        )

    def save(
        self,
        step: int,
        model: Model,
        optimizer: dict[str, np.ndarray],
        training: dict[str, Any],
        keep: int,
    ) -> Checkpoint:
        """Write the checkpoint of `step`; keep the newest `keep` and the best, remove others."""
        target = self.checkpoint(step).folder
        draft = self.folder / f".ckpt-{step}.draft"
        with output_errors(target):
            for left_over in self.folder.glob(".ckpt-*.draft"):
                shutil.rmtree(left_over)
            draft.mkdir()
            try:
                model.save(draft)
                save_file(optimizer, draft / _OPTIMIZER_FILE)
                checksums = {path.name: _checksum_of(path) for path in sorted(draft.iterdir())}
                state = {"step": step, "training": training, "checksums": checksums}
                (draft / _STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", "utf-8")
                for path in draft.iterdir():
                    to_disk(path)
                # One of the same step goes aside first, for to remove it takes its time.
                before = self.folder / f".ckpt-{step}.before.draft"
                if target.exists():
                    target.rename(before)
                draft.rename(target)
                to_disk(self.folder)
                shutil.rmtree(before, ignore_errors=True)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        best = self.best()
        for old in self.checkpoints()[:-keep]:
            if old != best:
                shutil.rmtree(old.folder)
        return self.checkpoint(step)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run; `UserError` if one does."""
        path = self.lock_file
        with contextlib.ExitStack() as stack:
            with output_errors(path):
                stack.enter_context(made_folder(path.parent))
                file = stack.enter_context(open(path, "w"))
            if not lock_file(file, path):
                raise UserError(
                    f"another process is training {self.folder}",
                    "wait for it, or choose another --run-name",
                )
            stack.callback(path.unlink)
            yield

    def set_aside(self) -> Path:
        """Rename the directory to a free name beside it, and return that."""
        return set_aside(self.folder)

    def set_aside_after(self, step: int) -> list[Path]:
        """Rename checkpoints newer than `step`, and return their new names."""
        return [set_aside(c.folder) for c in self.checkpoints() if c.step > step]
