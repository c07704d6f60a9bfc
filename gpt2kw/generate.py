"""`python -m gpt2kw.generate`: write new texts about keywords."""

import functools
import logging
import sys

from gpt2kw.command import parse_options, run_command
from gpt2kw.generation.options import GenerateOptions as Options
from gpt2kw.model.frozen import freeze_weights
from gpt2kw.text.files import atomic_writer_or_stdout

log = logging.getLogger("gpt2kw")


def _generate(options: Options) -> None:
    freeze_weights()
    if options.prompts:
        _generate_many(options)
        return
    with atomic_writer_or_stdout(options.output) as file:
        # TensorFlow takes seconds to import; --help and a mistyped option do not wait.
        from gpt2kw.generation.generator import Generator
        from gpt2kw.generation.output import lines

        generator = Generator.load(
            options.run_name, options.model, options.precision, options.backend
        )
        if _at_terminal(options):
            from gpt2kw.generation.console import Console

            Console(generator, options, functools.partial(parse_options, "generate", Options)).run()
            return
        cut = 0
        for number, text in enumerate(generator.write([options], options)):
            cut += not text.document.finished
            print(lines(text, options, number), end="", file=file, flush=True)
    _say_what_is_cut(cut, options)


def _at_terminal(options: Options) -> bool:
    """Whether there is someone to type the keywords that were not given."""
    asked = options.keywords or options.category or options.prefix or options.prompt
    here = sys.stdin.isatty() and sys.stdout.isatty()
    return here and not asked and not options.output and options.output_format == "text"


def _generate_many(options: Options) -> None:
    from gpt2kw.generation.bulk import generate_many

    report = generate_many(options, progress=True)
    for problem in report.problems:
        log.warning("%s", problem)
    for reason, count in report.left_out.items():
        log.warning("%d texts were %s, and are left out", count, reason)
    _say_what_is_cut(report.cut, options)
    log.info("%d texts%s", report.texts, f" in {options.output}" if options.output else "")


def _say_what_is_cut(count: int, options: Options) -> None:
    if count:
        log.info("%d texts were cut at %d tokens; see --max-tokens", count, options.max_tokens)


if __name__ == "__main__":
    run_command("generate", Options, _generate)
