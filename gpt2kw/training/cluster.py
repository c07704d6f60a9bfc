"""Fine-tuning on the machines of a ray cluster.

Ray Train starts a process for each part of a batch, and all of them anew when one dies;
TensorFlow's collective operations add up their gradients. The driver, which the user
started, holds the run's lock and hears the user's signals; the chief, one of the
processes, writes the run's files. Between the two is a mailbox.
"""

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import ray
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    get_context,
)
from ray.train.tensorflow import TensorflowTrainer

from gpt2kw.errors import UserError
from gpt2kw.model.cores import usable_cores
from gpt2kw.model.runs import TOKENS_FOLDER, Checkpoint, Run
from gpt2kw.text.parallel import connected
from gpt2kw.training.options import FinetuneOptions
from gpt2kw.training.report import FinetuneReport
from gpt2kw.training.stopping import Stop, stop_on_signals

log = logging.getLogger(__name__)

_RESTARTS = 5
"""How often all processes are started anew. One that dies each time would never end."""
_PAUSE = 0.5
"""Seconds between looks into the mailbox."""


@dataclass(frozen=True)
class _Task:
    """What a process is to do."""

    options: FinetuneOptions
    settings: dict[str, Any]
    checkpoint: Checkpoint | None
    folder: Path
    """Where the driver runs, which relative paths begin from."""
    mailbox: Any


class _Mailbox:
    """An actor, between the driver and the chief."""

    def __init__(self) -> None:
        self._said: list[tuple[int, str]] = []
        self._steps: tuple[int, str] | None = None
        self._asked: tuple[int, bool] = (0, False)
        self._begun = False
        self._report: FinetuneReport | None = None

    def say(self, level: int, message: str) -> None:
        """Take a message for the user."""
        self._said.append((level, message))

    def begin(self) -> None:
        """Know that the run's directory is that of this call."""
        self._begun = True

    def has_begun(self) -> bool:
        """Whether an earlier chief began the run."""
        return self._begun

    def finish(self, report: FinetuneReport) -> None:
        """Take the report of a run that has come to its end."""
        self._report = report

    def report(self) -> FinetuneReport | None:
        """Return the report, if there is one."""
        return self._report

    def from_chief(self, steps: tuple[int, str]) -> tuple[int, bool]:
        """Take the steps done and a word about the last; return the signal, and if it is late."""
        self._steps = steps
        return self._asked

    def from_driver(
        self, asked: tuple[int, bool]
    ) -> tuple[list[tuple[int, str]], tuple[int, str] | None]:
        """Take what the chief is to know; return what it said, and its steps if it has begun."""
        self._asked = asked
        said, self._said = self._said, []
        return said, self._steps


# The driver's side.


def finetune_on_cluster(
    options: FinetuneOptions,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None,
    progress: bool,
) -> FinetuneReport:
    """Fine-tune on a cluster's machines; the caller holds the run's lock.

    Time counts from here, so that it includes the start of processes.

    Raises:
        UserError: the cluster can't be reached or is too small, or what `finetune` raises.
    """
    _prepare(options, checkpoint)
    with (
        connected(options.address),
        tempfile.TemporaryDirectory() as bookkeeping,
    ):
        scaling = _scaling(options.workers)
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        trainer = TensorflowTrainer(
            _work,
            train_loop_config={"task": _Task(options, settings, checkpoint, Path.cwd(), mailbox)},
            scaling_config=scaling,
            run_config=RunConfig(
                name=options.run_name,
                # Of ray, which needs it nowhere but here: checkpoints are the run's own.
                storage_path=bookkeeping,
                failure_config=FailureConfig(max_failures=_RESTARTS),
                callbacks=[_OnFailure(mailbox)],
            ),
        )
        try:
            return _watched(trainer, mailbox, options, checkpoint, progress)
        except (TrainingFailedError, ray.exceptions.RayError) as failure:
            raise _as_user_error(failure) from failure
        finally:
            # If this is not the end, processes take it for a wish to stop.
            ray.kill(mailbox)


def _prepare(options: FinetuneOptions, checkpoint: Checkpoint | None) -> None:
    """Download the model and make tokens of the texts, which each process would do else."""
    from gpt2kw.training.corpus import checksum, open_corpus
    from gpt2kw.training.loop import first_model

    model = checkpoint.load_model() if checkpoint else first_model(options)
    for text in (options.text, options.validation_text if options.validate_every else None):
        if text:
            open_corpus(text, checksum(text), model.tokenizer, model.context, TOKENS_FOLDER)


def _scaling(workers: int) -> ScalingConfig:
    """Return how many processes there are to be, on what; one for each GPU or else machine."""
    there = ray.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    machines = sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())
    most = min(gpus, cores) if gpus else cores
    if not workers <= most:
        kind = "GPUs" if gpus else "cores"
        raise UserError(f"--workers is {workers}", f"ray has {most} {kind}, give at most that")
    return ScalingConfig(
        num_workers=workers or min(most, gpus or machines),
        use_gpu=bool(gpus),
        placement_strategy="PACK" if gpus else "SPREAD",
    )


class _OnFailure(UserCallback):
    """Says that a process failed; ends the run where starting anew would not help."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a process's `UserError`, which Ray Train then raises in the driver."""
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error
        reason = _reason(next(iter(worker_exceptions.values())))
        message = f"a process failed ({reason}): all start anew from the newest checkpoint"
        self._mailbox.say.remote(logging.WARNING, message)


