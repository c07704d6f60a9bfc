"""Average two models that began alike: weights between those of one and of the other.

    python models/recipe/average.py checkpoint/one checkpoint/other FOLDER --share 0.6

Fine-tuning that is too strong in one respect is so drawn back (Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models").
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from gpt2kw.model.folder import Model
from gpt2kw.model.named import find_model


@dataclass(frozen=True, kw_only=True)
class AverageOptions:
    """Average two models that began alike."""

    one: tyro.conf.Positional[str]
    """A run's directory, or a model's folder."""
    other: tyro.conf.Positional[str]
    """The same; the models have the same vocabulary and shape."""
    output: tyro.conf.Positional[Path]
    """Where to write the average."""
    share: float = 0.5
    """Of the other."""


def average(one: Model, other: Model, share: float) -> Model:
    """Return a model like `one` whose weights are by `share` those of `other`."""
    weights = {
        name: (1 - share) * weight + share * other.weights[name]
        for name, weight in one.weights.items()
    }
    return replace(one, weights=weights)


def main() -> None:
    """Do as the options say."""
    options = tyro.cli(AverageOptions, description=__doc__.splitlines()[0])
    models = [Model.load(find_model(name)) for name in (options.one, options.other)]
    options.output.mkdir(parents=True, exist_ok=True)
    average(*models, options.share).save(options.output)
    print(f"{options.output}: {options.share:.0%} {options.other}, the rest {options.one}")


if __name__ == "__main__":
    main()
