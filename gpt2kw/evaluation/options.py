"""The options of an evaluation."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2kw.errors import UserError, check_default, check_option
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.runs import Run

SETTINGS = ("keyword_mode", "candidates", "temperature", "top_k", "top_p")
"""Options of generate that may have several values here."""


def setting_name(option: str, value: float | str | None) -> str:
    """Return an option and its value as the report shows them; None is its default."""
    shown = "as usual" if value is None else value if isinstance(value, str) else f"{value:g}"
    return f"{option.replace('_', '-')} {shown}"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure what models write about keywords, beside what people wrote about them."""

    source: tyro.conf.Positional[Path]
    """Keywords, and people's texts about them that no model has seen: validation text that
    encode wrote, or a table (.csv .tsv .jsonl, also with .gz, or .parquet)."""
    run_name: tuple[str, ...] = ()
    """Runs in checkpoint/ to measure. Default: run1, if there is no --model."""
    model: tuple[str, ...] = ()
    """Fine-tuned models to measure: folders, names on the hub, or mini."""
    keyword_mode: tuple[Literal["guarantee", "prefer", "plain"], ...] = ("guarantee",)
    """As of generate. Of several values, here and below, each is measured with each."""
    candidates: tuple[int | None, ...] = (None,)
    """As of generate."""
    temperature: tuple[float | None, ...] = (None,)
    """As of generate."""
    top_k: tuple[int | None, ...] = (None,)
    """As of generate."""
    top_p: tuple[float | None, ...] = (None,)
    """As of generate."""
    prompts: int = 500
    """Most lists of keywords that are used, chosen at random."""
    nsamples: int = 5
    """Texts for each of them."""
    max_tokens: int = 64
    """Longest text, in tokens."""
    training: Path | None = None
    """Training text to look for copies in. Default: that of the first run, if it is still there."""
    judge: str | None = None
    """What measures how likely the texts are, and is none of the models that wrote them: a run's
    name, a folder, a name on the hub, or trigrams (of English words, which need no download
    but the package pocketsphinx)."""
    keywords_field: str = "keywords"
    """Of a table: the column of keywords."""
    keyword_sep: str | None = None
    """Of a table: what parts the keywords. Default: spaces or commas."""
    references_field: str | None = None
    """Of a table: the column of what people wrote. Rows with the same keywords belong together."""
    category_field: str | None = None
    """Of a table: the column of the kind of text."""
    spacy_model: str = "en_core_web_sm"
    """The model whose lemmatizer says what is an inflection of a keyword."""
    seed: int = 0
    """Of the choice of keywords, of the texts and of the intervals."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The folder for report.json and report.html; earlier ones there are replaced. Default:
    evaluation in the first run's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", Path(self.source))
        for name in ("training", "output"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name in ("run_name", "model", *SETTINGS):
            value = getattr(self, name)
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
            # The same twice would be two columns of one name.
            object.__setattr__(self, name, tuple(dict.fromkeys(value)))
        for name in SETTINGS:
            check_option(name, getattr(self, name), bool(getattr(self, name)), "at least one value")
        for name in ("prompts", "nsamples"):
            value = getattr(self, name)
            check_option(name, value, 1 <= value <= 10**6, "1 to 1,000,000")
        check_option("keyword-sep", self.keyword_sep, self.keyword_sep != "", "a separator")
        if not self.is_table:
            for name in ("keywords_field", "keyword_sep", "references_field", "category_field"):
                check_default(self, name, "a table with it, and not encoded text")
        if not self.output and not self.runs:
            raise UserError(
                "there is no run whose directory could hold the report", "give -o FOLDER"
            )
        # They check themselves.
        self.settings()

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs to measure."""
        return self.run_name or (() if self.model else ("run1",))

    @property
    def is_table(self) -> bool:
        """Whether the source is a table, and not text that encode wrote."""
        return Path(self.source.name.lower().removesuffix(".gz")).suffix != ".txt"

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return self.output or Run.named(self.runs[0]).folder / "evaluation"

    def settings(self) -> dict[str, GenerateOptions]:
        """Return what to generate with, by a name that says what sets it apart, if anything."""
        several = [name for name in SETTINGS if len(getattr(self, name)) > 1]
        found = {}
        for values in product(*(getattr(self, name) for name in SETTINGS)):
            chosen = dict(zip(SETTINGS, values, strict=True))
            name = " ".join(setting_name(name, chosen[name]) for name in several)
            found[name] = GenerateOptions(
                **chosen,
                nsamples=self.nsamples,
                max_tokens=self.max_tokens,
                seed=self.seed,
                format="jsonl",
            )
        return found
