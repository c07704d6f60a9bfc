"""The prompt at the terminal: type keywords, see titles, change settings."""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace

from gpt2kw.errors import UserError
from gpt2kw.generation.generator import Generator
from gpt2kw.generation.options import GenerateOptions

_HELP = """\
Type keywords, parted by spaces or commas, or nothing for texts about anything.
  :more               more texts about the same keywords
  :set NAME VALUE     change an option of generate, such as :set temperature 0.9
  :set NAME           back to what it was at the start
  :set                what was changed
  :quit               leave (Ctrl-D too); Ctrl-C stops the texts that are being written"""

_FIXED = {"keywords", "prompts", "address", "workers", "run_name", "model", "precision"}
_FIXED |= {"backend", "output", "format", "sample_delim"}
"""Options that can't change here."""

Parse = Callable[[list[str], GenerateOptions], GenerateOptions]
"""Makes options from a command line, and from others what it does not name; raises UserError."""


class Console:
    """A conversation. `handle` takes what was typed, a line at a time."""

    def __init__(
        self,
        generator: Generator,
        options: GenerateOptions,
        parse: Parse,
        show: Callable[[str], object] = print,
    ) -> None:
        """Begin with the options that the command was given."""
        self._generator = generator
        self._start = self._options = options
        self._parse = parse
        self._show = show
        self._changed: dict[str, list[str]] = {}
        self._calls = itertools.count()

    def run(self, ask: Callable[[str], str] = input) -> None:
        """Ask for lines until the user leaves."""
        with contextlib.suppress(ImportError):
            # The arrow keys then bring back earlier lines.
            import readline  # noqa: F401
        self._show("Keywords? :help shows what else there is, :quit leaves.")
        while True:
            try:
                line = ask("> ")
            except (EOFError, KeyboardInterrupt):
                self._show("")
                return
            if not self.handle(line.strip()):
                return

    def handle(self, line: str) -> bool:
        """Do what a line says; false if the user leaves."""
        command, *rest = line.split() or [""]
        try:
            if command in (":quit", ":q", ":exit"):
                return False
            if command in (":help", ":h", ":?"):
                self._show(_HELP)
            elif command == ":set":
                self._set(rest)
            elif command == ":more":
                self._write()
            elif command.startswith(":"):
                raise UserError(f"there is no {command}", ":help shows what there is")
            else:
                self._options = replace(self._options, keywords=line)
                self._write()
        except UserError as error:
            self._show(f"error: {error}")
        except KeyboardInterrupt:
            self._show("stopped")
        return True

    def _write(self) -> None:
        options = self._options
        if options.seed is not None:
            # The same seed again would give the same texts again.
            options = replace(options, seed=options.seed + next(self._calls))
        for text in self._generator.write([options], options):
            self._show(" ".join(text.shown(options.sections).split()))

    def _set(self, words: list[str]) -> None:
        if not words:
            changed = [f"{name} {' '.join(values)}" for name, values in self._changed.items()]
            self._show("\n".join(changed) or "nothing was changed")
            return
        name, *values = words
        name = name.removeprefix("--").replace("-", "_")
        if name in _FIXED or name not in vars(self._start):
            raise UserError(
                f"{words[0]!r} can't be set here", "see python -m gpt2kw.generate --help"
            )
        changed = {key: kept for key, kept in self._changed.items() if key != name}
        value = getattr(self._start, name)
        if values:
            changed[name] = values
            if isinstance(value, bool):
                value = _truth(name, values)
            else:
                given = values if isinstance(value, tuple) else [" ".join(values)]
                parsed = self._parse([f"--{name.replace('_', '-')}", *given], self._options)
                value = getattr(parsed, name)
        self._options = replace(self._options, **{name: value})
        self._changed = changed


def _truth(name: str, values: list[str]) -> bool:
    known = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
    value = " ".join(values).lower()
    if value not in known:
        raise UserError(f"{name} is {value!r}", "give on or off")
    return known[value]
