"""`python -m gpt2kw.generate`: write new texts about keywords."""

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from gpt2kw.command import parse_options, run_command
from gpt2kw.generation.options import GenerateOptions as Options
from gpt2kw.text.files import atomic_writer_or_stdout
from gpt2kw.text.format import prompt, render

if TYPE_CHECKING:
    from gpt2kw.generation.ranking import Text

log = logging.getLogger("gpt2kw")


def _generate(options: Options) -> None:
    with atomic_writer_or_stdout(options.output) as file:
        # TensorFlow takes seconds to import; --help and a mistyped option do not wait.
        from gpt2kw.generation.generator import Generator

        generator = Generator.load(
            options.run_name, options.model, options.precision, options.backend
        )
        if _at_terminal(options):
            from gpt2kw.generation.console import Console

            Console(generator, options, lambda line: parse_options("generate", Options, line)).run()
            return
        _write(file, generator.write([options], options), options)


def _at_terminal(options: Options) -> bool:
    """Whether there is someone to type the keywords that were not given."""
    asked = options.keywords or options.category or options.prefix or options.prompt
    here = sys.stdin.isatty() and sys.stdout.isatty()
    return here and not asked and not options.output and options.format == "text"


def _write(file: IO[str], texts: Iterable["Text"], options: Options) -> None:
    """Write texts as they come; say how many were cut off."""
    cut = 0
    form = _FORMS[options.format]
    for number, text in enumerate(texts):
        cut += not text.document.finished
        if number and options.sample_delim:
            print(options.sample_delim, file=file)
        print(form(text, options), file=file, flush=True)
    if cut:
        log.info("%d texts were cut at %d tokens; see --max-tokens", cut, options.max_tokens)


def _as_text(text: "Text", options: Options) -> str:
    lines = text.shown(options.sections).splitlines()
    return "\n".join(lines) if options.sample_delim else " ".join(" ".join(lines).split())


def _as_json(text: "Text", _options: Options) -> str:
    fields = asdict(text.document.record) | {"finished": text.document.finished}
    return json.dumps(fields, ensure_ascii=False)


def _as_document(text: "Text", _options: Options) -> str:
    return (render if text.document.finished else prompt)(text.document.record)


_FORMS = {"text": _as_text, "jsonl": _as_json, "encoded": _as_document}


if __name__ == "__main__":
    run_command("generate", Options, _generate)
