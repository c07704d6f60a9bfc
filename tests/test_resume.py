"""Going on where a run stopped: exactly, from what is whole, and with which changes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RUN, metrics, run_settings, steps_kept
from safetensors.numpy import load_file

from gpt2kw import Generator, finetune
from gpt2kw.errors import UserError
from gpt2kw.model.runs import Run
from gpt2kw.text.title_index import TitleIndex
from gpt2kw.training.window import Window


def everything(run):
    """The arrays of the last checkpoint, and all numbers that were written down but speeds."""
    folder = Path("checkpoint") / run
    arrays = load_file(folder / "ckpt-20/model.safetensors")
    arrays |= load_file(folder / "ckpt-20/optimizer.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    changing = ("tokens_per_second", "input_wait")
    return arrays, [{k: v for k, v in line.items() if k not in changing} for line in lines]


def train_and_interrupt(settings):
    """Leave a whole run, and what a run leaves that is killed before step 14, in a window."""
    finetune(**settings | {"save_every": 7, "keep": 9})
    shutil.copytree(RUN, RUN.with_name("whole"))
    for checkpoint in Run(RUN).checkpoints():
        if checkpoint.step > 7:
            shutil.rmtree(checkpoint.folder)
    assert steps_kept() == [7]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(settings, precision):
    settings |= {"dropout": 0.1, "category_dropout": 0.3, "precision": precision}
    train_and_interrupt(settings)
    finetune(**settings)
    arrays, numbers = everything("run1")
    for name, array in everything("whole")[0].items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    assert numbers == everything("whole")[1]


@pytest.fixture(scope="module")
def interrupted_run(training_text, tiny_model, tmp_path_factory):
    """A folder in which a run of `settings` was interrupted, with a whole one beside it."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_and_interrupt(run_settings(training_text, tiny_model))
    return folder


@pytest.mark.parametrize("forgotten", ["optimizer", "place", "window"])
def test_what_a_checkpoint_holds_is_needed(settings, interrupted_run, monkeypatch, forgotten):
    """The comparison above would notice each of these."""
    from gpt2kw.training import loop
    from gpt2kw.training.step import TrainStep

    shutil.copytree(interrupted_run / "checkpoint", "checkpoint")
    if forgotten == "optimizer":
        monkeypatch.setattr(TrainStep, "restore", lambda *_: None)
    elif forgotten == "place":
        monkeypatch.setattr(loop._Progress, "of", lambda _: loop._Progress())
    else:
        monkeypatch.setattr(loop, "Window", lambda **_: Window())
    finetune(**settings)
    (arrays, numbers), (wanted, whole) = everything("run1"), everything("whole")
    same = all(np.array_equal(wanted[name], arrays[name]) for name in wanted)
    assert not (same and numbers == whole)


def test_a_run_that_is_done_does_nothing(trained, caplog):
    before = (RUN / "metrics.jsonl").read_bytes()
    with caplog.at_level("INFO", "gpt2kw"):
        report = finetune(**trained)
    assert report.step == 20
    assert report.loss is None
    assert "at step 20 already: raise --steps" in caplog.text
    assert (RUN / "metrics.jsonl").read_bytes() == before


def test_fresh_begins_anew_and_sets_the_old_run_aside(trained):
    finetune(**trained | {"restore_from": "fresh", "steps": 10})
    assert steps_kept() == [10]
    assert (RUN.with_name("run1.1") / "ckpt-20").is_dir()
    assert len(TitleIndex.open(RUN / "titles")) == 48


def test_an_older_checkpoint_can_be_gone_back_to(trained):
    finetune(**trained | {"restore_from": str(RUN / "ckpt-10"), "steps": 15})
    assert steps_kept() == [10, 15]
    assert (RUN / "ckpt-20.1").is_dir()
    assert list(metrics("loss")) == [10, 15]


def test_metrics_of_steps_that_will_be_done_again_are_forgotten(trained):
    shutil.rmtree(RUN / "ckpt-20")
    with open(RUN / "metrics.jsonl", "a") as file:
        file.write('{"step": 2')
    finetune(**trained)
    lines = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 10, 20, 20]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_byte, cut, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_offered(trained, damage, name):
    damage(RUN / "ckpt-20" / name)
    with pytest.raises(UserError, match=rf"ckpt-20 is damaged \({name}.*ckpt-10"):
        finetune(**trained | {"steps": 25})
    with pytest.raises(UserError, match=r"damaged .*--restore-from .*ckpt-10"):
        Generator.load("run1")
    assert (RUN / "ckpt-10").is_dir()


def test_a_run_from_another_model_is_refused(trained):
    with pytest.raises(UserError, match="was started from --model .*, not new"):
        finetune(**trained | {"model": "new", "steps": 30})


def test_a_half_written_checkpoint_is_not_one(trained):
    (RUN / ".ckpt-30.draft").mkdir()
    assert Run(RUN).latest().step == 20


@pytest.mark.parametrize("path", ["checkpoint/run2/ckpt-10", "nothing"])
def test_going_back_to_what_is_no_checkpoint_of_the_run_is_refused(trained, path):
    shutil.copytree(RUN, RUN.with_name("run2"))
    with pytest.raises(UserError, match="no checkpoint of checkpoint/run1.*use --model"):
        finetune(**trained | {"restore_from": path})


def test_nothing_is_set_aside_before_all_options_are_known_to_work(trained):
    with pytest.raises(UserError, match="there is no model folder"):
        finetune(**trained | {"restore_from": "fresh", "model": "models/typo"})
    with pytest.raises(UserError, match="was started from"):
        finetune(**trained | {"restore_from": str(RUN / "ckpt-10"), "model": "new"})
    assert steps_kept() == [10, 20]


def test_settings_that_change_on_the_way_are_said(trained, caplog):
    with caplog.at_level("INFO", "gpt2kw"):
        finetune(**trained | {"steps": 22, "learning_rate": 0.02})
    assert "changed since the run began: --steps 20 is now 22, --learning-rate 0.01" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 3), ("batch_size", 4), ("category_dropout", 0.1), ("loss_on", "text")],
)
def test_settings_that_make_it_another_run_are_refused(trained, name, value):
    option = name.replace("_", "-")
    message = f"was started from --{option} {trained.get(name, '.*')}, not {value}; .*--model"
    with pytest.raises(UserError, match=message):
        finetune(**trained | {"steps": 22, name: value})


def test_a_setting_that_is_newer_than_the_run_was_as_by_default(trained):
    settings = json.loads((RUN / "run.json").read_text())
    del settings["only_train_attention"]
    (RUN / "run.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="--only-train-attention False, not True"):
        finetune(**trained | {"steps": 22, "only_train_attention": True})
    assert finetune(**trained | {"steps": 21}).step == 21


def test_another_text_is_another_run(trained, training_text, here):
    other = here / "other.txt"
    other.write_text(training_text.read_text() + training_text.read_text())
    with pytest.raises(UserError, match="was started from another text"):
        finetune(**trained | {"steps": 22, "text": other})


def test_tensorboard_forgets_what_is_done_again(trained):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    shutil.rmtree(RUN / "ckpt-20")
    finetune(**trained)
    events = EventAccumulator(str(RUN / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Tensors("loss")] == [10, 20]
