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
from gpt2kw.generation.asking import Asked, Asker, Portion
from gpt2kw.generation.beams import BeamSearch
from gpt2kw.generation.network import CachedNetwork
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.generation.output import lines
from gpt2kw.generation.ranking import LeftOut, Text, cut
from gpt2kw.generation.resampling import Resampler, populations
from gpt2kw.generation.sampling import Path, Rules
from gpt2kw.generation.transforms import bad_words, no_repeat_ngrams, repetition_penalty
from gpt2kw.generation.word_filter import WordFilter
from gpt2kw.model.backend import choose_precision
from gpt2kw.model.folder import Model
from gpt2kw.model.named import load_model
from gpt2kw.text.files import atomic_writer
from gpt2kw.text.normalise import normal_form
from gpt2kw.text.title_index import TitleIndex

if TYPE_CHECKING:
    from gpt2kw.generation.ctranslate2_engine import Engine

log = logging.getLogger(__name__)

_ROUNDS = 4
"""Rounds of candidates for a text, until one will do."""


class Generator:
    """Writes texts. Load it once and call it many times."""

    def __init__(
        self,
        model: Model,
        network: "CachedNetwork | Engine",
        titles: FilePath | None = None,
    ) -> None:
        """Put a generator together; `load` does it from a run or a model folder.

        `network` computes with the model's weights, or with what they become. The index in the
        folder `titles` is of what the model learnt from.
        """
        self._titles = titles
        self._usual = model.sampling
        self._tokenizer = model.tokenizer
        self._network = network
        self._rows = model.config["vocab_size"]
        self._context = model.context
        self._asker = Asker.of(model)

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
        loaded, titles = load_model(run_name, model)
        return cls.of(loaded, precision, titles, backend)

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
        return cls(model, network, titles)

    def generate(self, options: GenerateOptions | None = None, **fields: Any) -> list[str]:
        """Return texts; the fields of `GenerateOptions` may be given as such.

        There are fewer than `nsamples` only if the model keeps writing what will not do,
        such as blank ones; a warning says so.

        Raises:
            UserError: the options can't be used with this model.
        """
        options = replace(options, **fields) if options else GenerateOptions(**fields)
        return [text.shown(options.sections) for text in self.write([options], options)]

    def generate_to_file(
        self,
        destination_path: str | FilePath,
        options: GenerateOptions | None = None,
        **fields: Any,
    ) -> int:
        """Write texts to a file, as the command does; return how many there are.

        The file appears whole or not at all. Fields are those of `GenerateOptions`.

        Raises:
            UserError: the options can't be used with this model, or the file can't be written.
        """
        options = replace(options, **fields) if options else GenerateOptions(**fields)
        count = 0
        with atomic_writer(FilePath(destination_path)) as file:
            for text in self.write([options], options):
                file.write(lines(text, options, count))
                count += 1
        return count

    @property
    def precision(self) -> str:
        """How matrix products are done: float32, bfloat16, float16 or int8."""
        return self._network.precision if isinstance(self._network, CachedNetwork) else "int8"

    def check(self, options: GenerateOptions) -> None:
        """Raise `UserError` if this model can't be asked so."""
        self._asker.ask(options)

    def write(
        self, requests: Iterable[GenerateOptions], options: GenerateOptions
    ) -> Iterator[Text]:
        """Yield the texts of requests, in order, as they are made.

        Requests have their own keywords, category, prefix, prompt and nsamples; all else
        is as in `options`. They are taken when there is room for them. A text depends on
        the seed, and on its request and those of its texts that come before; not on what is
        made beside it. These differ, but where all candidates repeat one of them.

        Raises:
            UserError: a request can't be used with this model.
        """
        left_out: collections.Counter[str] = collections.Counter()
        for outcome in self.outcomes(self._whole(requests), options, distinct=True):
            if isinstance(outcome, Text):
                yield outcome
            else:
                left_out[outcome.reason] += 1
        for reason, count in left_out.items():
            log.warning("%d texts were %s, and are left out", count, reason)

    def _whole(self, requests: Iterable[GenerateOptions]) -> Iterator[Portion]:
        for place, request in enumerate(requests):
            if doubt := self._asker.doubt(request):
                log.warning("%s", doubt)
            yield Portion(request, place, range(request.nsamples))

    def outcomes(
        self,
        portions: Iterable[Portion],
        options: GenerateOptions,
        seen: Iterable[str] = (),
        *,
        distinct: bool = False,
    ) -> Iterator[Text | LeftOut]:
        """Yield what becomes of each text of the portions, in order.

        As `write`, but for requests that need not begin with the first or be whole: so
        work can be shared out and taken up again, and gives the same texts if not `distinct`.

        Args:
            portions: are taken when there is room for them.
            options: what all of them share; without a seed, one is drawn.
            seen: with `unique`, the normal forms of titles that must not come again.
            distinct: whether the texts of a request differ as in `write`, which makes each
                depend on those before it.
        """
        if isinstance(self._network, CachedNetwork) != (options.backend == "tensorflow"):
            raise UserError(
                f"--backend is {options.backend!r}, and the model was loaded for another",
                "load it with this backend",
            )
        # A request's beams come from one search, which may find a text in several groups.
        editor = self._editor(options, seen, distinct or options.beams > 0)
        if options.beams:
            return self._search(portions, options, editor)
        return self._draw(portions, options, editor)

    def _draw(
        self, portions: Iterable[Portion], options: GenerateOptions, editor: "_Editor"
    ) -> Iterator[Text | LeftOut]:
        seed = np.random.SeedSequence(options.seed).entropy
        rules = self._rules(options)
        drafts = self._drafts(portions)
        waiting: collections.deque[_Draft] = collections.deque()
        following = next(drafts, None)
        write = self._write_guided
        if options.backend == "ctranslate2":
            write = self._write_freely
            if following and options.seed is not None:
                self._network.restart((seed, following.request, following.number))
        while True:
            room = options.batch_size - sum(draft.size for draft in waiting)
            while following and (following.size <= room or not waiting):
                waiting.append(following)
                room -= following.size
                following = next(drafts, None)
            if not waiting:
                break
            # The first may want more candidates, and is what the others wait for.
            write(
                [draft for draft in waiting if draft is waiting[0] or not draft.rounds],
                options,
                rules,
                seed,
            )
            # In order, for whether a text will do may depend on those before it.
            while waiting and waiting[0].rounds:
                draft = waiting[0]
                outcome = editor.take_best(draft)
                if isinstance(outcome, LeftOut) and draft.rounds < _ROUNDS:
                    break
                waiting.popleft()
                yield outcome

    def _drafts(self, portions: Iterable[Portion]) -> Iterator["_Draft"]:
        for portion in portions:
            asked = self._asker.ask(portion.request)
            for number in portion.numbers:
                yield _Draft(asked, portion.place, number, portion.request.candidate_count)

    def _write_freely(
        self, drafts: Sequence["_Draft"], options: GenerateOptions, rules: Rules, _seed: int
    ) -> None:
        """Give each draft a round of candidates that nothing leads to its keywords.

        They draw from the engine's random numbers, one after another.
        """

        def room(draft: "_Draft") -> int:
            return min(options.max_tokens, self._context - len(draft.asked.prompt))

        for longest, together in itertools.groupby(sorted(drafts, key=room), room):
            self._write_up_to(longest, list(together), options, rules)

    def _write_up_to(
        self, longest: int, drafts: Sequence["_Draft"], options: GenerateOptions, rules: Rules
    ) -> None:
        sampling = options.sampling(self._usual)
        written = self._network.generate(
            [draft.asked.prompt for draft in drafts for _ in range(draft.size)],
            max_tokens=longest,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram=options.no_repeat_ngram,
            stops=rules.stops,
            suppressed=np.flatnonzero(~rules.allowed[: self._tokenizer.size]).tolist(),
            banned=rules.banned,
        )
        texts = iter(written)
        for draft in drafts:
            draft.rounds += 1
            for ((tokens, log_probability),) in itertools.islice(texts, draft.size):
                nats = -log_probability / max(1, len(tokens))
                draft.candidates.append(self._read(draft, tokens, nats, 0, options))

    def _write_guided(
        self, drafts: Sequence["_Draft"], options: GenerateOptions, rules: Rules, seed: int
    ) -> None:
        """Give each draft a round of candidates that are led to its keywords."""
        prompts: dict[tuple[int, ...], int] = {}
        candidates, groups = [], []
        for draft in drafts:
            prompt = prompts.setdefault(draft.asked.prompt, len(prompts))
            numbers = (seed, draft.request, draft.number, draft.rounds)
            randoms = (np.random.default_rng((*numbers, place)) for place in range(draft.size))
            paths = [_begin(draft.asked, prompt, random) for random in randoms]
            candidates.append(paths)
            # If none would do, the next ones had better have little in common.
            groups += [[path] for path in paths] if draft.rounds else populations(paths)
            draft.rounds += 1
        sampling = options.sampling(self._usual)
        shares = self._network.shares(groups)
        searches = [Resampler(share, sampling, rules) for share in shares]
        self._network.decode([list(prompt) for prompt in prompts], *searches)
        for draft, paths in zip(drafts, candidates, strict=True):
            draft.candidates += [self._read_path(draft, path, options) for path in paths]

    def _search(
        self, portions: Iterable[Portion], options: GenerateOptions, editor: "_Editor"
    ) -> Iterator[Text | LeftOut]:
        """Yield the texts that beam search finds for each request, the best first."""
        rules = self._rules(options)
        for portion in portions:
            asked = self._asker.ask(portion.request)
            beginning = _begin(asked, 0, np.random.default_rng(0))
            search = BeamSearch(
                [beginning],
                options.beams,
                options.length_penalty,
                rules,
                groups=options.beam_groups,
                diversity_penalty=options.diversity_penalty,
            )
            self._network.decode([list(asked.prompt)], search)
            draft = _Draft(asked, portion.place, 0, options.beams)
            found = [self._read_path(draft, path, options) for path in search.best(0)]
            for number in portion.numbers:
                draft = _Draft(asked, portion.place, number, options.beams, found)
                yield editor.take_first(draft)

    def _rules(self, options: GenerateOptions) -> Rules:
        tokenizer = self._tokenizer
        transforms = []
        if options.repetition_penalty != 1:
            transforms.append(repetition_penalty(options.repetition_penalty))
        if options.no_repeat_ngram:
            transforms.append(no_repeat_ngrams(options.no_repeat_ngram))
        banned = self._bad_words(options)
        if banned:
            transforms.append(bad_words(banned))
        title_ends = tokenizer.end, tokenizer.tag("body")
        stops = title_ends[:1] if options.whole else title_ends
        allowed = tokenizer.may_follow_title(self._rows)
        return Rules(allowed, stops, options.max_tokens, tuple(transforms), banned, title_ends)

    def _bad_words(self, options: GenerateOptions) -> list[list[int]]:
        """Return the tokens of bad words as they are usually written."""
        written = [
            before + form
            for word in options.bad_word_list
            for form in dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))
            for before in ("", " ")
        ]
        return self._tokenizer.encode_content(written)

    def _editor(self, options: GenerateOptions, seen: Iterable[str], distinct: bool) -> "_Editor":
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
        return _Editor(options, seen, distinct, index, filters)

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
            asked.keywords,
            nats,
            forced,
            guided=asked.plan is not None,
        )
        return cut(text, asked.prefix, options.truncate, options.include_prefix)


