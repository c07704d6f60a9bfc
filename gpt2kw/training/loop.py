"""Fine-tuning: from training text to a run directory."""

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gpt2kw.errors import UserError
from gpt2kw.generation.decoder import Decoder
from gpt2kw.generation.generator import Generator
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model, new_model
from gpt2kw.model.named import MINI, MINI_SHAPE, MINI_VOCABULARY, find_model
from gpt2kw.model.runs import Checkpoint, Run, checksum
from gpt2kw.text.format import Record
from gpt2kw.text.tally import Tally
from gpt2kw.training.documents import (
    BatchOrder,
    TokenDocuments,
    describe,
    drop_categories,
    read_records,
)
from gpt2kw.training.journal import Journal
from gpt2kw.training.optimizer import learning_rate
from gpt2kw.training.options import FinetuneOptions
from gpt2kw.training.step import StepResult, TrainStep, choose_strategy

log = logging.getLogger(__name__)

_REPORT_EVERY = 10
"""Steps between lines of metrics. Reading a loss makes the devices wait for it."""
_SAMPLES = 4


@dataclass(frozen=True)
class FinetuneReport:
    """How a fine-tuning ended.

    Losses are nats per token; the training loss is of the last few steps.
    `stopped_by` is the signal that ended it before its last step, if one did.
    """

    run: Path
    step: int
    loss: float | None
    validation_loss: float | None
    stopped_by: int | None = None


def finetune(
    options: FinetuneOptions | None = None, *, progress: bool = False, **fields: Any
) -> FinetuneReport:
    """Fine-tune a model; the fields of `FinetuneOptions` may be given as such.

    Ctrl-C and SIGTERM end it after the running step, with a checkpoint.

    Raises:
        UserError: the options, the text, the model or the run can't be used.
    """
    options = replace(options, **fields) if options else FinetuneOptions(**fields)
    tally = Tally()
    records = list(read_records(options.text, tally))
    run = Run.named(options.run_name)
    settings = _settings(options)
    checkpoint = _checkpoint_to_restore(options, settings, run)
    if checkpoint and checkpoint.step >= options.steps:
        log.info(
            "%s is at step %d already: raise --steps to go on, or begin anew with "
            "--restore-from fresh",
            run.folder,
            checkpoint.step,
        )
        return FinetuneReport(run.folder, checkpoint.step, None, None)
    model = checkpoint.load_model() if checkpoint else _first_model(options, records)
    model.about = describe(records)
    training = _Training(options, run, model, records, tally)
    for line in tally.lines():
        log.info(line)
    # Nothing on the disk is touched before all of the above has succeeded.
    if checkpoint:
        training.restore(checkpoint)
        for path in run.set_aside_after(checkpoint.step):
            log.info("a later checkpoint is now %s", path)
        log.info("going on from %s", checkpoint.folder)
    else:
        if options.restore_from == "fresh" and run.folder.exists():
            log.info("the earlier %s is now %s", run.folder, run.set_aside())
        run.create(settings)
    with _stop_signals() as stop:
        return training.run_to_end(stop, progress)


def _settings(options: FinetuneOptions) -> dict[str, Any]:
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
    }
    with open(options.text, "rb") as file:
        return settings | {"text_checksum": checksum(file)}


_ORDER_SETTINGS = ("text_checksum", "batch_size", "seed", "category_dropout")
"""Settings without which a resumed run is not at the same place in the same data."""


