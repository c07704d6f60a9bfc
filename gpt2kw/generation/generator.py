"""Loading a model once, and writing texts with it many times."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2kw.errors import UserError, did_you_mean
from gpt2kw.generation.decoder import Decoder, Sampling
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import About, Model
from gpt2kw.model.named import MINI, find_model
from gpt2kw.model.runs import Run
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.format import Document, Record

log = logging.getLogger(__name__)

_USUAL_RUN = "run1"
"""The run that finetune makes if no other name is given."""
_ATTEMPTS = 3
"""Texts that are tried for each that is wanted, since a model may write a blank one."""


class Generator:
    """Writes texts. Load it once and call it many times."""

    def __init__(self, tokenizer: Tokenizer, decoder: Decoder, context: int, about: About) -> None:
        """Put a generator together; `load` does it from a run or a model folder."""
        self._tokenizer = tokenizer
        self._decoder = decoder
        self._context = context
        self._about = about

    @classmethod
    def load(cls, run_name: str | None = None, model: str | None = None) -> "Generator":
        """Load the best checkpoint of a run, or a fine-tuned model by folder or name.

        The best is the one with the lowest validation loss, or the newest if none was
        measured. With neither name it is `run1`, or `mini` where there is no such run.

        Raises:
            UserError: there is none, it is damaged, or it was never fine-tuned here.
        """
        if model is None and (run_name or Run.named(_USUAL_RUN).exists):
            return cls.of(Run.named(run_name or _USUAL_RUN).best().load_model())
        if model is None:
            log.info("there is no run %s yet; this is the model %s", _USUAL_RUN, MINI)
            model = MINI
        loaded = Model.load(find_model(model))
        if not loaded.tokenizer.had_marks:
            raise UserError(
                f"the model {model} does not know the format",
                f"fine-tune it first: python -m gpt2kw.finetune TEXT --model {model}",
            )
        return cls.of(loaded)

    @classmethod
    def of(cls, model: Model) -> "Generator":
        """Make a generator from a model that is in memory."""
        decoder = Decoder(model.weights, model.config)
        return cls(model.tokenizer, decoder, model.context, model.about)

    def generate(self, options: GenerateOptions | None = None, **fields: Any) -> list[str]:
        """Return titles; the fields of `GenerateOptions` may be given as such.

        There are fewer than `nsamples` only if the model keeps writing blank ones.

        Raises:
            UserError: the options can't be used with this model.
        """
        options = replace(options, **fields) if options else GenerateOptions(**fields)
        return [document.record.title or "" for document in self.titles(options)]

    def titles(self, options: GenerateOptions) -> Iterator[Document]:
        """Yield documents that end with their title, as they are made."""
        return self._write(options, stops=[self._tokenizer.end, self._tokenizer.tag("body")])

    def documents(self, options: GenerateOptions) -> Iterator[Document]:
        """Yield whole documents, with a body where the model writes one."""
        return self._write(options, stops=[self._tokenizer.end])

    def _write(self, options: GenerateOptions, stops: list[int]) -> Iterator[Document]:
        prompt = self.prompt(options)
        max_tokens = min(options.max_tokens, self._context - len(prompt))
        sampling = Sampling(options.temperature, options.top_k, options.top_p)
        allowed = self._tokenizer.may_follow_title(self._decoder.vocabulary_size)
        seed = np.random.SeedSequence(options.seed).entropy
        wanted, tried = options.nsamples, 0
        while wanted and tried < _ATTEMPTS * options.nsamples:
            rows = range(tried, tried + min(wanted, options.batch_size))
            tried = rows.stop
            # A text's random numbers are its own, so that the batch size changes nothing.
            uniforms = [np.random.default_rng((seed, row)).random(max_tokens) for row in rows]
            for tokens in self._decoder.generate(
                [prompt] * len(rows),
                max_tokens=max_tokens,
                sampling=sampling,
                stops=stops,
                allowed=allowed,
                uniforms=np.array(uniforms, np.float32),
            ):
                document = self._read(prompt, tokens, stops)
                if (document.record.title or "").strip():
                    wanted -= 1
                    yield document
        if wanted:
            log.warning("%d of %d texts were blank and are left out", wanted, options.nsamples)

    def prompt(self, options: GenerateOptions) -> list[int]:
        """Return the token ids that a text is asked for with.

        Raises:
            UserError: this model can't be asked so.
        """
        prompt = next(self._tokenizer.encode([self._asked(options)], finished=False))
        if len(prompt) >= self._context:
            raise UserError(
                f"the keywords, category and prefix take {len(prompt):,} tokens",
                f"the model sees {self._context:,}: give fewer or shorter ones",
            )
        return prompt

    def _asked(self, options: GenerateOptions) -> Record:
        keywords, sections, category = options.keyword_list, self._about.sections, options.category
        if sections and "keywords" not in sections and keywords:
            raise UserError(
                f"--keywords is {options.keywords!r}, but the model was trained without keywords",
                "leave them out, or encode the texts with keywords and fine-tune again",
            )
        known = self._about.categories
        if category is not None and sections and category not in known:
            near = did_you_mean(category, known)
            log.warning("the category %r was not in the training text; %s", category, near)
        has_keywords = not sections or "keywords" in sections
        return Record(category, " ".join(keywords) if has_keywords else None, options.prefix)

    def _read(self, prompt: list[int], tokens: list[int], stops: list[int]) -> Document:
        stopped = tokens[-1:] and tokens[-1] in stops
        if stopped:
            tokens = [*tokens[:-1], self._tokenizer.end]
        return self._tokenizer.decode([*prompt, *tokens])
