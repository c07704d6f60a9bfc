"""The one error that users see."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something the user gave can't be used.

    Its text is one line: what was wrong, with the value, and after a semicolon how
    to fix it. Commands print it and exit with status 2.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)

    def __str__(self) -> str:
        return " ".join("; ".join(self.args).split())


def check_option(option: str, value: object, ok: bool, wanted: str) -> None:
    """Raise `UserError` naming `--option` and its value unless `ok`."""
    if not ok:
        raise UserError(f"--{option.replace('_', '-')} is {value!r}", f"give {wanted}")


def check_default(options: Any, name: str, wanted: str) -> None:
    """Raise `UserError` if a field of a dataclass of options is given but would change nothing."""
    value = getattr(options, name)
    check_option(name, value, value == type(options).__dataclass_fields__[name].default, wanted)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'title'? "` for the nearest known word, or an empty string."""
    lowered = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    return f"did you mean {lowered[nearest[0]]!r}? " if nearest else ""


def is_unicode(text: str) -> bool:
    """Whether `text` can be written; bytes that a terminal could not read can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