def _checkpoint_to_restore(
    options: FinetuneOptions, settings: dict[str, Any], run: Run
) -> Checkpoint | None:
    """Return where the run goes on, or None for a new one."""
    if options.restore_from == "fresh":
        return None
    checkpoints = run.checkpoints()
    if options.restore_from != "latest":
        wanted = Path(options.restore_from).resolve()
        matching = [c for c in checkpoints if c.folder.resolve() == wanted]
        if not matching:
            raise UserError(
                f"--restore-from is {options.restore_from!r}, no checkpoint of {run.folder}",
                "give latest, fresh, or one of "
                f"{', '.join(str(c.folder) for c in checkpoints) or 'none'}; "
                "to start a new run from it, use --model",
            )
        checkpoints = matching
    if not checkpoints:
        return None
    before = run.settings()
    started_from = before.get("model")
    if started_from != options.model:
        raise UserError(
            f"{run.folder} was started from --model {started_from}, not {options.model}",
            "choose another --run-name, or begin anew with --restore-from fresh",
        )
    for name in _ORDER_SETTINGS:
        if before.get(name) != settings[name]:
            log.warning(
                "%s is not what %s was started with: documents come in another order",
                "the text" if name == "text_checksum" else f"--{name.replace('_', '-')}",
                run.folder,
            )
    return checkpoints[-1]


def _first_model(options: FinetuneOptions, records: list[Record]) -> Model:
    if options.model == MINI:
        return new_model(records, MINI_VOCABULARY, options.seed, **MINI_SHAPE)
    return Model.load(find_model(options.model))


