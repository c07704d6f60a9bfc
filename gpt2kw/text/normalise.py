"""Texts without what makes no difference: case, punctuation, white space, Unicode's variants."""

import unicodedata


class _Signs(dict[int, str]):
    """What becomes of a character, for `str.translate`; worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if kind[0] in "LMN" or (kind[0] == "S" and not character.isascii()):
            # Letters, digits, and signs that may say something, such as emoji.
            kept = character
        elif character in "'\u2019" or kind == "Cf":
            # don't is the word dont; a soft hyphen parts nothing.
            kept = ""
        else:
            kept = " "
        self[code] = kept
        return kept


_SIGNS = _Signs()


def normal_words(text: str) -> list[str]:
    """Return the words of a text in their normal form.

    That is Unicode's NFKC, case-folded, with punctuation for white space and apostrophes
    left out. Of a text that is nothing but punctuation, each sign is a word. The words
    joined by spaces are their own normal form.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = unicodedata.normalize("NFKC", folded.translate(_SIGNS)).split()
    return words or [sign for sign in folded if unicodedata.category(sign)[0] in "PS"]


def normal_form(text: str) -> str:
    """Return the normal words of a text, parted by spaces: alike for texts that are the same."""
    return " ".join(normal_words(text))
