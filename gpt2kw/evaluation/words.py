"""The words of a text, as all metrics but BLEU count them."""

from collections.abc import Sequence
from sys import intern

from gpt2kw.text.keywords import clean_keyword

Words = tuple[str, ...]


def words(text: str) -> Words:
    """Return the words of a text or a keyword in lower case, without punctuation.

    A keyword's cleaning parts them, so that a keyword that was taken from a text has the
    same words as the text has there: "Kim's" gives kim and s.
    """
    return tuple(intern(word) for word in clean_keyword(text).lower().split("-") if word)


def ngrams(text: Sequence[str], n: int) -> list[Words]:
    """Return the runs of `n` words in their order; none if the text is shorter."""
    return list(zip(*(text[start:] for start in range(n)), strict=False))
