"""Texts that a model wrote, and which of several is the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpt2kw.text.format import Document
from gpt2kw.text.inflection import keyword_pattern
from gpt2kw.text.normalise import normal_words

_STUFFING = 0.5
"""Nats per token that two keywords side by side are worth."""
_REPETITION = 0.6
"""Nats per token that a repeated word is worth: models find what they repeat likely."""
_LENGTH = 0.5
"""Nats per token that e times as many words are worth: by the mean alone, texts of hardly more
than the keywords would win, which are cheap behind a prompt that names them."""
_LONG = 12
"""Words from which on more are worth nothing."""
_SHORT = 3
"""Letters of words that may come again: mostly articles, pronouns and prepositions."""


@dataclass(frozen=True)
class Text:
    """A text, and what is known of it."""

    document: Document
    request: int = 0
    """The place of the request that it is for."""
    number: int = 0
    """Which of that request's texts it is, from 0."""
    keywords: tuple[str, ...] = ()
    """Those that were asked for."""
    nats: float = 0.0
    """What it costs by the model, per token."""
    forced: int = 0
    """The tokens for which the model had no choice."""
    hidden: str = ""
    """The beginning of the title that is not to be shown."""
    guided: bool = True
    """Whether it was to have the keywords: not in plain mode, where none is better for them."""

    @property
    def title(self) -> str:
        """The title, which may be empty."""
        return self.document.record.title or ""

    @property
    def whole_title(self) -> str:
        """The title with what is not to be shown of it."""
        return self.hidden + self.title

    @property
    def missing(self) -> list[str]:
        """The keywords that the whole title does not have in any form."""
        title = self.whole_title
        return [word for word in self.keywords if not keyword_pattern(word).search(title)]

    def shown(self, sections: Sequence[str]) -> str:
        """Return the sections as text, a line break between them."""
        parts = (getattr(self.document.record, section) for section in sections)
        return "\n".join(part for part in parts if part)

    def rank(self) -> tuple:
        """Return what sorts better texts first.

        A text with more keywords comes first, then a whole one, then one that was led less
        by force, then the one that is more natural: that the model finds likelier, that
        does not set keyword beside keyword, does not say the same twice, and is not short.
        """
        oddness, title = self.nats, self.whole_title
        keywords = self.keywords if self.guided else ()
        oddness += _STUFFING * keywords_side_by_side(title, keywords)
        oddness += _REPETITION * repeated_words(title, keywords)
        words = min(_LONG, len(title.split()))
        oddness -= _LENGTH * math.log(max(1, words))
        missing = len(self.missing) if self.guided else 0
        return missing, not self.document.finished, self.forced, oddness


@dataclass(frozen=True)
class LeftOut:
    """A text that is missing, for none that was written would do."""

    request: int
    """The place of the request that it would be for."""
    number: int
    """Which of that request's texts it would be, from 0."""
    reason: str
    """What those that were written were, such as blank."""


def keywords_side_by_side(text: str, keywords: Sequence[str]) -> int:
    """Count the keywords that follow another one with nothing but a space between them."""
    spans = [match.span() for word in keywords for match in keyword_pattern(word).finditer(text)]
    ends = {end for _, end in spans}
    return sum(start - 1 in ends and text[start - 1] == " " for start, _ in spans)


def repeated_words(text: str, keywords: Sequence[str]) -> int:
    """Count the words that came before in a text: longer ones, and keywords in any form."""
    again = 0
    for keyword in keywords:
        text, count = keyword_pattern(keyword).subn(" ", text)
        again += max(0, count - 1)
    words = [word for word in normal_words(text) if len(word) > _SHORT]
    return again + len(words) - len(set(words))


def cut(text: Text, prefix: str, truncate: str | None, include_prefix: bool) -> Text:
    """Return a text that is cut before the first `truncate` behind its prefix.

    Without `include_prefix` the prefix is hidden. One that is not the title's beginning, as of
    a prompt with a body, stays.
    """
    record, finished = text.document.record, text.document.finished
    title, body = record.title or "", record.body or ""
    begin = len(prefix) if title.startswith(prefix) else 0
    hidden = ""
    if truncate:
        # A prefix that is the body's beginning comes with a whole title.
        in_title = -1 if begin < len(prefix) else title.find(truncate, begin)
        in_body = body.find(truncate, len(prefix) if begin < len(prefix) else 0)
        if in_title >= 0:
            record, finished = replace(record, title=title[:in_title], body=None), True
        elif in_body >= 0:
            record, finished = replace(record, body=body[:in_body]), True
    if not include_prefix:
        hidden, record = title[:begin], replace(record, title=(record.title or "")[begin:])
    document = replace(text.document, record=record, finished=finished)
    return replace(text, document=document, hidden=hidden)
