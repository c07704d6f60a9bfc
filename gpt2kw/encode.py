"""`python -m gpt2kw.encode`: turn tables of short texts into training text."""

import sys

from gpt2kw.command import run_command
from gpt2kw.text.encoding import EncodeOptions, encode_keywords


def _encode(options: EncodeOptions) -> None:
    report = encode_keywords(options, progress=True)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    print(
        f"{report.records:,} texts gave {report.training_documents:,} documents "
        f"in {options.output}",
        file=sys.stderr,
    )
    if report.validation_documents:
        print(
            f"and {report.validation_documents:,} for validation in {options.validation_output}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run_command("encode", EncodeOptions, _encode)
