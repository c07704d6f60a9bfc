"""What an evaluation measures, and what it measures it with."""

from collections.abc import Callable, Iterable
from pathlib import Path

from gpt2kw.errors import UserError
from gpt2kw.evaluation.data import PEOPLE, REPEATED, SHUFFLED, TRAINING
from gpt2kw.evaluation.likelihood import Judge, Scorer, find_judge
from gpt2kw.evaluation.options import EvaluateOptions
from gpt2kw.evaluation.trigrams import TRIGRAMS, Trigrams, check_trigrams
from gpt2kw.model.folder import Model
from gpt2kw.model.named import find_model
from gpt2kw.model.runs import Run
from gpt2kw.training.corpus import checksum
from gpt2kw.training.resume import TEXT_CHECKSUM


def find_models(options: EvaluateOptions) -> dict[str, Path]:
    """Return the folders of models by their names in the report.

    Raises:
        UserError: there is no such run or model.
    """
    if not (options.run_name or options.model or Run.named(options.runs[0]).exists):
        raise UserError(
            f"there is no run {options.runs[0]} in checkpoint",
            "name another with --run-name, or a model, such as --model mini -o FOLDER",
        )
    found: dict[str, Path] = {}
    taken = {PEOPLE, SHUFFLED, REPEATED, TRAINING}
    for name in options.runs:
        found[f"{name} (run)" if name in taken else name] = find_model(str(Run.named(name).folder))
    for name in options.model:
        found[f"{name} (model)" if name in taken | found.keys() else name] = find_model(name)
    return found


def judge_loader(options: EvaluateOptions, measured: Iterable[Path]) -> Callable[[], Judge] | None:
    """Return what loads the judge, if there is to be one.

    Raises:
        UserError: there is none of that name, or it is one of the models that are `measured`.
    """
    if not options.judge:
        return None
    if options.judge == TRIGRAMS:
        check_trigrams()
        return Trigrams
    folder = find_judge(options.judge, measured)
    return lambda: Scorer(Model.load(folder))


def choose_training(
    options: EvaluateOptions, folders: dict[str, Path]
) -> tuple[Path | None, list[str]]:
    """Return the training text, or None, and what is to be said of it."""
    if options.training:
        return options.training, []
    (first, folder), *others = folders.items()
    text, why = _find_training(folder)
    if not text:
        return None, [
            f"novelty and unseen combinations are not measured, for lack of what {folder} learnt "
            f"from ({why}); name it with --training"
        ]
    strangers = [name for name, other in others if _find_training(other)[0] != text]
    if not strangers:
        return text, []
    return text, [
        f"novelty, unseen combinations and the distance of lengths are by {text}, from which "
        f"{first} learnt; {', '.join(strangers)} learnt from something else"
    ]


def _find_training(folder: Path) -> tuple[Path | None, str]:
    """Return from what the model in a folder learnt, or None and why that is not known."""
    run = Run(folder.parent)
    if not run.exists:
        return None, "its run is not known"
    settings = run.settings()
    text = Path(str(settings.get("text")))
    if not text.is_file():
        return None, f"{text} is not there"
    if checksum(text) != settings.get(TEXT_CHECKSUM):
        return None, f"{text} has changed since"
    return text, ""
