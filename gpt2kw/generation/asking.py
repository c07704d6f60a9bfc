"""From what a user asks for to a prompt, and to what its texts must have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpt2kw.errors import UserError, did_you_mean
from gpt2kw.generation.guide import KeywordPlan, Lexicon
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import About, Model
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.format import START, Document, Record, parse


@dataclass(frozen=True)
class Portion:
    """Some of the texts of a request."""

    request: GenerateOptions
    place: int
    """The request's place among all, from which, with a text's number, its chances come."""
    numbers: range
    """Which of its texts; of a beam search always all."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and what its texts must have."""

    prompt: tuple[int, ...]
    text_from: int
    """Where in the prompt the text itself begins."""
    prefix: str = ""
    """The beginning of the text, which the prompt has."""
    keywords: tuple[str, ...] = ()
    """What texts are to be about."""
    plan: KeywordPlan | None = None
    """What guides texts to the keywords, and says which they lack; none in plain mode."""
    raw: bool = False
    """Whether the prompt is a text without the format's marks."""


class Asker:
    """Makes prompts for one model."""

    def __init__(self, tokenizer: Tokenizer, about: About, context: int, rows: int) -> None:
        """Take a model's parts; `rows` are those of its embedding."""
        self._tokenizer = tokenizer
        self._about = about
        self._context = context
        self._rows = rows
        self._lexicon: Lexicon | None = None

    @classmethod
    def of(cls, model: Model) -> "Asker":
        """Make one for a model that is in memory."""
        rows = model.config["vocab_size"]
        return cls(model.tokenizer, model.about, model.context, rows)

    def doubt(self, request: GenerateOptions) -> str | None:
        """Return what is odd about a request that can be used."""
        category, known = request.category, self._about.categories
        if category is None or not self._about.sections or category in known:
            return None
        near = did_you_mean(category, known)
        return f"the category {category!r} was not in the training text; {near}".rstrip("; ")

    def ask(self, request: GenerateOptions) -> Asked:
        """Return the prompt of a request.

        Raises:
            UserError: this model can't be asked so.
        """
        if request.prompt is not None:
            asked = self._as_it_stands(request.prompt)
        else:
            asked = self._formatted(self._record(request))
        if len(asked.prompt) >= self._context:
            raise UserError(
                f"the keywords, category and prefix take {len(asked.prompt):,} tokens",
                f"the model sees {self._context:,}: give fewer or shorter ones",
            )
        keywords = request.keyword_list
        asked = replace(asked, keywords=tuple(keywords))
        if not keywords or request.keyword_mode == "plain":
            return asked
        plan = self.plan(keywords, must=request.keyword_mode == "guarantee")
        plan.check_length(request.max_tokens)
        return replace(asked, plan=plan)

    def plan(self, keywords: Sequence[str], must: bool = False) -> KeywordPlan:
        """Return what guides texts to `keywords`, and says which they lack."""
        if self._lexicon is None:
            self._lexicon = Lexicon(self._tokenizer, self._rows)
        # A title that lacks a keyword may not go over into a body either.
        body = self._tokenizer.tag("body")
        return KeywordPlan(self._lexicon, keywords, must, (self._tokenizer.end, body), body)

    def read(self, asked: Asked, tokens: Sequence[int]) -> Document:
        """Return the document that a prompt and the tokens behind it are."""
        tokenizer = self._tokenizer
        # Read as a title, a text without marks comes back as it is.
        marks = (tokenizer.start, tokenizer.tag("title")) if asked.raw else ()
        return tokenizer.decode([*marks, *asked.prompt, *tokens])

    def _as_it_stands(self, prompt: str) -> Asked:
        if START in prompt:
            return self._formatted(parse(prompt).record)
        if not prompt:
            raise UserError("--prompt is empty", "give the beginning of a text")
        tokens = self._tokenizer.encode_content([prompt])[0]
        return Asked(tuple(tokens), 0, prompt, raw=True)

    def _record(self, request: GenerateOptions) -> Record:
        keywords, sections = request.keyword_list, self._about.sections
        if sections and "keywords" not in sections and keywords:
            raise UserError(
                f"--keywords is {request.keywords!r}, but the model was trained without keywords",
                "leave them out, or encode the texts with keywords and fine-tune again",
            )
        has_keywords = not sections or "keywords" in sections
        return Record(
            request.category, " ".join(keywords) if has_keywords else None, request.prefix
        )

    def _formatted(self, record: Record) -> Asked:
        if not self._tokenizer.had_marks:
            raise UserError(
                "the model does not know the format",
                "fine-tune it first: python -m gpt2kw.finetune TEXT --model MODEL; "
                "or continue any text with --prompt",
            )
        if record.title is None:
            record = replace(record, title="")
        prompt = next(self._tokenizer.encode([record], finished=False))
        marks = set(self._tokenizer.mark_ids)
        last = max(place for place, token in enumerate(prompt) if token in marks)
        prefix = record.title if record.body is None else record.body
        return Asked(tuple(prompt), last + 1, prefix or "")
