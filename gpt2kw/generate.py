"""`python -m gpt2kw.generate`: write new texts about keywords."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO

from gpt2kw.command import run_command
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.text.files import atomic_writer_or_stdout
from gpt2kw.text.format import Document, prompt, render

log = logging.getLogger("gpt2kw")


def _generate(options: GenerateOptions) -> None:
    with atomic_writer_or_stdout(options.output) as file:
        # TensorFlow takes seconds to import; --help and a mistyped option do not wait.
        from gpt2kw.generation.generator import Generator

        generator = Generator.load(options.run_name, options.model)
        titles_only = options.format == "text"
        documents = (generator.titles if titles_only else generator.documents)(options)
        cut = _write(file, documents, options.format)
    if cut:
        log.info("%d texts were cut at %d tokens; see --max-tokens", cut, options.max_tokens)


def _write(file: IO[str], documents: Iterable[Document], form: str) -> int:
    """Write documents as they come; return how many were cut off."""
    cut = 0
    for document in documents:
        cut += not document.finished
        print(_FORMS[form](document), file=file, flush=True)
    return cut


def _as_title(document: Document) -> str:
    return " ".join((document.record.title or "").split())


def _as_json(document: Document) -> str:
    return json.dumps(asdict(document.record) | {"finished": document.finished}, ensure_ascii=False)


def _as_encoded(document: Document) -> str:
    return (render if document.finished else prompt)(document.record)


_FORMS = {"text": _as_title, "jsonl": _as_json, "encoded": _as_encoded}


if __name__ == "__main__":
    run_command("generate", GenerateOptions, _generate)
