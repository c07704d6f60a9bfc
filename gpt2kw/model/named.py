"""Finding a model by what the user calls it: a folder, a run, or a name on the hub."""

import json
import logging
import re
from pathlib import Path

from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.model.runs import CHECKPOINT_FOLDER, Run

log = logging.getLogger(__name__)

MINI = "mini"
"""The small pretrained model that comes with this package."""
NEW = "new"
"""A model of `mini`'s shape that a fine-tuning makes from the user's own text."""
MINI_SHAPE = {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_positions": 256}
MINI_VOCABULARY = 8192

MODELS_FOLDER = Path("models")
"""Where downloads are kept, below the folder that a command runs in."""

_USUAL_RUN = "run1"
"""The run that finetune makes if no other name is given."""

_PACKAGE = Path(__file__).parents[1]
MINI_FOLDERS = (_PACKAGE.parent / "models" / "mini", _PACKAGE / "mini")
"""Where `mini` lies: in a checkout, and where setup.py puts it in an installed package."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = [
    "config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "gpt2kw.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
]


def find_model(name: str, models_folder: Path = MODELS_FOLDER) -> Path:
    """Return the folder of a model, downloading it if it is a hub id.

    A run's directory stands for its best checkpoint. `mini` comes with the package. A
    download goes once into `models_folder` and later needs no network. Weights are taken as
    safetensors, or as TensorFlow's HDF5 where the hub has no others.

    Raises:
        UserError: no such folder, a run without a checkpoint or with a damaged one, no
            such model on the hub, or no network.
    """
    if name == NEW:
        raise UserError(
            f"--model {NEW} is made by fine-tuning",
            f"python -m gpt2kw.finetune TEXT --model {NEW}, and then --run-name names its run",
        )
    if name == MINI:
        return _mini_folder()
    folder = Path(name)
    if Run(folder).exists or (folder.parent == CHECKPOINT_FOLDER and not folder.is_dir()):
        checkpoint = Run(folder).best()
        checkpoint.check_files()
        return checkpoint.folder
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise UserError(f"there is no model folder {name}", "check the path")
    return _from_hub(name, models_folder)


def _mini_folder() -> Path:
    for folder in MINI_FOLDERS:
        if is_whole(folder):
            return folder
    raise UserError(
        f"the model {MINI} is not in {MINI_FOLDERS[0]}",
        f"restore it from gpt2kw's repository; --model {NEW} fine-tunes without it",
    )


def load_model(run_name: str | None, name: str | None) -> tuple[Model, Path]:
    """Load a run's best checkpoint, or the model of this name.

    With neither it is `run1`, or `mini` where there is no such run. The second value is
    the folder for an index of the titles that the model learnt from, if there is one.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if name is None and (run_name or Run.named(_USUAL_RUN).exists):
        run = Run.named(run_name or _USUAL_RUN)
        return run.best().load_model(), run.titles_folder
    if name is None:
        log.info("there is no run %s yet; this is the model %s", _USUAL_RUN, MINI)
        name = MINI
    folder = find_model(name)
    return Model.load(folder), Run.of_model(folder).titles_folder


def is_hub_id(name: str) -> bool:
    """Whether `find_model` looks for a model of this name on the hub."""
    return bool(
        name not in (MINI, NEW)
        and not Path(name).is_dir()
        and _HUB_ID.fullmatch(name)
        and not name.startswith((".", f"{CHECKPOINT_FOLDER}/", "models/"))
    )


def _from_hub(name: str, models_folder: Path) -> Path:
    # Not needed, and so not imported, for a folder.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        local = Path(snapshot_download(name, cache_dir=models_folder, local_files_only=True))
        if is_whole(local):
            return local
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise UserError(f"--model is {name!r}", "give a name on the hub, or a folder") from error
    ways_out = f"use --model {MINI}, or give the folder of a model that you have"
    if Run.at(name).exists:
        ways_out = f"for the run of this name, use --model {Run.at(name).folder}"
    try:
        files = HfApi().list_repo_files(name)
        wanted = list(_HUB_FILES)
        if not any(file.endswith(".safetensors") for file in files):
            wanted.append("tf_model.h5")
        folder = Path(snapshot_download(name, cache_dir=models_folder, allow_patterns=wanted))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no model {name!r}", f"check the name, or {ways_out}"
        ) from error
    except OSError as error:
        # Everything that the hub's client raises; its texts run over many lines.
        raise UserError(f"can't reach the hub for {name!r}: {_reason(error)}", ways_out) from error
    if not is_whole(folder):
        raise UserError(f"the hub's {name!r} has no weights that can be read", ways_out)
    return folder


def _reason(error: OSError) -> str:
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__
    return str(cause).splitlines()[0] if str(cause) else type(error).__name__


def is_whole(folder: Path) -> bool:
    """Whether a download has a configuration and weights. A broken one may lack some."""
    if not (folder / "config.json").exists():
        return False
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
        return all((folder / shard).exists() for shard in shards)
    return any((folder / name).exists() for name in ("model.safetensors", "tf_model.h5"))
