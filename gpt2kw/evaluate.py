"""`python -m gpt2kw.evaluate`: measure what models write about keywords."""

import logging

from gpt2kw.command import run_command
from gpt2kw.evaluation.options import EvaluateOptions
from gpt2kw.model.frozen import freeze_weights

log = logging.getLogger("gpt2kw")


def _evaluate(options: EvaluateOptions) -> None:
    # TensorFlow takes seconds to import; --help and a mistyped option do not wait.
    from gpt2kw.evaluation.measuring import evaluate
    from gpt2kw.evaluation.table import table_lines

    freeze_weights()
    report = evaluate(options, progress=True)
    for line in table_lines(report):
        print(line)
    if report.left_out:
        log.info(
            "left out, since %s came out alike: %s",
            ", ".join(report.comparisons),
            "; ".join(report.left_out),
        )
    for note in report.notes:
        log.info("%s", note)
    log.info("%s and report.json beside it", options.folder / "report.html")


if __name__ == "__main__":
    run_command("evaluate", EvaluateOptions, _evaluate)
