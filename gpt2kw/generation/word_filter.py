"""Finding words that a text must not have."""

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from gpt2kw.errors import UserError
from gpt2kw.text.normalise import normal_words

_LETTERS = str.maketrans("013457@$!", "oieastasi")
"""What some write for letters."""
_WITH_LETTER = re.compile(r"\S*[^\W\d_]\S*")
_COMMENT = re.compile(r"(?:^|\s)#.*")


class WordFilter:
    """Finds words and phrases, whole and in any case, with signs or digits for letters too.

    `words` has them as they were given, each once.
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Look for these words and phrases."""
        self.words = tuple(dict.fromkeys(words))
        phrases = {tuple(normal_words(word)): word for word in reversed(self.words)}
        # Of a word that can't be seen nothing is left, which every text would have.
        self._phrases = {phrase: word for phrase, word in phrases.items() if phrase}
        self._lengths = sorted({len(phrase) for phrase in self._phrases})

    @classmethod
    def load(cls, file: Path | None = None) -> "WordFilter":
        """Read a list: a word or phrase a line; what follows a # is a comment.

        Args:
            file: UTF-8 text. None: better-profanity's list of English swear words.

        Raises:
            UserError: the file can't be read, or has no words.
        """
        if file is None:
            return cls(_words(files("better_profanity").joinpath(_LIST).read_text("utf-8")))
        try:
            words = _words(Path(file).read_text("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} is not UTF-8 text: {error.reason}", "save it as that"
            ) from error
        except OSError as error:
            raise UserError(f"can't read {file}: {error.strerror}", "check the path") from error
        if not words:
            raise UserError(f"{file} has no words", "write one a line")
        return cls(words)

    def find(self, text: str) -> str | None:
        """Return the first word of the list that `text` has, or None."""
        plain = _WITH_LETTER.sub(lambda word: word[0].translate(_LETTERS), text)
        for variant in dict.fromkeys((text, plain)):
            words = normal_words(variant)
            for first in range(len(words)):
                for length in self._lengths:
                    word = self._phrases.get(tuple(words[first : first + length]))
                    if word is not None:
                        return word
        return None


_LIST = "profanity_wordlist.txt"


def _words(text: str) -> list[str]:
    lines = (_COMMENT.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]
