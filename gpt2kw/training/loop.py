"""Fine-tuning: from training text to a run directory."""

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tqdm import tqdm

from gpt2kw.errors import UserError
from gpt2kw.generation.generator import Generator
from gpt2kw.generation.network import CachedNetwork
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.backend import choose_precision
from gpt2kw.model.folder import Model, new_model
from gpt2kw.model.named import MINI_SHAPE, MINI_VOCABULARY, NEW, find_model
from gpt2kw.model.runs import TOKENS_FOLDER, Checkpoint, Run
from gpt2kw.text.tally import Tally
from gpt2kw.training.batches import Batch, BatchOrder, Place
from gpt2kw.training.corpus import Corpus, checksum, open_corpus, read_records
from gpt2kw.training.journal import Journal, NoJournal
from gpt2kw.training.optimizer import highest_rate, learning_rate
from gpt2kw.training.options import FinetuneOptions
from gpt2kw.training.plot import draw_losses
from gpt2kw.training.report import FinetuneReport
from gpt2kw.training.resume import TEXT_CHECKSUM, checkpoint_to_restore, settings_of
from gpt2kw.training.saving import Saver
from gpt2kw.training.step import TrainStep, choose_strategy
from gpt2kw.training.stopping import Stop, stop_on_signals
from gpt2kw.training.team import Team
from gpt2kw.training.titles import index_titles
from gpt2kw.training.window import Watch, Window

log = logging.getLogger(__name__)

_REPORT_EVERY = 10
"""Steps between lines of metrics. Reading a loss makes the devices wait for it."""
_SAMPLES = 4
_RESTORES = 3
"""Times that a run goes back to a checkpoint after its loss went astray."""


