"""Having a model write about many lists of keywords: all that an evaluation asks of generation."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gpt2kw.evaluation.data import Prompt, Texts
from gpt2kw.generation.asking import Asker
from gpt2kw.generation.generator import Generator
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model


@dataclass(frozen=True)
class Written:
    """What a model wrote for each prompt, and in how many seconds."""

    texts: Texts
    seconds: float


def check_prompts(
    model: Model, prompts: Sequence[Prompt], settings: Iterable[GenerateOptions]
) -> None:
    """Raise `UserError` if a model can't be asked so in each setting, before it writes."""
    asker = Asker.of(model)
    for each in settings:
        for request in _requests(model, prompts, each):
            asker.ask(request)


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
        UserError: the model can't be asked for one of the prompts, as `check_prompts` tells.
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
