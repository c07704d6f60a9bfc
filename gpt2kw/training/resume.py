"""Where a run goes on, and what may be changed on the way."""

import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gpt2kw.errors import UserError
from gpt2kw.model.runs import Checkpoint, Run
from gpt2kw.training.options import FinetuneOptions

log = logging.getLogger(__name__)

TEXT_CHECKSUM = "text_checksum"
"""The setting that is no option: a checksum of the training text."""
_FIXED = (
    *("model", "seed", TEXT_CHECKSUM, "batch_size", "category_dropout", "loss_on"),
    *("only_train_transformer_layers", "only_train_attention"),
)
"""Settings without which a run is another one: its weights, or the order of its data."""
_OF_A_CALL = (
    *("text", "restore_from", "max_minutes", "find_learning_rate"),
    *("devices", "address", "workers"),
)
"""Settings that say nothing about what is learned."""


def settings_of(options: FinetuneOptions, text_checksum: str) -> dict[str, Any]:
    """Return what a run's `run.json` says."""
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
    }
    return settings | {TEXT_CHECKSUM: text_checksum}


def checkpoint_to_restore(
    options: FinetuneOptions, settings: dict[str, Any], run: Run
) -> Checkpoint | None:
    """Return where the run goes on, or None for a new one; say which settings changed.

    Raises:
        UserError: there is no such checkpoint, or a setting changed that may not.
    """
    if options.restore_from == "fresh":
        return None
    checkpoints = run.checkpoints()
    if options.restore_from != "latest":
        wanted = Path(options.restore_from).resolve()
        matching = [c for c in checkpoints if c.folder.resolve() == wanted]
        if not matching:
            raise UserError(
                f"--restore-from is {options.restore_from!r}, no checkpoint of {run.folder}",
                "give latest, fresh, or one of "
                f"{', '.join(str(c.folder) for c in checkpoints) or 'none'}; "
                "to start a new run from it, use --model",
            )
        checkpoints = matching
    if not checkpoints:
        return None
    # A setting that the run does not know yet was as it is by default.
    defaults = {field.name: field.default for field in fields(FinetuneOptions)}
    _compare(run, defaults | run.settings(), settings)
    return checkpoints[-1]


def _compare(run: Run, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in now if name in before and before[name] != now[name]]
    for name in _FIXED:
        if name in changed:
            raise UserError(
                f"{run.folder} was started from another text"
                if name == TEXT_CHECKSUM
                else f"{run.folder} was started from {_option(name)} {before[name]}, "
                f"not {now[name]}",
                f"go on as before, start a new run from it with --model {run.folder} and another "
                "--run-name, or begin anew with --restore-from fresh",
            )
    said = [name for name in changed if name not in _OF_A_CALL]
    if said:
        changes = (f"{_option(name)} {before[name]} is now {now[name]}" for name in said)
        log.info("changed since the run began: %s", ", ".join(changes))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
