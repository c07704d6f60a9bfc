"""A judge that needs no download: word trigrams of American English, from pocketsphinx."""

import itertools
import math
import re
from collections.abc import Sequence
from importlib.util import find_spec

from gpt2kw.errors import UserError
from gpt2kw.evaluation.likelihood import Score

TRIGRAMS = "trigrams"
"""The name of this judge."""
_LOG_BASE = 1.0001
"""Of the whole numbers that pocketsphinx gives as logarithms."""
_UNKNOWN = -(2**29)
"""What it gives for words that it does not know."""
_START = "<s>"


def check_trigrams() -> None:
    """Raise `UserError` if pocketsphinx is not installed."""
    if find_spec("pocketsphinx") is None:
        raise UserError(
            f"--judge {TRIGRAMS} needs pocketsphinx",
            "pip install 'gpt2kw[judge]', or give another model",
        )


class Trigrams:
    """Backed-off word trigrams (Katz 1987), learnt by the CMU Sphinx project from other texts.

    It hears only whether neighbouring words go together, which is what a keyword that was
    forced into a text spoils.
    """

    tokens_are_words = True

    def __init__(self) -> None:
        """Load the model, which the package brings along."""
        from pocketsphinx import NGramModel, get_model_path

        self._model = NGramModel.readfile(get_model_path("en-us/en-us.lm.bin"))
        self._known: dict[str, bool] = {_START: True}

    def alone(self, texts: Sequence[str]) -> list[Score]:
        """Return the loss of each text's words, without its end.

        The words that the model does not know, such as numbers in digits, are left out, and
        no word is judged by what stands before one of these.
        """
        return [self._score(_spoken(text)) for text in texts]

    def _score(self, words: Sequence[str]) -> Score:
        nats, count = 0.0, 0
        runs = itertools.groupby([_START, *words], self._knows)
        for run in [list(run) for known, run in runs if known]:
            for place, word in enumerate(run):
                if word == _START:
                    continue
                # The word first, then the last before it, then the one before that.
                context = run[max(0, place - 2) : place][::-1]
                nats -= self._model.prob([word, *context]) * math.log(_LOG_BASE)
                count += 1
        return Score(nats, count, len(words) - count)

    def _knows(self, word: str) -> bool:
        if word not in self._known:
            self._known[word] = self._model.prob([word]) != _UNKNOWN
        return self._known[word]


def _spoken(text: str) -> list[str]:
    """Return the words of a text as the model writes them: "don't" is one, in lower case."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'"))
