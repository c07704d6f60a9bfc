"""Loading a model once, and writing texts with it many times."""

import collections
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.generation.asking import Asked, Asker
from gpt2kw.generation.beams import BeamSearch
from gpt2kw.generation.network import CachedNetwork
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.generation.ranking import Text, cut
from gpt2kw.generation.sampling import Path, Rules, Sampler, Sampling
from gpt2kw.generation.transforms import bad_words, no_repeat_ngrams, repetition_penalty
from gpt2kw.generation.word_filter import WordFilter
from gpt2kw.model.backend import choose_precision
from gpt2kw.model.folder import About, Model
from gpt2kw.model.named import MINI, find_model
from gpt2kw.model.runs import Run
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.normalise import normal_form
from gpt2kw.text.title_index import TitleIndex

if TYPE_CHECKING:
    from gpt2kw.generation.ctranslate2_engine import Engine

log = logging.getLogger(__name__)

_USUAL_RUN = "run1"
"""The run that finetune makes if no other name is given."""
_ROUNDS = 4
"""Rounds of candidates for a text, until one will do."""


class Generator:
    """Writes texts. Load it once and call it many times."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        network: "CachedNetwork | Engine",
        config: dict[str, Any],
        about: About,
        titles: FilePath | None = None,
    ) -> None:
        """Put a generator together; `load` does it from a run or a model folder.

        The index in the folder `titles` is of what the model learnt from.
        """
        self._titles = titles
        self._tokenizer = tokenizer
        self._network = network
        self._rows = config["vocab_size"]
        self._context = config["n_positions"]
        self._asker = Asker(tokenizer, about, config["n_positions"], self._rows)

    @classmethod
    def load(
        cls,
        run_name: str | None = None,
        model: str | None = None,
        precision: str = "auto",
        backend: str = "tensorflow",
    ) -> "Generator":
        """Load the best checkpoint of a run, or a fine-tuned model by folder or name.

        The best is the one with the lowest validation loss, or the newest if none was
        measured. With neither name it is `run1`, or `mini` where there is no such run. Matrix
        products are done in `precision`: float32, bfloat16, float16, or auto for the best
        that the hardware multiplies. The `backend` ctranslate2 multiplies in int8.

        Raises:
            UserError: there is none, it is damaged, or the backend is not installed.
        """
        if model is None and (run_name or Run.named(_USUAL_RUN).exists):
            run = Run.named(run_name or _USUAL_RUN)
            return cls.of(run.best().load_model(), precision, run.titles_folder, backend)
        if model is None:
            log.info("there is no run %s yet; this is the model %s", _USUAL_RUN, MINI)
            model = MINI
        folder = find_model(model)
        titles = Run.of_model(folder).titles_folder
        return cls.of(Model.load(folder), precision, titles, backend)

    @classmethod
    def of(
        cls,
        model: Model,
        precision: str = "auto",
        titles: FilePath | None = None,
        backend: str = "tensorflow",
    ) -> "Generator":
        """Make a generator from a model that is in memory; see `load`."""
        if backend == "ctranslate2":
            from gpt2kw.generation.ctranslate2_engine import Engine

            network = Engine(model)
        else:
            network = CachedNetwork(model.weights, model.config, choose_precision(precision))
        return cls(model.tokenizer, network, model.config, model.about, titles)

    def generate(self, options: GenerateOptions | None = None, **fields: Any) -> list[str]:
        """Return texts; the fields of `GenerateOptions` may be given as such.

        There are fewer than `nsamples` only if the model keeps writing what will not do,
        such as blank ones; a warning says so.

        Raises:
            UserError: the options can't be used with this model.
        """
        options = replace(options, **fields) if options else GenerateOptions(**fields)
        return [text.shown(options.sections) for text in self.write([options], options)]

    def check(self, options: GenerateOptions) -> None:
        """Raise `UserError` if this model can't be asked so."""
        self._asker.ask(options)

    def write(
        self, requests: Iterable[GenerateOptions], options: GenerateOptions
    ) -> Iterator[Text]:
        """Yield the texts of requests, in order, as they are made.

        Requests have their own keywords, category, prefix, prompt and nsamples; all else
        is as in `options`. They are taken when there is room for them. A text depends on
        the seed and on its request and place alone, not on what is made beside it.

        Raises:
            UserError: a request can't be used with this model.
        """
        if options.beams:
            yield from self._search(requests, options)
            return
        editor = self._editor(options)
        seed = np.random.SeedSequence(options.seed).entropy
        write = self._write_freely if options.backend == "ctranslate2" else self._write_guided
        if isinstance(self._network, CachedNetwork) != (options.backend == "tensorflow"):
            raise UserError(
                f"--backend is {options.backend!r}, and the model was loaded for another",
                "load it with this backend",
            )
        drafts = self._drafts(requests, options)
        waiting: collections.deque[_Draft] = collections.deque()
        room = options.batch_size
        while True:
            while room > 0 and (draft := next(drafts, None)):
                waiting.append(draft)
                room -= draft.count
            if not waiting:
                break
            # The first may want more candidates, and is what the others wait for.
            write(
                [draft for draft in waiting if draft is waiting[0] or not draft.rounds],
                options,
                seed,
            )
            # In order, for whether a text will do may depend on those before it.
            while waiting and waiting[0].rounds:
                text = editor.take_best(waiting[0].candidates)
                if text is None and waiting[0].rounds < _ROUNDS:
                    break
                room += waiting.popleft().count
                if text:
                    yield text
        editor.report()

    def _drafts(
        self, requests: Iterable[GenerateOptions], options: GenerateOptions
    ) -> Iterator["_Draft"]:
        for place, request in enumerate(requests):
            asked = self._asker.ask(request)
            count = options.candidates_for(keywords=asked.plan is not None)
            for number in range(request.nsamples):
                yield _Draft(asked, place, number, count)

    def _write_freely(
        self, drafts: Sequence["_Draft"], options: GenerateOptions, seed: int
    ) -> None:
        """Give each draft a round of candidates that nothing leads to its keywords."""
        rules, first = self._rules(options), drafts[0]
        numbers = (seed, first.request, first.number, first.rounds)
        written = self._network.generate(
            [draft.asked.prompt for draft in drafts for _ in range(draft.count)],
            max_tokens=min(
                options.max_tokens,
                *(self._context - len(draft.asked.prompt) for draft in drafts),
            ),
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram=options.no_repeat_ngram,
            stops=rules.stops,
            suppressed=np.flatnonzero(~rules.allowed[: self._tokenizer.size]).tolist(),
            # Beginning the random numbers anew costs a load of the model.
            seed=int(np.random.SeedSequence(numbers).generate_state(1)[0])
            if not first.request and not first.number and not first.rounds
            else None,
        )
        texts = iter(written)
        for draft in drafts:
            draft.rounds += 1
            for ((tokens, log_probability),) in itertools.islice(texts, draft.count):
                nats = -log_probability / max(1, len(tokens))
                draft.candidates.append(self._read(draft, tokens, nats, 0, options))

    def _write_guided(
        self, drafts: Sequence["_Draft"], options: GenerateOptions, seed: int
    ) -> None:
        """Give each draft a round of candidates that are led to its keywords."""
        prompts: dict[tuple[int, ...], int] = {}
        owners, paths = [], []
        for draft in drafts:
            prompt = prompts.setdefault(draft.asked.prompt, len(prompts))
            for place in range(draft.count):
                numbers = (seed, draft.request, draft.number, draft.rounds, place)
                paths.append(_begin(draft.asked, prompt, np.random.default_rng(numbers)))
                owners.append(draft)
            draft.rounds += 1
        sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.min_p, options.typical_p
        )
        sampler = Sampler(paths, sampling, self._rules(options))
        self._network.decode([list(prompt) for prompt in prompts], sampler)
        for draft, path in zip(owners, paths, strict=True):
            draft.candidates.append(self._read_path(draft, path, options))

    def _search(
        self, requests: Iterable[GenerateOptions], options: GenerateOptions
    ) -> Iterator[Text]:
        """Yield the texts that beam search finds for each request, the best first."""
        rules, editor = self._rules(options), self._editor(options)
        for place, request in enumerate(requests):
            asked = self._asker.ask(request)
            beginning = _begin(asked, 0, np.random.default_rng(0))
            search = BeamSearch([beginning], options.beams, options.length_penalty, rules)
            self._network.decode([list(asked.prompt)], search)
            found = [
                self._read_path(_Draft(asked, place, number, 1), path, options)
                for number, path in enumerate(search.best(0))
            ]
            for _ in range(request.nsamples):
                if text := editor.take_first(found):
                    yield text
        editor.report()

    def _rules(self, options: GenerateOptions) -> Rules:
        tokenizer = self._tokenizer
        transforms = []
        if options.repetition_penalty != 1:
            transforms.append(repetition_penalty(options.repetition_penalty))
        if options.no_repeat_ngram:
            transforms.append(no_repeat_ngrams(options.no_repeat_ngram))
        if options.bad_word_list:
            written = [
                before + form
                for word in options.bad_word_list
                for form in dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))
                for before in ("", " ")
            ]
            transforms.append(bad_words(tokenizer.encode_content(written)))
        stops = (tokenizer.end,) if options.whole else (tokenizer.end, tokenizer.tag("body"))
        allowed = tokenizer.may_follow_title(self._rows)
        return Rules(allowed, stops, options.max_tokens, tuple(transforms))

    def _editor(self, options: GenerateOptions) -> "_Editor":
        index = None
        if options.novel:
            if self._titles is None:
                raise UserError(
                    "--novel needs to know what the model learnt from",
                    "generate from a run that was fine-tuned here",
                )
            index = TitleIndex.open(self._titles)
        # Bad words may still come, made of other tokens.
        filters = [WordFilter(options.bad_word_list)]
        if options.safe or options.word_list:
            filters.append(WordFilter.load(options.word_list))
        return _Editor(options, index, filters)

    def _read_path(self, draft: "_Draft", path: Path, options: GenerateOptions) -> Text:
        forced = path.guide.forced if path.guide else 0
        return self._read(draft, path.tokens, path.nats / len(path.tokens), forced, options)

    def _read(
        self,
        draft: "_Draft",
        tokens: list[int],
        nats: float,
        forced: int,
        options: GenerateOptions,
    ) -> Text:
        asked = draft.asked
        if not options.whole and tokens[-1:] == [self._tokenizer.tag("body")]:
            # A title that a body would follow is whole.
            tokens = [*tokens[:-1], self._tokenizer.end]
        text = Text(
            self._asker.read(asked, tokens),
            draft.request,
            draft.number,
            asked.plan.keywords if asked.plan else (),
            nats,
            forced,
        )
        return cut(text, asked.prefix, options.truncate, options.include_prefix)


