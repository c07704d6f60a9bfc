"""`python -m gpt2kw.finetune`: fine-tune GPT-2 on training text."""

import logging
import math
from typing import TYPE_CHECKING

from gpt2kw.command import Stopped, run_command
from gpt2kw.training.options import FinetuneOptions

if TYPE_CHECKING:
    from gpt2kw.training.loop import FinetuneReport

log = logging.getLogger("gpt2kw")


def _finetune(options: FinetuneOptions) -> None:
    # TensorFlow takes seconds to import; --help and a mistyped option do not wait.
    if options.find_learning_rate:
        _find_learning_rate(options)
        return
    from gpt2kw.training.loop import finetune

    report = finetune(options, progress=True)
    if report.tokens:
        for line in _summary(options, report):
            log.info(line)
    if report.signal:
        raise Stopped(report.signal)


def _summary(options: FinetuneOptions, report: "FinetuneReport") -> list[str]:
    again = "the same command" + (
        "" if options.restore_from == "latest" else " without --restore-from"
    )
    reasons = {
        "steps": "",
        "signal": f", stopped{' and saved' if report.saved else ''}; {again} goes on",
        "minutes": f", the time is over; {again} goes on",
        "patience": f", no better validation loss in {options.patience} measurements",
    }
    losses = []
    if report.best:
        step, loss = report.best
        perplexity = math.exp(min(loss, 80))
        losses.append(f"best validation {loss:.3f} (perplexity {perplexity:.1f}) at step {step:,}")
    if report.loss is not None:
        losses.append(f"training {report.loss:.3f}")
    minutes, seconds = divmod(round(report.seconds), 60)
    keywords = options.sample_keywords or "cats"
    return [
        f"steps   {report.step:,} of {options.steps:,}{reasons[report.ended_by]}",
        f"tokens  {report.tokens:,}",
        f"time    {minutes} min {seconds} s",
        f"loss    {', '.join(losses)}",
        f'next    python -m gpt2kw.generate --run-name {options.run_name} --keywords "{keywords}"',
    ]


def _find_learning_rate(options: FinetuneOptions) -> None:
    from gpt2kw.training.rates import find_learning_rate

    report = find_learning_rate(options, progress=True)
    for rate, loss in list(zip(report.rates, report.losses, strict=True))[::10]:
        log.info("%.1e  loss %.3f", rate, loss)
    print(f"{report.suggested:.1e}")


if __name__ == "__main__":
    run_command("finetune", FinetuneOptions, _finetune)
