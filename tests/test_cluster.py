"""Fine-tuning on a ray cluster: two processes of this machine learn what one does."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from conftest import assert_one_error_line, run_command

from gpt2kw import finetune
from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.model.runs import Run
from gpt2kw.training import corpus
from gpt2kw.training.options import FinetuneOptions

RUN = Path("checkpoint/run1")


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        # Else a death, and the end of a run, is noticed two seconds later.
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def _settings(training_text, tiny_model):
    return {
        "text": training_text,
        "model": str(tiny_model),
        "steps": 60,
        # An odd number of rows, so that the parts of a batch are not alike.
        "batch_size": 30,
        "learning_rate": 0.01,
        "warmup_steps": 10,
        # The same for any number of steps.
        "schedule": "constant",
        "dropout": 0.0,
        "save_every": 10,
        "validate_every": 20,
        "sample_every": 60,
        "precision": "float32",
    }


@pytest.fixture(scope="module")
def losses_of_one(training_text, tiny_model, tmp_path_factory):
    """The losses by step that one process reaches with `settings`."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finetune(**_settings(training_text, tiny_model))
        return losses()


@pytest.fixture
def settings(here, training_text, tiny_model):
    """Options for two processes."""
    return _settings(training_text, tiny_model) | {"address": "local", "workers": 2}


def losses():
    lines = map(json.loads, (RUN / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in lines]


def approximately(losses):
    return [(step, pytest.approx(loss, rel=1e-4)) for step, loss in losses]


def in_turn(*plan):
    """Do each action of `plan` once the run here has written down the step that it comes with."""
    metrics = Path.cwd() / RUN / "metrics.jsonl"

    def watch():
        deadline = time.monotonic() + 120
        for step, action in plan:
            while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def worker_processes():
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.cmdline()[0].startswith("ray::RayTrainWorker")]


def kill_the_chief():
    for process in worker_processes():
        if any(file.path.endswith("metrics.jsonl") for file in process.open_files()):
            process.kill()


def test_two_processes_reach_the_losses_of_one(settings, losses_of_one, here):
    report = finetune(**settings)
    assert losses() == approximately(losses_of_one)
    assert report.step == 60
    assert report.ended_by == "steps"
    assert report.best == (60, losses()[-1][1])
    assert [c.step for c in Run(RUN).checkpoints()] == [40, 50, 60]
    assert (RUN / "samples/60.txt").exists()
    assert (RUN / "loss.png").exists()
    # One process writes, and nothing is left over beside it.
    assert len(list((RUN / "tensorboard").iterdir())) == 1
    assert {path.name for path in here.iterdir()} == {"checkpoint"}
    # There is nothing left to do, for which no process is started.
    assert finetune(**settings).tokens == 0


