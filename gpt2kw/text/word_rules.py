"""spaCy's rules for words, worked out once and remembered.

The attribute ruler tries each of its patterns on every token and the lemmatizer takes
every token apart; with the English models that is over a quarter of a text's time. Yet
what the ruler says hangs on a token's tag and dependency, and on the word only if a
pattern names it; and a lemma hangs on the word, its part of speech and its morphology.
"""

import re
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from spacy.attrs import IDS
from spacy.lang.en.lemmatizer import EnglishLemmatizer
from spacy.matcher import Matcher
from spacy.pipeline import AttributeRuler, Lemmatizer
from spacy.tokens import Doc, MorphAnalysis, Token

_INDEX = "lemma_index"
"""The lemmatizer's table of words that need no rule."""

_SETTABLE = ("TAG", "DEP", "POS", "MORPH", "LEMMA")
_WORD = ("ORTH", "TEXT", "LOWER")
_FLAGS = ("IS_ALPHA", "IS_ASCII", "IS_DIGIT", "IS_PUNCT", "IS_SPACE", "IS_STOP", "LIKE_NUM")
_LEMMATIZERS = (Lemmatizer, EnglishLemmatizer)
"""Those of other languages may look at more than a word."""


class _Answer(NamedTuple):
    """What the ruler sets, and whether a longer pattern may begin or go on here."""

    tag: int
    dep: int
    pos: int
    morph: MorphAnalysis
    lemma: int
    begins: bool
    goes_on: bool


class WordRules:
    """Sets what an attribute ruler and then a lemmatizer would set, in less time.

    Both must be such that `can_remember` holds.
    """

    def __init__(self, ruler: AttributeRuler, lemmatizer: Lemmatizer) -> None:
        self._ruler = ruler
        self._lemmatizer = lemmatizer
        quicken(lemmatizer)
        patterns = _patterns(ruler)
        used = {name for pattern in patterns for token in pattern for name in token}
        self._looked_at = [IDS[name] for name in (*_SETTABLE, *_FLAGS) if name in used]
        self._looked_at += [IDS[name] for name in _SETTABLE if name not in used]
        self._names = _Names(patterns)
        self._first, self._later = Matcher(ruler.vocab), Matcher(ruler.vocab)
        for first, *later in patterns:
            if later:
                self._first.add("first", [[first]])
                self._later.add("later", [[token] for token in later])
        self._named: dict[int, int] = {}
        self._answers: dict[tuple[int, ...], _Answer] = {}
        self._lemmas: dict[tuple[int, int, MorphAnalysis], int] = {}

    def __call__(self, doc: Doc) -> Doc:
        """Set tag, dep, pos, morph and lemma of each token of `doc`, and return it."""
        tokens = list(doc)
        states = doc.to_array(self._looked_at).tolist()
        answers = [self._answer(token, state) for token, state in zip(tokens, states, strict=True)]
        if any(one.begins and other.goes_on for one, other in pairwise(answers)):
            return self._lemmatizer(self._ruler(doc))
        for token, answer in zip(tokens, answers, strict=True):
            token.tag, token.dep, token.pos, token.morph, token.lemma, *_ = answer
            if not answer.lemma or self._lemmatizer.overwrite:
                token.lemma = self._lemma(token, answer)
        return doc

    def _answer(self, token: Token, state: list[int]) -> _Answer:
        word = token.orth
        named = self._named.get(word)
        if named is None:
            named = self._named[word] = word if self._names.have(token) else 0
        key = (named, *state)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._ask(token.text, state)
        return answer

    def _ask(self, word: str, state: list[int]) -> _Answer:
        """Ask the ruler about a text of one word."""
        doc = Doc(self._ruler.vocab, words=[word])
        doc.from_array(self._looked_at, np.array([state], dtype=np.uint64))
        begins = bool(self._first(doc, allow_missing=True))
        goes_on = bool(self._later(doc, allow_missing=True))
        token = self._ruler(doc)[0]
        return _Answer(token.tag, token.dep, token.pos, token.morph, token.lemma, begins, goes_on)

    def _lemma(self, token: Token, answer: _Answer) -> int:
        key = (token.orth, answer.pos, answer.morph)
        lemma = self._lemmas.get(key)
        if lemma is None:
            lemma = token.vocab.strings.add(self._lemmatizer.lemmatize(token)[0])
            self._lemmas[key] = lemma
        return lemma

    def forget(self) -> None:
        """Forget all words, as spaCy's vocabulary does at the end of a memory zone."""
        for memory in (self._named, self._answers, self._lemmas, self._lemmatizer.cache):
            memory.clear()


def quicken(lemmatizer: Lemmatizer) -> None:
    """Turn the lists of up to 57,000 words that are searched for each new word into sets."""
    if lemmatizer.lookups.has_table(_INDEX):
        index = lemmatizer.lookups.get_table(_INDEX)
        for pos, words in list(index.items()):
            index[pos] = frozenset(words)


class _Names:
    """The words that patterns name."""

    def __init__(self, patterns: list[list[dict[str, Any]]]) -> None:
        self._words: set[str] = set()
        self._expressions: list[re.Pattern[str]] = []
        for pattern in patterns:
            for token in pattern:
                for name in _WORD:
                    self._add(token.get(name, []))

    def _add(self, wanted: Any) -> None:
        if isinstance(wanted, dict):
            for kind, value in wanted.items():
                if kind == "REGEX":
                    self._expressions.append(re.compile(value))
                else:
                    self._words.update(value)
        else:
            self._words.update([wanted] if isinstance(wanted, str) else wanted)

    def have(self, token: Token) -> bool:
        """Whether a pattern may treat this word otherwise than it treats any other."""
        forms = (token.text, token.lower_)
        return not self._words.isdisjoint(forms) or any(
            expression.search(form) for expression in self._expressions for form in forms
        )


def can_remember(ruler: object, lemmatizer: object) -> bool:
    """Whether both are what they should be and look at no more than `WordRules` knows of."""
    return (
        type(ruler) is AttributeRuler
        and type(lemmatizer) in _LEMMATIZERS
        and all(set(rule["attrs"]) <= set(_SETTABLE) for rule in ruler.patterns)
        and all(_is_known(token) for pattern in _patterns(ruler) for token in pattern)
    )


def _is_known(token: dict[str, Any]) -> bool:
    """Whether a token of a pattern stands for one token, and asks nothing unknown of it."""
    if not set(token) <= {*_SETTABLE, *_WORD, *_FLAGS}:
        return False
    words = [token[name] for name in _WORD if name in token]
    return all(isinstance(w, str) or set(w) <= {"IN", "NOT_IN", "REGEX"} for w in words)


def _patterns(ruler: AttributeRuler) -> list[list[dict[str, Any]]]:
    return [pattern for rule in ruler.patterns for pattern in rule["patterns"]]
