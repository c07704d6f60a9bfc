"""`python -m gpt2kw.decode`: write the sections of documents as text, JSON lines or CSV."""

import sys

from gpt2kw.command import run_command
from gpt2kw.text.decoding import DecodeOptions, decode_file


def _decode(options: DecodeOptions) -> None:
    report = decode_file(options)
    said = f"{report.documents:,} documents, {report.unfinished:,} of them unfinished"
    if report.strays:
        said += f"; text outside every section, in {report.strays:,} places, was not written"
    print(said, file=sys.stderr)


if __name__ == "__main__":
    run_command("decode", DecodeOptions, _decode)