@dataclass
class _Progress:
    """What a checkpoint holds beside weights and moments; JSON types alone."""

    place: Place = field(default_factory=Place)
    tokens: int = 0
    restores: int = 0
    best: tuple[int, float] | None = None
    stale: int = 0
    """Measurements since the best."""
    validation_text: str = ""
    """A checksum of the text that `best` was measured on, and how many documents if not all."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> "_Progress":
        best = state["best"]
        return cls(
            Place(*state["place"].values()),
            state["tokens"],
            state["restores"],
            tuple(best) if best else None,
            state["stale"],
            state["validation_text"],
        )


def finetune(
    options: FinetuneOptions | None = None, *, progress: bool = False, **fields: Any
) -> FinetuneReport:
    """Fine-tune a model; the fields of `FinetuneOptions` may be given as such.

    Ctrl-C and SIGTERM end it after the running step, with a checkpoint. A run that was
    interrupted goes on as if it had not been: with the same weights, optimizer, random
    numbers and position in the data.

    Raises:
        UserError: the options, the text, the model or the run can't be used.
    """
    options = replace(options, **fields) if options else FinetuneOptions(**fields)
    run = Run.named(options.run_name)
    settings = settings_of(options, checksum(options.text))
    with run.lock():
        checkpoint = checkpoint_to_restore(options, settings, run)
        if checkpoint and checkpoint.step >= options.steps:
            log.info(
                "%s is at step %d already: raise --steps to go on, or begin anew with "
                "--restore-from fresh",
                run.folder,
                checkpoint.step,
            )
            index_titles(run, settings)
            return FinetuneReport(run.folder, checkpoint.step, "steps")
        if options.address:
            # Ray takes its time to import.
            from gpt2kw.training.cluster import finetune_on_cluster

            return finetune_on_cluster(options, settings, checkpoint, progress)
        team = Team(choose_strategy(options.devices))
        training = start_training(options, settings, checkpoint, team)
        with (
            stop_on_signals(options.max_minutes) as stop,
            progress_bar(options, checkpoint, progress) as bar,
        ):
            return training.run_to_end(stop, bar)


def progress_bar(options: FinetuneOptions, checkpoint: Checkpoint | None, progress: bool) -> tqdm:
    """Return a bar for the steps from a checkpoint on; one without `progress` is not shown."""
    return tqdm(
        desc="finetune",
        total=options.steps,
        initial=checkpoint.step if checkpoint else 0,
        unit=" steps",
        disable=None if progress else True,
    )


def start_training(
    options: FinetuneOptions, settings: dict[str, Any], checkpoint: Checkpoint | None, team: Team
) -> "Training":
    """Return a run at its beginning, or as a checkpoint has it.

    Every process of a team does so. The caller holds the run's lock.

    Raises:
        UserError: the options, the text, the model or the checkpoint can't be used.
    """
    run = Run.named(options.run_name)
    model = checkpoint.load_model() if checkpoint else first_model(options)
    corpus = open_training_corpus(options, settings[TEXT_CHECKSUM], model)
    training = Training(options, run, model, corpus, team)
    if checkpoint:
        training.restore(checkpoint)
    # Nothing of the run is touched before all of the above has succeeded, everywhere.
    team.wait()
    if team.chief:
        if checkpoint:
            for path in run.set_aside_after(checkpoint.step):
                log.info("a later checkpoint is now %s", path)
            log.info("going on from %s", checkpoint.folder)
        elif options.restore_from == "fresh" and run.folder.exists():
            log.info("the earlier %s is now %s", run.folder, run.set_aside())
        run.create(settings)
        index_titles(run, settings)
    return training


def first_model(options: FinetuneOptions) -> Model:
    """Return the model that a new run starts from."""
    if options.model == NEW:
        records = read_records(options.text, Tally())
        return new_model(records, MINI_VOCABULARY, options.seed, **MINI_SHAPE)
    return Model.load(find_model(options.model))


def open_training_corpus(options: FinetuneOptions, text_checksum: str, model: Model) -> Corpus:
    """Return the training text as `model` reads it, and describe it to the model."""
    corpus = open_corpus(options.text, text_checksum, model.tokenizer, model.context, TOKENS_FOLDER)
    for note in corpus.notes:
        log.info(note)
    model.about = corpus.about
    return corpus


def batch_order(options: FinetuneOptions, corpus: Corpus) -> BatchOrder:
    """Return the batches of a run with these options."""
    return BatchOrder(
        corpus,
        options.batch_size,
        options.seed,
        category_dropout=options.category_dropout,
        loss_on=options.loss_on,
        keyword_weight=options.keyword_weight,
    )


class Training:
    """A run in progress: all of it, or a process's part."""

    def __init__(
        self, options: FinetuneOptions, run: Run, model: Model, corpus: Corpus, team: Team
    ) -> None:
        """Begin with a model; `team` says with which others."""
        self._options = options
        self._run = run
        self._model = model
        self._corpus = corpus
        self._team = team
        self._order = batch_order(options, corpus)
        self._validation, self._validation_checksum = self._validation_batches()
        self._schedule = learning_rate(options)
        self._step = TrainStep(model, options, self._schedule, team.strategy)
        dtype = choose_precision(options.precision)
        network = CachedNetwork(self._step.variables(), model.config, dtype)
        self._generator = Generator(model, network)
        # Plain, so that samples show what the model has learnt of keywords.
        self._sampling = GenerateOptions(
            keywords=options.sample_keywords,
            keyword_mode="plain",
            nsamples=_SAMPLES,
            seed=options.seed,
        )
        if options.sample_every:
            # Else keywords that this text has no use for would end the run at its first samples.
            self._generator.check(self._sampling)
        self._done = 0
        self._progress = _Progress()
        self._window = Window()
        self._watch = Watch(options.spike)
        self._measured: tuple[int, float] | None = None
        """The step and the loss of the last validation."""
        self._saved_at = 0
        self._save_is_due = False

    def _validation_batches(self) -> tuple[list[Batch], str]:
        options, model = self._options, self._model
        path = options.validation_text
        if path is None or not options.validate_every:
            return [], ""
        text_checksum = checksum(path)
        corpus = open_corpus(path, text_checksum, model.tokenizer, model.context, TOKENS_FOLDER)
        for note in corpus.notes:
            log.info("%s: %s", path, note)
        order = BatchOrder(corpus, options.batch_size, options.seed, loss_on=options.loss_on)
        if options.validation_documents < len(corpus):
            # Losses on other documents of the same text can't be compared.
            text_checksum += f" {options.validation_documents}"
        return list(order.in_order(options.validation_documents)), text_checksum

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take everything but the weights, which the model has, from a checkpoint."""
        moments, state = checkpoint.load_state()
        self._step.restore(moments, state["step"], checkpoint.step)
        self._done = self._saved_at = checkpoint.step
        self._progress = _Progress.of(state["progress"])
        if self._progress.validation_text != self._validation_checksum:
            self._progress.best, self._progress.stale = None, 0
        # Else a checkpoint that is written anew would no longer be known as the best.
        text, loss = state.get("validation") or (None, 0.0)
        self._measured = (checkpoint.step, loss) if text == self._validation_checksum else None
        self._save_is_due = False
        self._window = Window(**state["window"])
        self._watch = Watch(self._options.spike, state["losses"])

    def run_to_end(self, stop: Stop, bar: tqdm) -> FinetuneReport:
        """Train to the last step, or until something ends it, such as the chief's `stop`."""
        options = self._options
        log.info(
            "%s: %.1f million parameters, %s documents, %s tokens",
            self._run.folder,
            self._model.parameters / 1e6,
            f"{len(self._corpus):,}",
            f"{len(self._corpus.tokens):,}",
        )
        start = time.monotonic()
        self._bar = bar
        self._bar.n = self._done
        self._saver = Saver(self._run, options.keep)
        self._journal = self._open_journal()
        ended_by = "steps"
        try:
            with _Ahead(self._order.from_place(self._progress.place)) as batches:
                while self._done < options.steps:
                    # All processes measure the same losses, but one alone is asked to stop.
                    if self._is_stale or self._team.agree(bool(stop)):
                        ended_by = (
                            "patience" if not stop else "signal" if stop.signal else "minutes"
                        )
                        break
                    self._do_step(batches)
            if self._done != self._saved_at:
                self._save_at_the_end()
            self._saver.wait()
        finally:
            self._saver.close()
            self._journal.close()
        if self._team.chief:
            draw_losses(self._run.metrics(), self._run.plot_file)
        return FinetuneReport(
            self._run.folder,
            self._done,
            ended_by,
            stop.signal,
            self._watch.losses[-1] if self._watch.losses else None,
            self._measured[1] if self._measured else None,
            self._progress.best,
            self._progress.tokens,
            self._saved_at == self._done,
            time.monotonic() - start,
        )

    def _open_journal(self) -> Journal | NoJournal:
        return Journal(self._run, self._done) if self._team.chief else NoJournal()

    @property
    def _is_stale(self) -> bool:
        return 0 < self._options.patience <= self._progress.stale

    def _do_step(self, batches: "_Ahead") -> None:
        options = self._options
        start = time.monotonic()
        batch, place = batches.next()
        self._window.waited += time.monotonic() - start
        self._window.add(batch, self._step.train(batch, self._done))
        self._done += 1
        self._progress.place = place
        self._progress.tokens += batch.tokens
        last = self._done == options.steps
        save = last or _due(self._done, options.save_every)
        report = last or _due(self._done, _REPORT_EVERY)
        if save or report:
            self._window.read()
        self._window.seconds += time.monotonic() - start
        self._bar.update()
        if report and not self._report():
            return
        validate = self._validation and (last or _due(self._done, options.validate_every))
        if validate and self._validate():
            save = True
        self._save_is_due |= save
        # No weights of a run that may be diverging: the next report decides.
        if self._save_is_due and not self._astray():
            self._save()
        if self._team.chief and _due(self._done, options.sample_every):
            self._sample()

    def _report(self) -> bool:
        """Write a window down and begin the next; False if the run went back instead."""
        window, self._window = self._window, Window()
        if window.lost and window.steps:
            log.warning(
                "step %d: %d of the last %d steps had a loss or gradient that is no number "
                "and were not applied",
                self._done,
                window.lost,
                window.steps,
            )
        if failure := self._saver.untold_failure():
            log.warning(
                "step %d: %s; the next checkpoint is tried all the same", self._done, failure
            )
        if problem := self._watch.problem(window):
            if self._options.on_divergence != "continue":
                self._go_back(problem)
                return False
            log.warning("step %d: %s", self._done, problem)
        else:
            self._watch.remember(window)
        speed = window.tokens / max(1e-9, window.seconds)
        if window.counted:
            self._journal.numbers(
                self._done,
                loss=window.loss,
                learning_rate=float(self._schedule(self._done)),
                gradient_norm=window.norm,
                tokens=self._progress.tokens,
                tokens_per_second=speed,
                padding=1 - window.tokens / max(1, window.positions),
                input_wait=window.waited / max(1e-9, window.seconds),
            )
            self._bar.set_postfix_str(f"loss {window.loss:.3f}, {speed:,.0f} tokens/s")
        return True

    def _astray(self) -> str | None:
        """Return what is wrong with the steps since the last report, if that matters."""
        if self._options.on_divergence == "continue":
            return None
        self._window.read()
        return self._watch.problem(self._window)

    def _save_at_the_end(self) -> None:
        if problem := self._astray():
            there = self._run.checkpoints()
            newest = f"the newest checkpoint is {there[-1].folder}" if there else "there is none"
            log.warning("step %d: %s, so this is not saved; %s", self._done, problem, newest)
        else:
            self._save()

    def _go_back(self, problem: str) -> None:
        """Go on from the newest checkpoint, past the documents that led astray.

        Chowdhery et al. 2022, "PaLM", section 5.1, did so by hand.
        """
        self._saver.wait()
        # For what the chief has saved.
        self._team.wait()
        checkpoints = self._run.checkpoints()
        rate = f"lower --learning-rate (it is {highest_rate(self._options):g})"
        if self._options.on_divergence == "stop" or not checkpoints:
            there = f"; the newest checkpoint is {checkpoints[-1].folder}" if checkpoints else ""
            raise UserError(f"{problem} at step {self._done}", rate + there)
        if self._progress.restores == _RESTORES:
            raise UserError(
                f"{problem} at step {self._done}, after going back {_RESTORES} times", rate
            )
        checkpoint = checkpoints[-1]
        log.warning(
            "step %d: %s; going on from %s, past the documents since",
            self._done,
            problem,
            checkpoint.folder,
        )
        astray = self._progress
        self._step.take_weights(checkpoint.load_model().weights)
        self.restore(checkpoint)
        self._progress = replace(self._progress, place=astray.place, restores=astray.restores + 1)
        self._journal.close()
        self._journal = self._open_journal()
        self._bar.n = self._done
        self._bar.refresh()
        # Not before all have read what is written anew here.
        self._team.wait()
        # Else the next start would go over the same documents once more.
        self._save()

    def _validate(self) -> bool:
        """Measure the validation loss; whether it is the best so far."""
        results = [self._step.evaluate(batch) for batch in self._validation]
        loss = sum(float(r.nats) for r in results) / sum(r.counted for r in results)
        self._journal.numbers(
            self._done, validation_loss=loss, validation_perplexity=math.exp(min(loss, 80))
        )
        self._measured = (self._done, loss)
        self._progress.validation_text = self._validation_checksum
        best = self._progress.best is None or loss < self._progress.best[1]
        if best:
            self._progress.best, self._progress.stale = (self._done, loss), 0
        else:
            self._progress.stale += 1
        log.info(
            "step %d: validation loss %.3f%s", self._done, loss, "" if best else ", not better"
        )
        return best

    def _save(self) -> None:
        self._window.read()
        step_state = self._step.other_state()
        self._saved_at = self._done
        self._save_is_due = False
        if not self._team.chief:
            return
        self._model.weights = self._step.weights()
        measured = self._measured and self._measured[0] == self._done
        state = {
            "step": step_state,
            "progress": asdict(self._progress),
            "window": self._window.state(),
            "losses": list(self._watch.losses),
            "validation": (self._validation_checksum, self._measured[1]) if measured else None,
        }
        model = replace(self._model, weights=dict(self._model.weights))
        self._saver.save(self._done, model, self._step.optimizer_state(), state)

    def _sample(self) -> None:
        texts = self._generator.generate(self._sampling)
        self._journal.samples(self._done, texts)
        log.info("step %d: samples", self._done)
        for text in texts:
            log.info("  %s", " ".join(text.split()))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Ahead:
    """Makes the next batch while the last one is learned from."""

    def __init__(self, batches: Iterator[tuple[Batch, Place]]) -> None:
        self._batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: Future[tuple[Batch, Place]] = self._submit()

    def _submit(self) -> Future[tuple[Batch, Place]]:
        return self._thread.submit(next, self._batches)

    def next(self) -> tuple[Batch, Place]:
        """Return the next batch, and the place behind it."""
        batch = self._coming.result()
        self._coming = self._submit()
        return batch

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
