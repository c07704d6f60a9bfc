"""Fine-tuning in this process: steps, losses, checkpoints, refusals."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RUN, metrics, steps_kept
from safetensors.numpy import save_file
from tensorboard.summary.writer.record_writer import RecordWriter

from gpt2kw import Generator, finetune
from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.model.runs import Run
from gpt2kw.text.format import Record, render
from gpt2kw.text.tally import Tally
from gpt2kw.text.title_index import TitleIndex
from gpt2kw.training.corpus import read_records
from gpt2kw.training.journal import Journal
from gpt2kw.training.options import FinetuneOptions
from gpt2kw.training.resume import TEXT_CHECKSUM
from gpt2kw.training.team import Team
from gpt2kw.training.titles import index_titles


def test_a_run_learns_its_text_and_generates_from_it(settings):
    report = finetune(**settings | {"steps": 150, "save_every": 150})
    losses = metrics("loss")
    assert losses[150] < losses[10] / 2
    assert report.validation_loss < 1.5
    titles = Generator.load("run1").generate(
        keywords="cat sleeps", category="cats", nsamples=4, top_k=1
    )
    assert all("cat" in title.lower() for title in titles)


def test_validation_loss_is_the_mean_over_all_tokens(settings, training_text):
    from gpt2kw.model.keras import tf, to_keras

    report = finetune(**settings)
    model = Model.load(RUN / "ckpt-20")
    keras_model = to_keras(model)
    nats = tokens = 0
    validation = training_text.with_name("titles.val.txt")
    for ids in model.tokenizer.encode(list(read_records(validation, Tally()))):
        logits = keras_model(tf.constant([ids])).logits[0, :-1]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids[1:], logits)
        nats += float(tf.reduce_sum(losses))
        tokens += len(ids) - 1
    assert report.validation_loss == pytest.approx(nats / tokens, rel=1e-4)
    assert metrics("validation_perplexity")[20] == pytest.approx(math.exp(nats / tokens), rel=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_follows_float32(trained, precision):
    exact = metrics("validation_loss")[20]
    reduced = finetune(**trained | {"run_name": "reduced", "precision": precision})
    assert reduced.validation_loss == pytest.approx(exact, rel=0.02)


def test_float16_s_loss_scale_falls_on_overflow_and_rises_after_calm(settings, monkeypatch):
    from gpt2kw.training import step

    monkeypatch.setattr(step, "_LOSS_SCALE", 2.0**40)
    monkeypatch.setattr(step, "_LOSS_SCALE_GROWS_AFTER", 5)
    options = {"precision": "float16", "spike": 0.0, "on_divergence": "continue"}
    report = finetune(**settings | options | {"steps": 60, "save_every": 60})
    state = json.loads((RUN / "ckpt-60/state.json").read_text())["training"]["step"]
    assert 1 < state["loss_scale"] < 2.0**40
    assert report.validation_loss < 5.5


def test_a_run_describes_itself(trained):
    assert json.loads((RUN / "run.json").read_text())["learning_rate"] == 0.01
    assert list(metrics("loss")) == [10, 20]
    assert list(metrics("validation_loss")) == [10, 20]
    assert metrics("tokens")[20] > metrics("tokens")[10] > 0
    assert any((RUN / "tensorboard").iterdir())
    assert json.loads((RUN / "ckpt-20/gpt2kw.json").read_text())["categories"][0] == "cats"


def test_samples_are_written_down(settings):
    finetune(**settings | {"sample_every": 20, "sample_keywords": "cat"})
    assert len((RUN / "samples/20.txt").read_text().splitlines()) == 4


def test_only_the_newest_checkpoints_are_kept(settings):
    finetune(**settings | {"save_every": 4, "keep": 2, "validate_every": 0})
    assert steps_kept() == [16, 20]


def test_the_best_checkpoint_is_kept_and_used(settings):
    # So high a rate that the validation loss gets worse again.
    options = {"learning_rate": 0.5, "validate_every": 2, "save_every": 2, "keep": 1}
    report = finetune(**settings | options | {"spike": 0.0, "schedule": "constant"})
    losses = metrics("validation_loss")
    best = min(losses, key=losses.get)
    assert report.best == (best, losses[best])
    assert best < 20
    assert steps_kept() == [best, 20]
    assert Run(RUN).best().step == best


def test_a_run_has_an_index_of_its_titles_which_is_made_once(trained, monkeypatch):
    index = TitleIndex.open(RUN / "titles")
    assert index.find_copy("the CAT sleeps on the warm keyboard: 3").rule == "same"
    assert index.find_copy("The dog sleeps below a warm keyboard") is None
    with monkeypatch.context() as patch:
        patch.setattr(TitleIndex, "build", None)
        finetune(**trained)
        finetune(**trained | {"steps": 21})
    shutil.rmtree(RUN / "titles")
    finetune(**trained | {"steps": 21})
    assert len(TitleIndex.open(RUN / "titles")) == len(index) == 48


def test_a_second_runs_index_has_the_titles_of_the_first_or_says_so(here, training_text, caplog):
    first, second = Run.named("first"), Run.named("second")
    other = here / "other.txt"
    other.write_text(render(Record(title="A heron stood on the ice all day")) + "\n")
    first.create({})
    second.create({})
    index_titles(first, {"text": training_text, TEXT_CHECKSUM: "1", "model": "mini"})
    for model in ("checkpoint/first", "checkpoint/first/ckpt-5"):
        index_titles(second, {"text": other, TEXT_CHECKSUM: "2", "model": model})
        index = TitleIndex.open(second.titles_folder)
        assert len(index) == 49
        assert index.find_copy("A heron stood on the ice all day")
        assert index.find_copy("My dog learned to open the fridge 5")
    assert caplog.text == ""
    shutil.rmtree(first.titles_folder)
    index_titles(second, {"text": other, TEXT_CHECKSUM: "2", "model": "checkpoint/first"})
    assert len(TitleIndex.open(second.titles_folder)) == 1
    assert "copies of what checkpoint/first learnt from before won't be noticed" in caplog.text


def test_a_checkpoint_is_a_model_folder_to_start_from(settings):
    first = finetune(**settings)
    second = finetune(**settings | {"model": str(RUN / "ckpt-20"), "run_name": "second"})
    assert second.validation_loss < first.validation_loss


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no usable document"),
        ("just text", "no usable document"),
        ("<|startoftext|>~@cut off", "no usable document"),
        ("<|startoftext|>~^only keywords<|endoftext|>", "no usable document"),
    ],
)
def test_text_without_a_usable_document_is_an_error(settings, here, content, message):
    (here / "bad.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        finetune(**settings | {"text": here / "bad.txt"})
    assert not RUN.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", -1),
        ("learning_rate", -0.1),
        ("dropout", 1.0),
        ("save_every", 0),
        ("keep", 0),
        ("seed", -1),
    ],
)
def test_options_out_of_range_are_named_with_their_value(field, value):
    option = field.replace("_", "-")
    with pytest.raises(UserError, match=f"--{option} is {value}; give"):
        FinetuneOptions(**({"text": Path("t.txt")} | {field: value}))


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_run_names_are_plain(settings, name):
    with pytest.raises(UserError, match="--run-name is"):
        finetune(**settings | {"run_name": name})


def test_an_unknown_device_is_an_error(settings):
    with pytest.raises(UserError, match="--devices names 'GPU:7'; there are CPU:0"):
        finetune(**settings | {"devices": ("GPU:7",)})


def test_a_loss_that_is_no_number_ends_the_run_without_a_checkpoint(settings, tiny_model, here):
    broken = Model.load(tiny_model)
    broken.weights["transformer.ln_f.bias"][0] = math.nan
    (here / "broken").mkdir()
    broken.save(here / "broken")
    with pytest.raises(UserError, match="the loss is nan at step 10; lower --learning-rate"):
        finetune(**settings | {"model": str(here / "broken"), "save_every": 10})
    assert Run(RUN).checkpoints() == []


def test_decay_shrinks_weights_but_no_biases_and_norms():
    from gpt2kw.model.backend import tf
    from gpt2kw.training.optimizer import AdamW

    variables = [tf.Variable([1.0], name=f"layer/{part}") for part in ("weight", "bias", "gamma")]
    decay = AdamW(0.1, weight_decay=0.5)
    decay.apply_if(tf.constant(True), [(tf.zeros([1]), v) for v in variables])
    assert [float(variable[0]) for variable in variables] == pytest.approx([0.95, 1.0, 1.0])


def test_sample_keywords_that_can_t_be_used_end_the_run_before_it_begins(settings):
    with pytest.raises(UserError, match="only punctuation"):
        finetune(**settings | {"sample_every": 10, "sample_keywords": "!!!"})
    assert not RUN.exists()


def test_a_run_stops_when_its_time_is_over_and_goes_on(settings):
    report = finetune(**settings | {"max_minutes": 1e-6})
    assert (report.ended_by, report.step) == ("minutes", 0)
    assert finetune(**settings).step == 20


def test_a_run_stops_when_validation_gets_no_better(settings):
    options = {"learning_rate": 0.5, "validate_every": 1, "patience": 2, "spike": 0.0}
    report = finetune(**settings | options)
    assert report.ended_by == "patience"
    assert report.best[0] == report.step - 2
    assert finetune(**settings | options).step == report.step


def test_one_step_that_is_no_number_changes_nothing_and_is_said(settings, monkeypatch, caplog):
    from gpt2kw.training.step import TrainStep

    train = TrainStep.train

    def overflow(self, batch, step):
        if step != 3:
            return train(self, batch, step)
        before = self.weights()
        self.loss_scale = math.inf
        result = train(self, batch, step)
        self.loss_scale = 1.0
        for name, weight in self.weights().items():
            np.testing.assert_array_equal(weight, before[name])
        return result

    monkeypatch.setattr(TrainStep, "train", overflow)
    with caplog.at_level("WARNING", "gpt2kw"):
        report = finetune(**settings)
    assert "step 10: 1 of the last 10 steps had a loss or gradient that is no number" in caplog.text
    assert report.step == 20
    assert math.isfinite(report.loss)


def spoil_from(step, monkeypatch):
    """Make each training step from `step` on lose its weights, once."""
    from gpt2kw.training.step import TrainStep

    train = TrainStep.train
    spoiled = []

    def spoil(self, batch, done):
        if done == step and not spoiled:
            spoiled.append(done)
            self.take_weights({name: weight * 9 for name, weight in self.weights().items()})
        return train(self, batch, done)

    monkeypatch.setattr(TrainStep, "train", spoil)


LONG = {"steps": 140, "save_every": 60, "validate_every": 0, "learning_rate": 0.001}


def test_a_jump_of_the_loss_leads_back_to_the_checkpoint_and_past_the_documents(
    settings, monkeypatch, caplog
):
    spoil_from(125, monkeypatch)
    with caplog.at_level("WARNING", "gpt2kw"):
        report = finetune(**settings | LONG)
    assert "step 130: the loss jumped from" in caplog.text
    assert "going on from checkpoint/run1/ckpt-120, past the documents since" in caplog.text
    losses = metrics("loss")
    assert report.step == 140
    assert list(losses) == list(range(10, 150, 10))
    assert losses[140] < losses[10]
    state = json.loads((RUN / "ckpt-140/state.json").read_text())["training"]["progress"]
    assert state["restores"] == 1
    # 150 batches were gone through, not 140: an epoch of these has 7.
    assert state["place"]["epoch"] == 21


def test_weights_after_a_jump_are_not_saved_before_a_report_has_seen_it(
    settings, monkeypatch, caplog
):
    spoil_from(122, monkeypatch)
    with caplog.at_level("WARNING", "gpt2kw"):
        report = finetune(**settings | LONG | {"save_every": 25, "keep": 1})
    assert "going on from checkpoint/run1/ckpt-100, past the documents since" in caplog.text
    assert caplog.text.count("the loss jumped") == 1
    assert report.saved
    assert steps_kept() == [140]


def test_a_run_that_stops_while_the_loss_jumps_keeps_the_weights_before(
    settings, monkeypatch, caplog
):
    spoil_from(122, monkeypatch)
    stops = iter([False] * 125 + [True] * 9)
    monkeypatch.setattr(Team, "agree", lambda self, stop: next(stops))
    with caplog.at_level("WARNING", "gpt2kw"):
        report = finetune(**settings | LONG)
    assert "so this is not saved; the newest checkpoint is checkpoint/run1/ckpt-120" in caplog.text
    assert not report.saved
    assert steps_kept() == [60, 120]


def test_a_checkpoint_that_was_gone_back_to_is_still_known_as_the_best(settings, monkeypatch):
    options = settings | LONG | {"validate_every": 60}
    first = finetune(**options | {"steps": 120})
    spoil_from(125, monkeypatch)
    finetune(**options | {"validate_every": 1000})
    loss = pytest.approx(first.validation_loss)
    assert Run(RUN).checkpoint(120).validation[1] == loss


def test_losses_on_other_documents_are_not_compared(trained):
    report = finetune(**trained | {"steps": 30, "validation_documents": 2})
    assert report.best[0] == 30
    few, all_of_them = Run(RUN).checkpoint(30).validation, Run(RUN).checkpoint(20).validation
    assert few[0] == f"{all_of_them[0]} 2"


def test_a_jump_of_the_loss_can_end_the_run_or_be_gone_past(settings, monkeypatch, caplog):
    spoil_from(125, monkeypatch)
    with pytest.raises(UserError, match=r"jumped from .* at step 130; lower .*is checkpoint/run1"):
        finetune(**settings | LONG | {"on_divergence": "stop"})
    with caplog.at_level("WARNING", "gpt2kw"):
        finetune(**settings | LONG | {"on_divergence": "continue", "run_name": "on"})
    assert Run(RUN.with_name("on")).latest().step == 140


def test_a_run_is_trained_by_one_process_at_a_time(settings):
    with Run.named("run1").lock():
        with pytest.raises(UserError, match="another process is training checkpoint/run1"):
            finetune(**settings)


def test_a_checkpoint_that_can_t_be_written_ends_the_run_with_the_one_before(settings, monkeypatch):
    from gpt2kw.model import runs

    def full(arrays, path):
        if "draft" in str(path) and ".ckpt-20" in str(path):
            raise OSError(28, "No space left on device")
        save_file(arrays, path)

    monkeypatch.setattr(runs, "save_file", full)
    with pytest.raises(UserError, match="can't write .*ckpt-20: No space left"):
        finetune(**settings)
    assert steps_kept() == [10]
    assert not list(RUN.glob(".ckpt*"))


def test_after_a_checkpoint_that_could_not_be_written_the_next_is_tried(settings, monkeypatch):
    from gpt2kw.model import runs

    def full(arrays, path):
        if ".ckpt-10" in str(path):
            raise OSError(28, "No space left on device")
        save_file(arrays, path)

    monkeypatch.setattr(runs, "save_file", full)
    assert finetune(**settings).saved
    assert steps_kept() == [20]


def test_a_full_disk_behind_the_numbers_is_one_error(settings):
    run = Run.named("run1")
    run.create({})
    journal = Journal(run, 0)
    journal._board = RecordWriter(open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(UserError, match=r"can't write .*metrics\.jsonl: No space left on device"):
        journal.numbers(10, loss=1.0)
    journal.close()


def test_accumulating_parts_of_a_batch_is_the_same_step(settings):
    # Several rows, in parts that are not alike.
    settings |= {"batch_size": 30, "keyword_weight": 5.0}
    whole = finetune(**settings | {"run_name": "whole"})
    parts = finetune(**settings | {"accumulate": 3})
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.validation_loss == pytest.approx(whole.validation_loss, rel=1e-4)


def test_keywords_that_count_more_change_what_is_learned(settings):
    even = finetune(**settings | {"run_name": "even"})
    uneven = finetune(**settings | {"keyword_weight": 9.0})
    assert uneven.tokens == even.tokens
    assert uneven.validation_loss != pytest.approx(even.validation_loss, rel=1e-3)


def test_only_the_transformer_s_layers_and_the_marks_can_be_trained(settings, tiny_model):
    finetune(**settings | {"only_train_transformer_layers": True})
    before, after = Model.load(tiny_model), Model.load(RUN / "ckpt-20")
    changed = {n for n in before.weights if not np.array_equal(before.weights[n], after.weights[n])}
    wte = "transformer.wte.weight"
    assert {name for name in changed if ".h." not in name} == {wte}
    assert all(name in changed for name in before.weights if ".h." in name)
    rows = np.flatnonzero((before.weights[wte] != after.weights[wte]).any(axis=1))
    assert set(rows) <= set(before.tokenizer.mark_ids)


def test_only_attention_and_the_marks_can_be_trained(settings, tiny_model):
    finetune(**settings | {"only_train_attention": True})
    before, after = Model.load(tiny_model), Model.load(RUN / "ckpt-20")
    changed = {n for n in before.weights if not np.array_equal(before.weights[n], after.weights[n])}
    attention = {name for name in before.weights if ".attn." in name}
    wte = "transformer.wte.weight"
    assert changed == attention | {wte}
    rows = np.flatnonzero((before.weights[wte] != after.weights[wte]).any(axis=1))
    assert set(rows) <= set(before.tokenizer.mark_ids)


def test_a_learning_rate_is_found_that_learns(settings):
    from gpt2kw.training.rates import find_learning_rate

    report = find_learning_rate(**settings)
    assert 1e-4 < report.suggested < 0.1
    assert min(report.losses) < report.losses[0] - 1
    assert not RUN.exists()


def test_the_losses_are_drawn(trained):
    assert (RUN / "loss.png").read_bytes().startswith(b"\x89PNG")
