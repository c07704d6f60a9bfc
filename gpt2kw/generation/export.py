"""From a run's checkpoint to a folder that transformers and other tools read.

Needs neither TensorFlow nor torch.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from gpt2kw.errors import UserError, check_option, is_unicode
from gpt2kw.generation.card import model_card
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import GENERATION_FILE, Model, Precision, SamplingDefaults
from gpt2kw.model.runs import Checkpoint, Run, is_checkpoint_name
from gpt2kw.text.files import atomic_folder, check_output_folder, output_errors

_FILES = {
    "README.md",
    "config.json",
    GENERATION_FILE,
    "gpt2kw.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
"""What an export writes, and so may write over."""

_CHECKPOINTS = {"best": Run.best, "latest": Run.latest}
"""Checkpoints that can be asked for in a word."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a run's model as a folder for transformers and PyTorch, with a model card.

    The index of its training titles stays with the run: it holds them all.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's name in checkpoint/, or the path of its directory or of a checkpoint."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Where to write: a folder that is empty or not there."""
    checkpoint: str = "best"
    """best by validation loss (latest if none was measured), latest, or the folder of one
    of the run's checkpoints."""
    precision: Precision = "float32"
    """Of the weights; the 16-bit ones halve the file."""
    temperature: float | None = None
    """What `generate` takes for this model where it is not told, but not less than 0.7 outside
    plain mode. Default, here and of the next two: as the model that the run began with."""
    top_k: int | None = None
    """The same for its --top-k."""
    top_p: float | None = None
    """The same for its --top-p."""
    overwrite: bool = False
    """Replace an earlier export in the folder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", str(self.run))
        object.__setattr__(self, "folder", Path(self.folder))
        precisions = Precision.__args__
        check_option(
            "precision", self.precision, self.precision in precisions, " or ".join(precisions)
        )
        # They check themselves.
        GenerateOptions(**self._sampling)
        name = _name_of(self.folder)
        if not is_unicode(name):
            raise UserError(f"the folder's name is {name!r}", "give Unicode text")

    @property
    def _sampling(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SamplingDefaults.__dataclass_fields__}

    def sampling(self, usual: SamplingDefaults) -> SamplingDefaults:
        """Return the defaults of a run's model, with those that were given."""
        given = {name: value for name, value in self._sampling.items() if value is not None}
        return replace(usual, **given)


@dataclass(frozen=True)
class ExportReport:
    """What was written where. `bytes` is the size of all files."""

    folder: Path
    checkpoint: Path
    parameters: int
    bytes: int


def export_model(options: ExportOptions | None = None, **fields: Any) -> ExportReport:
    """Write a model folder; the fields of `ExportOptions` may be given as such.

    The folder appears whole or not at all.

    Raises:
        UserError: there is no such checkpoint or it is damaged, the folder can't be
            written or holds something, or a weight does not fit the precision.
    """
    options = replace(options, **fields) if options else ExportOptions(**fields)
    checkpoint = _find_checkpoint(options.run, options.checkpoint)
    _check_folder(options.folder, options.overwrite)
    model = checkpoint.load_model()
    model.sampling = options.sampling(model.sampling)
    with atomic_folder(options.folder) as draft:
        model.save(draft, options.precision)
        generation = json.dumps(_generation_config(model), indent=2)
        (draft / GENERATION_FILE).write_text(generation + "\n")
        card = model_card(_name_of(options.folder), model, checkpoint)
        (draft / "README.md").write_text(card, "utf-8")
        size = sum(file.stat().st_size for file in draft.iterdir())
    return ExportReport(options.folder, checkpoint.folder, model.parameters, size)


def _name_of(folder: Path) -> str:
    return Path(os.path.realpath(folder)).name


def _find_checkpoint(run: str, which: str) -> Checkpoint:
    if "/" in run and is_checkpoint_name(Path(run).name):
        if which != ExportOptions.checkpoint:
            raise UserError(
                f"{run} and --checkpoint {which} both name a checkpoint", "give one of them"
            )
        return Run(Path(run).parent).checkpoint_at(run)
    find = _CHECKPOINTS.get(which)
    return find(Run.at(run)) if find else Run.at(run).checkpoint_at(which)


def _check_folder(folder: Path, overwrite: bool) -> None:
    check_output_folder(folder)
    with output_errors(folder):
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if there and not overwrite:
        raise UserError(
            f"the folder {folder} is not empty",
            "choose another, or replace an earlier export with --overwrite",
        )
    if others := [name for name in there if name not in _FILES]:
        raise UserError(
            f"the folder {folder} holds {others[0]}, which is of no export",
            "choose another; --overwrite replaces nothing but exports",
        )


def _generation_config(model: Model) -> dict[str, Any]:
    """Return settings with which transformers chooses words as `generate` does."""
    usual = GenerateOptions()
    tokenizer = model.tokenizer
    allowed = tokenizer.may_follow_title(model.config["vocab_size"])
    return {
        "bos_token_id": tokenizer.start,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.end,
        "do_sample": True,
        **asdict(model.sampling),
        # A prompt must fit beside the text into what the model sees.
        "max_new_tokens": min(usual.max_tokens, model.context // 2),
        "suppress_tokens": np.flatnonzero(~allowed).tolist(),
    }
