"""spaCy's pipelines with the same results in less time."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from spacy.language import Language, PipeCallable
from spacy.pipeline import DependencyParser, EntityRecognizer
from spacy.tokens import Doc
from thinc.api import use_ops

from gpt2kw.text.keywords import load_spacy
from gpt2kw.text.word_rules import WordRules, can_remember

_Step = Callable[[list[Doc]], list[Doc]]

_PORTION = 50_000
"""Characters of texts that go through a step together; they need about 1 KB each."""


def load_pipeline(name: str) -> "Pipeline":
    """Load spaCy's model `name`.

    Raises:
        UserError: as `load_spacy` does.
    """
    # BLIS, which spaCy would take, does without AVX-512 where numpy's library has it.
    with use_ops("numpy", use_blis=False):
        pipeline = Pipeline(load_spacy(name))
    # So that the garbage collector need not go through the model again and again.
    gc.freeze()
    return pipeline


class Pipeline:
    """Turns texts into what `nlp.pipe` would make of them.

    Components for which there is nothing better do their part themselves.
    """

    def __init__(self, nlp: Language) -> None:
        self._nlp = nlp
        self._steps: list[_Step] = []
        self._rules: list[WordRules] = []
        before = None
        for _, component in nlp.pipeline:
            if can_remember(before, component):
                self._rules.append(WordRules(before, component))
                self._steps[-1] = partial(_one_by_one, self._rules[-1])
            elif _is_greedy(component):
                self._steps.append(partial(_parse, component))
            elif hasattr(component, "pipe"):
                self._steps.append(partial(_together, component))
            else:
                self._steps.append(partial(_one_by_one, component))
            before = component

    def __call__(self, texts: list[str]) -> list[Doc]:
        """Return a document for each text."""
        return [doc for portion in _portions(texts) for doc in self._process(portion)]

    def _process(self, texts: list[str]) -> list[Doc]:
        docs = [self._nlp.make_doc(text) for text in texts]
        for step in self._steps:
            docs = step(docs)
        return docs

    @contextmanager
    def memory_zone(self) -> Iterator[None]:
        """Forget at the end what was remembered since the beginning, documents too."""
        with self._nlp.memory_zone():
            try:
                yield
            finally:
                for rules in self._rules:
                    rules.forget()


def _portions(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of a bounded number of characters, but at least one text."""
    portion: list[str] = []
    room = _PORTION
    for text in texts:
        if portion and len(text) > room:
            yield portion
            portion, room = [], _PORTION
        portion.append(text)
        room -= len(text)
    if portion:
        yield portion


def _one_by_one(component: PipeCallable, docs: list[Doc]) -> list[Doc]:
    return [component(doc) for doc in docs]


def _together(component: PipeCallable, docs: list[Doc]) -> list[Doc]:
    return list(component.pipe(docs, batch_size=len(docs)))


def _is_greedy(component: PipeCallable) -> bool:
    known = type(component) in (DependencyParser, EntityRecognizer)
    return known and component.cfg["beam_width"] == 1


def _parse(parser: DependencyParser | EntityRecognizer, docs: list[Doc]) -> list[Doc]:
    """Do as `parser.pipe`, with the loop that spaCy itself has for training.

    The one that it has for use gives up Python's global lock, but the functions that it
    calls for every word and every class take it again each time. Where there are other
    threads, as in ray's workers, that is half of the time that parser and NER need.
    """
    if any(len(doc) for doc in docs):
        model = parser.model.predict(docs)
        results = parser.moves.init_batch(docs)
        states = [state for state in results if not state.is_final()]
        while states:
            states = parser.transition_states(states, model.predict(states))
        model.clear_memory()
    else:
        results = parser.predict(docs)
    parser.set_annotations(docs, results)
    return docs