@dataclass
class _Draft:
    """A text that is wanted, and the candidates for it."""

    asked: Asked
    request: int
    number: int
    size: int
    """The candidates that are written in a round."""
    candidates: list[Text] = field(default_factory=list)
    rounds: int = 0


def _begin(asked: Asked, prompt: int, random: np.random.Generator) -> Path:
    guide = asked.plan.guide(asked.prefix) if asked.plan else None
    return Path(prompt, list(asked.prompt), asked.text_from, random, guide)


class _Editor:
    """Takes the texts that will do."""

    def __init__(
        self,
        options: GenerateOptions,
        seen: Iterable[str],
        distinct: bool,
        index: TitleIndex | None,
        filters: list[WordFilter],
    ) -> None:
        """Take `seen` as titles that came before, and texts of a request rather `distinct`."""
        self._options = options
        self._distinct = distinct
        self._request = -1
        self._of_request: set[str] = set()
        self._index = index
        self._filters = filters
        self._seen = set(seen)

    def take_best(self, draft: _Draft) -> Text | LeftOut:
        """Take the best of the candidates that will do; the others are forgotten."""
        draft.candidates.sort(key=Text.rank)
        return self.take_first(draft)

    def take_first(self, draft: _Draft) -> Text | LeftOut:
        """Take the first of the candidates that will do, if it can be one that is new.

        It is taken off the list, with those before it that won't do.
        """
        if draft.request != self._request:
            self._request, self._of_request = draft.request, set()
        reason = "not found by the search"
        new, repeated = [], []
        while draft.candidates:
            text = draft.candidates.pop(0)
            if refusal := self._refuses(text):
                reason = refusal
            elif self._distinct and normal_form(text.whole_title) in self._of_request:
                repeated.append(text)
            else:
                new = [text]
                break
        best = [*new, *repeated]
        if not best:
            return LeftOut(draft.request, draft.number, reason)
        draft.candidates[:0] = best[1:]
        title = normal_form(best[0].whole_title)
        self._of_request.add(title)
        if self._options.unique:
            self._seen.add(title)
        return replace(best[0], number=draft.number)

    def _refuses(self, text: Text) -> str | None:
        """Return why a text will not do."""
        options = self._options
        if not text.title.strip():
            return "blank"
        if options.keyword_mode == "guarantee" and text.missing:
            return "without all keywords"
        title = text.whole_title
        if options.unique and normal_form(title) in self._seen:
            return "not unique"
        if any(words.find(text.shown(("title", "body"))) for words in self._filters):
            return "not free of words that must not come"
        if self._index and self._index.find_copy(title):
            return "copies of training titles"
        return None
