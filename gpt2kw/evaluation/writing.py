"""Having a model write about many lists of keywords: all that an evaluation asks of generation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2kw.evaluation.data import Prompt, Texts
from gpt2kw.generation.generator import Generator
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model


@dataclass(frozen=True)
class Written:
    """What a model wrote for each prompt, and in how many seconds."""

    texts: Texts
    seconds: float


def write(
    model: Model,
    prompts: Sequence[Prompt],
    settings: GenerateOptions,
    progress: Callable[[], object],
) -> Written:
    """Write `settings.nsamples` texts for each prompt, or fewer where they come out blank.

    `progress` is called behind each prompt.
    """
    generator = Generator.of(model)
    known = set(model.about.categories)
    texts = []
    start = time.perf_counter()
    for number, prompt in enumerate(prompts):
        asked = replace(
            settings,
            keywords=" ".join(prompt.keywords),
            # A category that the model never met would only mislead it.
            category=prompt.category if prompt.category in known else None,
            seed=_seed(settings.seed, number),
        )
        texts.append(list(generator.documents(asked)))
        progress()
    return Written(texts, time.perf_counter() - start)


def _seed(seed: int, number: int) -> int:
    """Return a prompt's own seed, the same in all columns, which are then better compared."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
