"""The options of a generation."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2kw.errors import UserError, check_default, check_option, is_unicode
from gpt2kw.generation.sampling import Sampling
from gpt2kw.model.folder import SamplingDefaults
from gpt2kw.text.keywords import distinct_keywords

_MOST_KEYWORDS = 6
_MOST = 10**9
_OF_CANDIDATES = 0.7
"""The least temperature, if none is given, of texts of which the best is taken."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Write new texts about keywords, with a model that was fine-tuned here."""

    keywords: str = ""
    """What the texts are about, parted by spaces or commas; dashes join the words of one
    keyword: new-york. Without any, about anything."""
    keyword_mode: Literal["guarantee", "prefer", "plain"] = "guarantee"
    """guarantee: every text has all keywords, or forms of them, such as cats for cat; 6 of
    them at most. prefer: they are pushed. plain: the model is asked for them, no more."""
    category: str | None = None
    """The kind of text, as in the training text."""
    prefix: str = ""
    """How each text begins."""
    prompt: str | None = None
    """Instead of keywords, category and prefix: the beginning of a document as encode writes
    it, or any text for a model that does not know the format."""
    nsamples: int = 10
    """How many texts."""
    prompts: Path | None = None
    """Many at once: a table (.csv .tsv .jsonl, also with .gz, or .parquet) with columns keywords,
    category, prefix or nsamples, or a .txt with keywords in each line. Where a row has nothing,
    the options above hold. A killed job goes on where it was, given the same -o FILE."""
    address: str | None = None
    """With --prompts: a ray cluster whose machines write together: auto on one of them,
    HOST:PORT, or local to start ray here."""
    workers: int = 0
    """Processes on the ray cluster. 0: one for each GPU, or for each machine without any."""
    run_name: str | None = None
    """The run in checkpoint/ whose best checkpoint is used. Default: run1."""
    model: str | None = None
    """A fine-tuned model to use instead of a run: a folder, a name on the hub, or mini,
    which is also used if there is no run1 yet."""
    candidates: int | None = None
    """Texts that are written for each that is wanted, of which the best is taken. Default:
    16 with keywords that are guaranteed or preferred, else 1."""
    temperature: float | None = None
    """Below 1 the likely becomes likelier, above 1 the rare more frequent. Default, here and
    of the next two: what the model's generation_config.json says, or else 0.7; with
    --keyword-mode guarantee or prefer at least 0.7, for candidates should not be alike."""
    top_k: int | None = None
    """Choose among this many likeliest tokens; 0 for all. Default: the model's, or 40."""
    top_p: float | None = None
    """Choose among the fewest tokens that reach this probability; 1 for all. Default: the
    model's, or 1."""
    min_p: float = 0.0
    """Leave out tokens below this share of the likeliest one's probability."""
    typical_p: float = 1.0
    """Choose among tokens that are neither too likely nor too rare and reach this
    probability; 1 for all."""
    beams: int = 0
    """Search for the likeliest texts with so many beams, instead of drawing; 0: draw."""
    length_penalty: float = 1.0
    """Of beams: above 1 for longer texts."""
    beam_groups: int = 1
    """Part the beams into so many groups that keep away from each other's words."""
    diversity_penalty: float = 0.5
    """How far: nats by which a token gets less likely for each beam of the groups before that
    has it at the same place."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that a text has already become less likely."""
    no_repeat_ngram: int = 0
    """So many tokens in a row do not come twice in a text; 0: they may."""
    bad_words: str = ""
    """Words that do not come, parted by commas."""
    max_tokens: int = 64
    """Longest text, in tokens; what is longer is cut."""
    unique: bool = False
    """No text twice, whatever its case and punctuation."""
    novel: bool = False
    """No text that copies a title of the training text: the same but for case and
    punctuation, four fifths of it in a row from one, or nearly the same."""
    safe: bool = False
    """No text with a word of better-profanity's list, or of --word-list."""
    word_list: Path | None = None
    """A file of words that texts must not have, one a line, instead of that list."""
    truncate: str | None = None
    """Cut each text before the first of this."""
    include_prefix: bool = True
    """Print the prefix too, and not only what comes behind it."""
    sample_delim: str = ""
    """A line between texts."""
    sections: tuple[Literal["title", "body"], ...] = ("title",)
    """What to print as text: title, or title body."""
    seed: int | None = None
    """The same seed gives the same texts. Default: other texts each time."""
    batch_size: int = 64
    """Texts that are made at the same time, candidates counted."""
    backend: Literal["tensorflow", "ctranslate2"] = "tensorflow"
    """ctranslate2: int8 on CPUs, several times as fast. Keywords are not pushed there: 16
    candidates are written for each text, up to four times, and what has not all of the
    keywords is left out. Needs pip install 'gpt2kw[ctranslate2]'."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of matrix products. auto: the best that the hardware multiplies."""
    format: Literal["text", "jsonl", "csv", "encoded"] | None = None
    """Titles, one a line; whole texts as JSON objects, one a line; a table; or documents.
    Default: text, and jsonl with --prompts."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where to write; standard output if not given."""

    def __post_init__(self) -> None:
        for name in ("prompts", "word_list", "output"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name in ("nsamples", "max_tokens", "batch_size", "candidates"):
            value = getattr(self, name)
            check_option(name, value, value is None or 1 <= value <= _MOST, f"1 to {_MOST:,}")
        check_option(
            "temperature",
            self.temperature,
            self.temperature is None or 0.01 <= self.temperature <= 100,
            "0.01 to 100 (for the likeliest text: --top-k 1)",
        )
        for name in ("keywords", "category", "prefix", "prompt", "bad_words", "truncate"):
            text = getattr(self, name) or ""
            check_option(name, text, is_unicode(text), "Unicode text")
        check_option("truncate", self.truncate, self.truncate != "", "some text")
        for name in ("top_k", "beams", "no_repeat_ngram"):
            value = getattr(self, name)
            check_option(name, value, value is None or value >= 0, "0 or more")
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            check_option(name, value, value is None or 0 < value <= 1, "more than 0, up to 1")
        check_option("min-p", self.min_p, 0 <= self.min_p <= 1, "0 to 1")
        penalty = self.repetition_penalty
        check_option("repetition-penalty", penalty, 0.01 <= penalty <= 100, "0.01 to 100")
        check_option(
            "length-penalty", self.length_penalty, -10 <= self.length_penalty <= 10, "-10 to 10"
        )
        check_option("seed", self.seed, self.seed is None or self.seed >= 0, "0 or more")
        check_option(
            "sections",
            self.sections,
            self.sections in (("title",), ("title", "body")),
            "title, or title body",
        )
        self._check_keywords()
        self._check_bulk()
        self._check_beams()
        check_option(
            "sample-delim",
            self.sample_delim,
            not self.sample_delim or self.output_format in ("text", "encoded"),
            "--format text with it",
        )
        if self.backend == "ctranslate2":
            for name in ("min_p", "typical_p", "beams", "precision"):
                check_default(self, name, "--backend tensorflow with it")
        if self.run_name and self.model:
            raise UserError(
                f"--run-name {self.run_name} and --model {self.model} both name a model",
                "give one of them",
            )

    def _check_beams(self) -> None:
        if self.beams and self.beams < self.nsamples:
            raise UserError(
                f"--beams {self.beams} can't give --nsamples {self.nsamples} texts",
                f"give --nsamples {self.beams} or less",
            )
        groups = self.beam_groups
        check_option("beam-groups", groups, groups >= 1, "1 or more")
        check_option("beam-groups", groups, self.beams or groups == 1, "--beams with it, or 1")
        if self.beams % groups:
            raise UserError(
                f"--beam-groups {groups} can't share --beams {self.beams} equally",
                f"give a multiple of {groups} beams",
            )
        penalty = self.diversity_penalty
        check_option("diversity-penalty", penalty, 0 <= penalty <= 1000, "0 to 1000")
        if groups == 1:
            check_default(self, "diversity_penalty", "--beam-groups with it")
        if not self.beams:
            check_default(self, "length_penalty", "--beams with it")
            return
        for name in ("candidates", "temperature", "top_k", "top_p", "min_p", "typical_p"):
            check_default(self, name, "it without --beams, which draw nothing")

    def _check_keywords(self) -> None:
        if self.keywords.strip() and not self.keyword_list:
            check_option("keywords", self.keywords, False, "words; these are only punctuation")
        count = len(self.keyword_list)
        if self.keyword_mode == "guarantee" and count > _MOST_KEYWORDS:
            raise UserError(
                f"--keywords has {count:,} keywords, and {_MOST_KEYWORDS} can be guaranteed",
                "give fewer, or --keyword-mode prefer",
            )
        banned = {word.casefold() for word in self.bad_word_list}
        for keyword in self.keyword_list:
            if keyword.casefold() in banned:
                raise UserError(
                    f"--keywords and --bad-words both have {keyword!r}", "take it out of one"
                )
        if self.prompt is not None and (self.keywords or self.category or self.prefix):
            raise UserError(
                f"--prompt {self.prompt!r} comes with --keywords, --category or --prefix",
                "write them into the prompt, or leave it out",
            )

    def _check_bulk(self) -> None:
        if self.prompts is not None and self.prompt is not None:
            raise UserError(
                f"--prompt {self.prompt!r} comes with --prompts {self.prompts}",
                "give one of them",
            )
        check_option(
            "address", self.address, self.prompts or not self.address, "--prompts with it, or none"
        )
        check_option("workers", self.workers, 0 <= self.workers <= 256, "0 to 256")
        check_option(
            "workers", self.workers, self.address or not self.workers, "--address with it, or 0"
        )
        if self.backend == "ctranslate2" and self.address:
            check_option("backend", self.backend, False, "tensorflow with --address")
        if self.unique and self.address:
            raise UserError(
                f"--unique and --address {self.address} do not go together, "
                "for no machine knows the others' titles",
                "leave one of them out",
            )

    @property
    def output_format(self) -> str:
        """How texts are written."""
        return self.format or ("jsonl" if self.prompts else "text")

    @property
    def keyword_list(self) -> list[str]:
        """The keywords, as the encoder would write them."""
        return distinct_keywords(self.keywords.replace(",", " ").split())

    @property
    def bad_word_list(self) -> list[str]:
        """The words that do not come."""
        return [word for text in self.bad_words.split(",") if (word := text.strip())]

    def sampling(self, usual: SamplingDefaults) -> Sampling:
        """Return how tokens are chosen by a model with these defaults."""
        if self.keyword_mode != "plain" or (self.candidates or 1) > 1:
            usual = replace(usual, temperature=max(usual.temperature, _OF_CANDIDATES))
        own = {name: getattr(self, name) for name in Sampling.__dataclass_fields__}
        wanted = {name: value for name, value in own.items() if value is not None}
        return Sampling(**asdict(usual) | wanted)

    @property
    def whole(self) -> bool:
        """Whether a body is written too, where the model writes one."""
        return self.output_format in ("jsonl", "encoded") or "body" in self.sections

    @property
    def candidate_count(self) -> int:
        """The texts that are written for each that is wanted."""
        wish = self.keyword_list and self.keyword_mode != "plain"
        return self.candidates or (16 if wish else 1)
