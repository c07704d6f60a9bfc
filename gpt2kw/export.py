"""`python -m gpt2kw.export`: write a run's model as a folder for other tools."""

import logging

from gpt2kw.command import run_command
from gpt2kw.generation.export import ExportOptions, export_model

log = logging.getLogger("gpt2kw")


def _export(options: ExportOptions) -> None:
    report = export_model(options)
    log.info(
        "%s has the model of %s: %.1f million parameters in %s, %.1f MB",
        report.folder,
        report.checkpoint,
        report.parameters / 1e6,
        options.precision,
        report.bytes / 1e6,
    )


if __name__ == "__main__":
    run_command("export", ExportOptions, _export)
