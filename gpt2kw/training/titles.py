"""The index of the titles that a run has learnt from."""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from gpt2kw.errors import UserError
from gpt2kw.model.named import MINI, NEW, is_hub_id
from gpt2kw.model.runs import Run
from gpt2kw.text.tally import Tally
from gpt2kw.text.title_index import TitleIndex
from gpt2kw.training.corpus import read_records
from gpt2kw.training.resume import TEXT_CHECKSUM

log = logging.getLogger(__name__)


def index_titles(run: Run, settings: dict[str, Any]) -> None:
    """Make the run's index of titles, if it has none; the caller holds the run's lock.

    It has the titles of the text, and those of the run whose model this one began with.
    A run that goes on keeps the index that it has, for its text can't change.

    Raises:
        UserError: the index can't be written.
    """
    key = f"{settings[TEXT_CHECKSUM]} {settings['model']}"
    if TitleIndex.exists(run.titles_folder, key):
        return
    titles = chain(_titles(settings["text"]), _earlier_titles(str(settings["model"])))
    TitleIndex.build(titles, run.titles_folder, key)
    log.info("%s titles are in %s", f"{len(TitleIndex(run.titles_folder)):,}", run.titles_folder)


def _titles(text: str | Path) -> Iterator[str]:
    return (record.title for record in read_records(Path(text), Tally()) if record.title)


def _earlier_titles(model: str) -> Iterable[str]:
    """Return the titles that a model learnt from in earlier runs; say if they are not known."""
    if model in (NEW, MINI) or is_hub_id(model):
        return ()
    try:
        return TitleIndex.open(Run.of_model(model).titles_folder)
    except UserError as error:
        problem, _ = error.args
        log.warning("copies of what %s learnt from before won't be noticed: %s", model, problem)
        return ()