class _Training:
    """A run in progress."""

    def __init__(
        self,
        options: FinetuneOptions,
        run: Run,
        model: Model,
        records: list[Record],
        tally: Tally,
    ) -> None:
        self._options = options
        self._run = run
        self._model = model
        shown = drop_categories(records, options.category_dropout, options.seed)
        self._documents = TokenDocuments(shown, model.tokenizer, model.context, tally)
        self._order = BatchOrder(self._documents.lengths, options.batch_size, options.seed)
        self._validation = self._validation_documents()
        strategy = choose_strategy(options.devices)
        self._schedule = learning_rate(options)
        self._step = TrainStep(model, options, self._schedule, strategy)
        self._generator = Generator(
            model.tokenizer,
            Decoder(self._step.variables(), model.config),
            model.context,
            model.about,
        )
        self._sampling = GenerateOptions(
            keywords=options.sample_keywords, nsamples=_SAMPLES, seed=options.seed
        )
        if options.sample_every:
            # Else keywords that this text has no use for would end the run at its first samples.
            self._generator.prompt(self._sampling)
        self._done = 0
        self._seen_tokens = 0

    def _validation_documents(self) -> TokenDocuments | None:
        path = self._options.validation_text
        if path is None or not self._options.validate_every:
            return None
        tally = Tally()
        records = list(read_records(path, tally, self._options.validation_documents))
        documents = TokenDocuments(records, self._model.tokenizer, self._model.context, tally)
        for line in tally.lines():
            log.info("%s: %s", path, line)
        return documents

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the optimizer and the position in the data from a checkpoint."""
        optimizer, state = checkpoint.load_state()
        self._step.restore_optimizer(optimizer, checkpoint.step)
        self._done = checkpoint.step
        self._seen_tokens = state["tokens"]

    def run_to_end(self, stop: "_StopFlag", progress: bool) -> FinetuneReport:
        """Train to the last step, or until told to stop."""
        options = self._options
        loss = validation_loss = None
        saved_at = self._done
        log.info(
            "%s: %.1f million parameters, %s documents, %s tokens",
            self._run.folder,
            self._model.parameters / 1e6,
            f"{len(self._documents):,}",
            f"{self._documents.lengths.sum():,}",
        )
        journal = Journal(self._run, self._done)
        bar = tqdm(
            desc="finetune",
            total=options.steps,
            initial=self._done,
            unit=" steps",
            disable=None if progress else True,
        )
        recent = _Recent()
        try:
            while self._done < options.steps and not stop.signal:
                numbers = self._order.numbers(self._done)
                recent.add(self._step.train(*self._documents.batch(numbers)))
                self._done += 1
                bar.update()
                last = self._done == options.steps
                save = last or _due(self._done, options.save_every)
                # Before a checkpoint, so that no weights of a diverged run are saved.
                if save or _due(self._done, _REPORT_EVERY):
                    loss = self._report(journal, recent, bar)
                    recent = _Recent()
                if self._validation and (last or _due(self._done, options.validate_every)):
                    validation_loss = self._validate(journal)
                if save:
                    self._save()
                    saved_at = self._done
                if _due(self._done, options.sample_every):
                    self._sample(journal)
                recent.skip_time()
            if self._done > saved_at:
                if recent:
                    loss = self._report(journal, recent, bar)
                self._save()
        finally:
            bar.close()
            journal.close()
        return FinetuneReport(
            self._run.folder,
            self._done,
            loss,
            validation_loss,
            stop.signal if self._done < options.steps else None,
        )

    def _report(self, journal: Journal, recent: "_Recent", bar: tqdm) -> float:
        nats, tokens = recent.sums()
        seconds = recent.seconds()
        if not math.isfinite(nats):
            raise UserError(
                f"the loss is {nats} at step {self._done}",
                f"lower --learning-rate (it is {self._learning_rate:g}); the newest checkpoint "
                "is from before",
            )
        self._seen_tokens += int(tokens)
        journal.numbers(
            self._done,
            loss=nats / tokens,
            learning_rate=self._learning_rate,
            tokens=self._seen_tokens,
            tokens_per_second=tokens / seconds,
        )
        bar.set_postfix_str(f"loss {nats / tokens:.3f}, {tokens / seconds:,.0f} tokens/s")
        return nats / tokens

    @property
    def _learning_rate(self) -> float:
        return float(self._schedule(self._done))

    def _validate(self, journal: Journal) -> float:
        nats = tokens = 0.0
        size = self._options.batch_size
        for start in range(0, len(self._validation), size):
            numbers = np.arange(start, min(start + size, len(self._validation)))
            result = self._step.evaluate(*self._validation.batch(numbers))
            nats += float(result.nats)
            tokens += float(result.tokens)
        loss = nats / tokens
        journal.numbers(
            self._done, validation_loss=loss, validation_perplexity=math.exp(min(loss, 80))
        )
        log.info("step %d: validation loss %.3f", self._done, loss)
        return loss

    def _save(self) -> None:
        self._model.weights = self._step.weights()
        self._run.save(
            self._done,
            self._model,
            self._step.optimizer_state(),
            {"tokens": self._seen_tokens},
            self._options.keep,
        )

    def _sample(self, journal: Journal) -> None:
        texts = self._generator.generate(self._sampling)
        journal.samples(self._done, texts)
        log.info("step %d: samples", self._done)
        for text in texts:
            log.info("  %s", " ".join(text.split()))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Recent:
    """Losses since the last report, left on their devices, and the time that they took."""

    def __init__(self) -> None:
        self._results: list[StepResult] = []
        self._start = time.monotonic()
        self._skipped = 0.0
        self._last = self._start

    def __bool__(self) -> bool:
        return bool(self._results)

    def add(self, result: StepResult) -> None:
        self._results.append(result)
        self._last = time.monotonic()

    def skip_time(self) -> None:
        """Don't count the time since the last step."""
        now = time.monotonic()
        self._skipped += now - self._last
        self._last = now

    def sums(self) -> tuple[float, float]:
        """Return nats and tokens; waits for the devices."""
        return (
            sum(float(result.nats) for result in self._results),
            sum(float(result.tokens) for result in self._results),
        )

    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._start - self._skipped)


@dataclass
class _StopFlag:
    """The signal that asked to stop, or 0."""

    signal: int = 0


@contextmanager
def _stop_signals() -> Iterator[_StopFlag]:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one acts at once."""
    flag = _StopFlag()
    if threading.current_thread() is not threading.main_thread():
        # Only a main thread gets signals.
        yield flag
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: Any) -> None:
        flag.signal = number
        log.info("stopping after this step; once more to stop without saving")
        restore()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield flag
    finally:
        restore()