def _watched(
    trainer: TensorflowTrainer,
    mailbox: Any,
    options: FinetuneOptions,
    checkpoint: Checkpoint | None,
    progress: bool,
) -> FinetuneReport:
    """Run the trainer to its end; pass on what the chief says, and signals to it."""
    from gpt2kw.training.loop import progress_bar

    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as failure:
            failures.append(failure)

    # Not in the main thread, where ray would set its own handler of Ctrl-C.
    thread = threading.Thread(target=fit, name="ray train", daemon=True)
    with (
        stop_on_signals(options.max_minutes) as stop,
        progress_bar(options, checkpoint, progress) as bar,
    ):
        thread.start()
        while running := thread.is_alive():
            thread.join(_PAUSE)
            said, steps = ray.get(mailbox.from_driver.remote((stop.signal, stop.late)))
            for level, message in said:
                log.log(level, "%s", message)
            if steps:
                bar.n = steps[0]
                bar.set_postfix_str(steps[1])
            elif running and stop:
                # There is nothing to save, and nobody who would stop.
                done = checkpoint.step if checkpoint else 0
                ended_by = "signal" if stop.signal else "minutes"
                run = Run.named(options.run_name).folder
                return FinetuneReport(run, done, ended_by, stop.signal)
    if failures:
        raise failures[0]
    return ray.get(mailbox.report.remote())


def _as_user_error(failure: BaseException) -> UserError:
    cause = _cause(failure)
    if isinstance(cause, UserError):
        return cause
    return UserError(
        f"a process failed: {_reason(failure)}",
        "see ray's logs in /tmp/ray/session_latest/logs on the cluster's machines",
    )


def _cause(error: BaseException) -> BaseException:
    """Return what lies in the errors that Ray Train makes of an error."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = next(iter(failures.values()), None)
    inner = inner or getattr(error, "controller_failure", None)
    inner = inner or getattr(error, "health_check_failure", None)
    return _cause(inner) if inner else error


def _reason(error: BaseException) -> str:
    cause = _cause(error)
    said = str(cause).strip()
    if isinstance(cause, ray.exceptions.RayError):
        # The lines behind the first are ray's names for things.
        said = said.partition("\n")[0]
    return shorten(f"{type(cause).__name__}: {said}", 200, placeholder=" ...")


# The side of the processes, whose imports of TensorFlow the driver's helpers don't need.


def _work(config: dict[str, Any]) -> None:
    """Do a process's part; this runs in each of them."""
    task: _Task = config["task"]
    context = get_context()
    chief = context.get_world_rank() == 0
    _go_to(task)
    with _line_to_driver(task.mailbox, chief) as (stop, bar):
        report = _train(task, context, chief, stop, bar)
    if chief:
        ray.get(task.mailbox.finish.remote(report))


def _go_to(task: _Task) -> None:
    lock = Run.named(task.options.run_name).lock_file
    try:
        os.chdir(task.folder)
        shared = lock.exists()
    except OSError:
        shared = False
    if not shared:
        raise UserError(
            f"{socket.gethostname()} does not see {task.folder / lock.parent}",
            "run finetune in a folder that all machines of the cluster share",
        )


def _train(task: _Task, context: Any, chief: bool, stop: Stop, bar: Any) -> FinetuneReport:
    from gpt2kw.model.backend import choose_precision, tf
    from gpt2kw.training.loop import start_training
    from gpt2kw.training.team import Team

    # Processes of a machine would each use all of its cores.
    cores = max(1, usable_cores() // context.get_local_world_size())
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    # Before any other operation, for TensorFlow sets up its devices only once.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    team = Team(strategy, processes=context.get_world_size(), chief=chief)

    options, checkpoint = task.options, task.checkpoint
    precision = choose_precision(options.precision)
    if team.of_chief(precision.as_datatype_enum) != precision.as_datatype_enum:
        raise UserError("the machines' best precisions differ", "set --precision")
    begun = chief and ray.get(task.mailbox.has_begun.remote())
    if team.of_chief(begun):
        # After a failure: what was to be restored at first is behind.
        run = Run.named(options.run_name)
        steps = [c.step for c in run.checkpoints()] if chief else []
        step = team.of_chief(max(steps, default=-1))
        checkpoint = run.checkpoint(step) if step >= 0 else None
        options = replace(options, restore_from="latest")
    training = start_training(options, task.settings, checkpoint, team)
    if chief:
        ray.get(task.mailbox.begin.remote())
        log.info("%d processes train together", context.get_world_size())
    return training.run_to_end(stop, bar)


class _Bar:
    """Takes what a progress bar does, for the driver to show."""

    def __init__(self) -> None:
        self.n = 0
        self.said = ""

    def update(self) -> None:
        """Count a step."""
        self.n += 1

    def refresh(self) -> None:
        """Do nothing: the driver looks when it likes."""

    def set_postfix_str(self, said: str) -> None:
        """Take a word about the last steps."""
        self.said = said


class _ToDriver(logging.Handler):
    """Sends messages to the mailbox."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__()
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self._mailbox.say.remote(record.levelno, self.format(record))


@contextmanager
def _line_to_driver(mailbox: Any, chief: bool) -> Iterator[tuple[Stop, _Bar]]:
    """Yield what the driver asks of the chief, and a bar that it sees; others do without."""
    stop, bar = Stop(), _Bar()
    if not chief:
        yield stop, bar
        return
    over = threading.Event()

    def exchange() -> None:
        while not over.wait(_PAUSE):
            try:
                stop.signal, late = ray.get(mailbox.from_chief.remote((bar.n, bar.said)))
            except ray.exceptions.RayError:
                # The driver is gone.
                late = True
            if late:
                stop.minutes = 0.0

    logger = logging.getLogger("gpt2kw")
    handler = _ToDriver(mailbox)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    thread = threading.Thread(target=exchange, name="driver", daemon=True)
    thread.start()
    try:
        yield stop, bar
    finally:
        over.set()
        thread.join()
        logger.removeHandler(handler)
