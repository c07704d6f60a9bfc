"""The options of a generation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2kw.errors import UserError, check_option, is_unicode
from gpt2kw.text.keywords import distinct_keywords


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Write new texts about keywords, with a model that was fine-tuned here."""

    keywords: str = ""
    """What the texts are about, parted by spaces or commas; dashes join the words of one
    keyword: new-york. Without any, about anything."""
    category: str | None = None
    """The kind of text, as in the training text."""
    prefix: str = ""
    """How each text begins."""
    nsamples: int = 10
    """How many texts."""
    run_name: str | None = None
    """The run in checkpoint/ whose best checkpoint is used. Default: run1."""
    model: str | None = None
    """A fine-tuned model to use instead of a run: a folder, a name on the hub, or mini,
    which is also used if there is no run1 yet."""
    temperature: float = 0.7
    """Below 1 the likely becomes likelier, above 1 the rare more frequent."""
    top_k: int = 40
    """Choose among this many likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Choose among the fewest tokens that reach this probability; 1 for all."""
    max_tokens: int = 64
    """Longest text, in tokens; what is longer is cut."""
    seed: int | None = None
    """The same seed gives the same texts. Default: other texts each time."""
    batch_size: int = 32
    """Texts that are made at the same time."""
    format: Literal["text", "jsonl", "encoded"] = "text"
    """Titles, one a line; whole texts as JSON objects, one a line; or as documents."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where to write; standard output if not given."""

    def __post_init__(self) -> None:
        if self.output is not None:
            object.__setattr__(self, "output", Path(self.output))
        for name in ("nsamples", "max_tokens", "batch_size"):
            check_option(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check_option(
            "temperature",
            self.temperature,
            0.01 <= self.temperature <= 100,
            "0.01 to 100 (for the likeliest text: --top-k 1)",
        )
        for name in ("keywords", "category", "prefix"):
            text = getattr(self, name) or ""
            check_option(name, text, is_unicode(text), "Unicode text")
        check_option("top-k", self.top_k, self.top_k >= 0, "0 or more")
        check_option("top-p", self.top_p, 0 < self.top_p <= 1, "more than 0, up to 1")
        check_option("seed", self.seed, self.seed is None or self.seed >= 0, "0 or more")
        if self.keywords.strip() and not self.keyword_list:
            check_option("keywords", self.keywords, False, "words; these are only punctuation")
        if self.run_name and self.model:
            raise UserError(
                f"--run-name {self.run_name} and --model {self.model} both name a model",
                "give one of them",
            )

    @property
    def keyword_list(self) -> list[str]:
        """The keywords, as the encoder would write them."""
        return distinct_keywords(self.keywords.replace(",", " ").split())
