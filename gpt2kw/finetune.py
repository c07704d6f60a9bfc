"""`python -m gpt2kw.finetune`: fine-tune GPT-2 on training text."""

import logging

from gpt2kw.command import Stopped, run_command
from gpt2kw.training.options import FinetuneOptions

log = logging.getLogger("gpt2kw")


def _finetune(options: FinetuneOptions) -> None:
    # TensorFlow takes seconds to import; --help and a mistyped option do not wait.
    from gpt2kw.training.loop import finetune

    report = finetune(options, progress=True)
    if report.stopped_by:
        log.info("stopped and saved at step %d; the same command goes on", report.step)
        raise Stopped(report.stopped_by)
    if report.loss is not None:
        losses = f"loss {report.loss:.3f}"
        if report.validation_loss is not None:
            losses += f", validation loss {report.validation_loss:.3f}"
        log.info("%s is at step %d: %s", report.run, report.step, losses)


if __name__ == "__main__":
    run_command("finetune", FinetuneOptions, _finetune)