@dataclass
class _Draft:
    """A text that is wanted, and the candidates for it."""

    asked: Asked
    request: int
    number: int
    count: int
    """The candidates of a round."""
    candidates: list[Text] = field(default_factory=list)
    rounds: int = 0


def _begin(asked: Asked, prompt: int, random: np.random.Generator) -> Path:
    guide = asked.plan.guide(asked.prefix) if asked.plan else None
    return Path(prompt, list(asked.prompt), asked.text_from, random, guide)


class _Editor:
    """Takes the texts that will do, and counts what is left out."""

    def __init__(
        self, options: GenerateOptions, index: TitleIndex | None, filters: list[WordFilter]
    ) -> None:
        self._options = options
        self._index = index
        self._filters = filters
        self._seen: set[str] = set()
        self._left_out: collections.Counter[str] = collections.Counter()

    def take_best(self, candidates: list[Text]) -> Text | None:
        """Return the best of the candidates that will do; the others are forgotten."""
        candidates.sort(key=Text.rank)
        return self.take_first(candidates)

    def take_first(self, candidates: list[Text]) -> Text | None:
        """Take the first that will do off the list, with all before it."""
        reason = None
        while candidates:
            text = candidates.pop(0)
            reason = self._refuses(text)
            if not reason:
                self._seen.add(normal_form(text.title))
                return text
        if reason:
            self._left_out[reason] += 1
        return None

    def _refuses(self, text: Text) -> str | None:
        """Return why a text will not do."""
        options = self._options
        if not text.title.strip():
            return "blank"
        if options.keyword_mode == "guarantee" and text.missing:
            return "without all keywords"
        if options.unique and normal_form(text.title) in self._seen:
            return "not unique"
        if any(words.find(text.shown(("title", "body"))) for words in self._filters):
            return "not free of words that must not come"
        if self._index and self._index.find_copy(text.title):
            return "copies of training titles"
        return None

    def report(self) -> None:
        """Say how many texts are missing and why."""
        for reason, count in self._left_out.items():
            log.warning("%d texts were %s, and are left out", count, reason)