def test_a_killed_process_costs_a_few_steps_and_a_signal_to_the_driver_ends_all(
    settings, losses_of_one, caplog
):
    (RUN / "ckpt-99").mkdir(parents=True)
    watching = in_turn((20, kill_the_chief), (30, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with caplog.at_level("INFO", "gpt2kw"):
        report = finetune(**settings | {"steps": 100_000, "restore_from": "fresh"})
    watching.join()
    assert "a process failed (ActorDiedError" in caplog.text
    assert "going on from checkpoint/run1/ckpt-" in caplog.text
    assert (report.ended_by, report.signal) == ("signal", signal.SIGINT)
    assert 30 <= report.step < 100_000
    assert Run(RUN).latest().step == report.step
    both = min(len(losses()), len(losses_of_one))
    assert both >= 4
    assert losses()[:both] == approximately(losses_of_one[:both])
    # To begin afresh was asked for once, not for each start of the processes.
    assert [path.name for path in RUN.parent.glob("run1*")] == ["run1", "run1.1"]


def test_processes_learn_the_same_in_float16_with_one_loss_scale(settings, losses_of_one):
    finetune(**settings | {"precision": "float16", "steps": 30})
    state = json.loads((RUN / "ckpt-30/state.json").read_text())["training"]["step"]
    assert state["steps_at_scale"] == 30
    # The rate does not depend on the number of steps, but a last step has its validation loss.
    assert losses()[:4] == [(s, pytest.approx(loss, rel=0.01)) for s, loss in losses_of_one[:4]]


def test_all_processes_stop_when_validation_gets_no_better(settings):
    rising = {"learning_rate": 0.5, "warmup_steps": 0, "validate_every": 1, "spike": 0.0}
    report = finetune(**settings | rising | {"patience": 2, "sample_every": 0})
    assert report.ended_by == "patience"
    # They learn of it from the chief, a step later.
    assert report.step - report.best[0] in (2, 3)
    assert Run(RUN).latest().step == report.step


def test_processes_go_back_together_when_the_loss_jumps_and_give_up_together(settings, caplog):
    quiet = {"validate_every": 0, "sample_every": 0, "learning_rate": 0.001, "save_every": 100}
    alone = {"address": None, "workers": 0}
    finetune(**settings | quiet | alone | {"steps": 100})
    wild = quiet | {"learning_rate": 0.9, "steps": 200, "spike": 0.5}
    with caplog.at_level("WARNING", "gpt2kw"):
        with pytest.raises(UserError, match=r"the loss .* at step 1\d0, after going back 3 times"):
            finetune(**settings | wild)
    assert caplog.text.count("going on from checkpoint/run1/ckpt-100, past the documents") == 3
    assert Run(RUN).latest().step == 100


def test_an_error_of_a_process_is_raised_once_as_it_is(settings):
    with pytest.raises(UserError, match="only punctuation"):
        finetune(**settings | {"sample_keywords": "!!!", "workers": 1})
    assert not RUN.exists()


def test_a_cluster_that_is_too_small_is_an_error(settings):
    with pytest.raises(UserError, match="--workers is 9; ray has 4 cores"):
        finetune(**settings | {"workers": 9})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_unreachable_cluster_is_one_line(tmp_path, training_text, tiny_model, address):
    call = ("finetune", training_text, "--model", tiny_model, "--address", address)
    assert_one_error_line(
        run_command(*call, cwd=tmp_path), f"can't reach ray at {address}", "refused"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": -1}, "--workers is -1; give 0 to"),
        ({"workers": 2}, "--workers is 2; give --address with it"),
        ({"address": "auto", "devices": ("GPU:0",)}, "--devices is .*without --address"),
        ({"address": "auto", "find_learning_rate": True}, "--find-learning-rate is True"),
    ],
)
def test_options_that_do_not_go_together_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        FinetuneOptions(**({"text": Path("t.txt")} | fields))


def test_a_machine_that_does_not_see_the_run_says_so(here, training_text, monkeypatch):
    from gpt2kw.training.cluster import _go_to, _Task

    task = _Task(FinetuneOptions(text=training_text), {}, None, here, None)
    for folder in (here, here / "elsewhere"):
        with pytest.raises(UserError, match="does not see .*; run finetune in a folder that all"):
            _go_to(replace(task, folder=folder))
    with Run.named("run1").lock():
        _go_to(task)


def test_tokens_that_two_processes_make_at_once_are_kept_once(
    here, training_text, tiny_model, monkeypatch
):
    model = Model.load(tiny_model)
    tokenise = corpus._tokenise
    made = []

    def open_corpus():
        return corpus.open_corpus(training_text, "1", model.tokenizer, 64, here / "tokens")

    def late(*arguments):
        monkeypatch.setattr(corpus, "_tokenise", tokenise)
        open_corpus()
        made.extend((here / "tokens").glob("*/about.json"))
        made.append(made[0].stat().st_ino)
        tokenise(*arguments)

    monkeypatch.setattr(corpus, "_tokenise", late)
    assert len(open_corpus()) == 48
    assert made[0].stat().st_ino == made[1]
    assert len(list((here / "tokens").iterdir())) == 1
