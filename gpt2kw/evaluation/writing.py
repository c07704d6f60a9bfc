"""Having a model write about many lists of keywords: all that an evaluation asks of generation."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2kw.errors import UserError
from gpt2kw.evaluation.data import Prompt, Texts
from gpt2kw.evaluation.likelihood import load_measured
from gpt2kw.generation.asking import Asker
from gpt2kw.generation.generator import Generator
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model


@dataclass(frozen=True)
class Written:
    """What a model wrote for each prompt, and in how many seconds."""

    texts: Texts
    seconds: float


def leave_out_refused(
    prompts: Sequence[Prompt], folders: Iterable[Path], settings: Collection[GenerateOptions]
) -> tuple[list[Prompt], list[str]]:
    """Return the prompts that every model can be asked for in each setting, before any writes.

    Behind them what is to be said of the others.

    Raises:
        UserError: a model is damaged or was never fine-tuned here, or none is left.
    """
    refused: dict[int, UserError] = {}
    for folder in folders:
        model = load_measured(folder)
        asker = Asker.of(model)
        for each in settings:
            for place, request in enumerate(_requests(model, prompts, each)):
                try:
                    asker.ask(request)
                except UserError as error:
                    refused.setdefault(place, error)
    if not refused:
        return list(prompts), []
    why = next(iter(refused.values()))
    if len(refused) == len(prompts):
        raise why
    left = [prompt for place, prompt in enumerate(prompts) if place not in refused]
    return left, [f"{len(refused):,} lists of keywords left out; of the first, {why}"]


def _requests(
    model: Model, prompts: Sequence[Prompt], settings: GenerateOptions
) -> list[GenerateOptions]:
    known = set(model.about.categories)
    return [
        replace(
            settings,
            keywords=" ".join(prompt.keywords),
            # A category that the model never met would only mislead it.
            category=prompt.category if prompt.category in known else None,
        )
        for prompt in prompts
    ]


def write(
    model: Model,
    prompts: Sequence[Prompt],
    settings: GenerateOptions,
    progress: Callable[[], object],
) -> Written:
    """Write `settings.nsamples` texts for each prompt, or fewer where they come out blank.

    They depend on the seed and on the prompt's place, which are the same in all columns
    of a report: so these are better compared. `progress` is called behind each prompt.

    Raises:
        UserError: the model can't be asked for one of the prompts, see `leave_out_refused`.
    """
    generator = Generator.of(model)
    requests = _requests(model, prompts, settings)
    texts: Texts = [[] for _ in prompts]
    start, done = time.perf_counter(), 0
    for text in generator.write(requests, settings):
        texts[text.request].append(text.document)
        while done < text.request:
            progress()
            done += 1
    for _ in range(done, len(prompts)):
        progress()
    return Written(texts, time.perf_counter() - start)
