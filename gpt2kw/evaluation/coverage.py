"""Whether a text has the keywords that it was asked for."""

from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

from gpt2kw.evaluation.words import Words, words

Forms = Callable[[str], Set[str]]
"""What a word may be a form of, with the word itself; such as `text.lemmas.Lemmas`."""


def as_written(word: str) -> Set[str]:
    """The forms of a word if no inflection counts."""
    return frozenset((word,))


def places(keyword: str, text: Words, forms: Forms) -> list[range]:
    """Return where in the text's words a keyword stands.

    Each word of the keyword must match the text's in the same order, side by side: it
    is the same word, or both may be forms of one word (run, running, ran).
    """
    wanted = [forms(word) for word in words(keyword)]
    size = len(wanted)
    return [
        range(start, start + size)
        for start in range(len(text) - size + 1)
        if all(
            not form.isdisjoint(forms(word))
            for form, word in zip(wanted, text[start:], strict=False)
        )
    ]


def matches(keyword: str, text: Words, forms: Forms) -> bool:
    """Whether a text has a keyword, or an inflection of it."""
    return bool(places(keyword, text, forms))


def missing_keywords(keywords: Sequence[str], text: Words, forms: Forms) -> list[str]:
    """Return the keywords that a text has not."""
    return [keyword for keyword in keywords if not matches(keyword, text, forms)]


class Coverage(NamedTuple):
    """How many keywords a text should have and has, in any form and as they are written."""

    keywords: int
    covered: int
    written: int


def coverage(keywords: Sequence[str], text: Words, forms: Forms) -> Coverage:
    """Count the keywords that a text has, in upper or lower case.

    A match is the keyword, its lemma or an inflection, as in the evaluation of CommonGen
    (Lin et al. 2020, "CommonGen: A Constrained Text Generation Challenge"); "as written"
    is the very word. The text is what a model wrote behind its prompt: the list of
    keywords in front of it does not count.
    """
    total = len(keywords)
    covered = total - len(missing_keywords(keywords, text, forms))
    return Coverage(total, covered, total - len(missing_keywords(keywords, text, as_written)))


def covered_by_all(
    keywords: Sequence[Sequence[str]], texts: Sequence[Sequence[Sequence[Words]]], forms: Forms
) -> list[list[int | None]]:
    """Return which texts compare fairly: those that leave out no keyword.

    A text that leaves keywords out is likelier for it, since keywords are the rare words.

    Args:
        keywords: of each prompt.
        texts: of several writers, each for all of these prompts.
        forms: see `places`.

    Returns:
        For each writer the place of its first text with all keywords for each prompt, or None
        where one of the writers has no such text.
    """
    found = [
        [
            next(
                (n for n, text in enumerate(some) if not missing_keywords(asked, text, forms)), None
            )
            for asked, some in zip(keywords, own, strict=True)
        ]
        for own in texts
    ]
    common = [None not in places for places in zip(*found, strict=True)]
    return [
        [place if fair else None for place, fair in zip(places, common, strict=True)]
        for places in found
    ]


def are_side_by_side(keywords: Sequence[str], text: Words, forms: Forms) -> bool | None:
    """Whether one keyword directly follows another; None if the text has not two of them.

    Lists of keywords in place of sentences are how models meet a coverage that is
    enforced; people's texts show how often it is natural (Lin et al. 2020 saw both).
    """
    found = [places(keyword, text, forms) for keyword in keywords]
    found = [spans for spans in found if spans]
    if len(found) < 2:
        return None
    return any(
        left.stop == right.start
        for one, spans in enumerate(found)
        for two, others in enumerate(found)
        if one != two
        for left in spans
        for right in others
    )
