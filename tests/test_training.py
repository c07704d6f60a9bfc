"""Fine-tuning in this process: steps, losses, checkpoints, resuming, refusals."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt2kw import Generator, finetune
from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.model.runs import Run
from gpt2kw.text.format import Record, render
from gpt2kw.text.tally import Tally
from gpt2kw.training.documents import BatchOrder, TokenDocuments, drop_categories, read_records
from gpt2kw.training.options import FinetuneOptions

RUN = Path("checkpoint/run1")


@pytest.fixture
def settings(here, training_text, tiny_model):
    """Options of a run of a second or two."""
    return _settings(training_text, tiny_model)


def _settings(training_text, tiny_model):
    return {
        "text": training_text,
        "model": str(tiny_model),
        "steps": 20,
        "batch_size": 8,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "dropout": 0.0,
        "category_dropout": 0.0,
        "save_every": 10,
        "validate_every": 10,
        "sample_every": 0,
        "precision": "float32",
    }


@pytest.fixture(scope="module")
def run_of_20_steps(training_text, tiny_model, tmp_path_factory):
    """A folder in which `settings` were trained, for tests to copy."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finetune(**_settings(training_text, tiny_model))
    return folder


@pytest.fixture
def trained(settings, run_of_20_steps):
    """The same options, with their run done already."""
    shutil.copytree(run_of_20_steps / "checkpoint", "checkpoint")
    return settings


def metrics(key):
    lines = map(json.loads, (RUN / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[key] for line in lines if key in line}


def steps_kept():
    return [checkpoint.step for checkpoint in Run(RUN).checkpoints()]


def test_a_run_learns_its_text_and_generates_from_it(settings):
    report = finetune(**settings | {"steps": 150, "save_every": 150})
    losses = metrics("loss")
    assert losses[150] < losses[10] / 2
    assert report.validation_loss < 1.5
    titles = Generator.load("run1").generate(
        keywords="cat sleeps", category="cats", nsamples=4, top_k=1
    )
    assert all("cat" in title.lower() for title in titles)


def test_a_resumed_run_equals_an_undisturbed_one(settings):
    whole = finetune(**settings | {"run_name": "whole"})
    finetune(**settings | {"steps": 20, "save_every": 7})
    for checkpoint in Run(RUN).checkpoints():
        if checkpoint.step > 7:
            shutil.rmtree(checkpoint.folder)
    resumed = finetune(**settings)
    assert resumed.step == whole.step == 20
    assert steps_kept() == [7, 10, 20]
    a, b = (load_file(f"checkpoint/{name}/ckpt-20/model.safetensors") for name in ("whole", "run1"))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_each_document_is_seen_once_an_epoch_and_the_order_depends_on_the_step_alone():
    order = BatchOrder(np.arange(1, 104), 10, seed=3)
    epochs = [[order.numbers(step) for step in range(e * 11, e * 11 + 11)] for e in (0, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(103))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    late = BatchOrder(np.arange(1, 104), 10, seed=3)
    np.testing.assert_array_equal(late.numbers(15), epochs[1][4])


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


def test_bfloat16_follows_float32(settings):
    exact = finetune(**settings | {"run_name": "exact"})
    reduced = finetune(**settings | {"precision": "bfloat16"})
    assert reduced.validation_loss == pytest.approx(exact.validation_loss, rel=0.02)


def test_a_run_describes_itself(trained):
    assert json.loads((RUN / "run.json").read_text())["learning_rate"] == 0.01
    assert list(metrics("loss")) == [10, 20]
    assert list(metrics("validation_loss")) == [10, 20]
    assert metrics("tokens")[20] > metrics("tokens")[10] > 0
    assert any((RUN / "tensorboard").iterdir())
    assert json.loads((RUN / "ckpt-20/gpt2kw.json").read_text())["categories"][0] == "cats"


def test_samples_are_written_down(settings):
    finetune(**settings | {"sample_every": 20, "sample_keywords": "cat"})
    assert (RUN / "samples.txt").read_text().startswith("step 20\n")


def test_only_the_newest_checkpoints_are_kept(settings):
    finetune(**settings | {"save_every": 4, "keep": 2})
    assert steps_kept() == [16, 20]


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
    with pytest.raises(UserError, match="was started from --model .*, not mini"):
        finetune(**trained | {"model": "mini", "steps": 30})


def test_a_half_written_checkpoint_is_not_one(trained):
    (RUN / ".ckpt-30.draft").mkdir()
    assert Run(RUN).latest().step == 20


@pytest.mark.parametrize("path", ["checkpoint/run2/ckpt-10", "nothing"])
def test_going_back_to_what_is_no_checkpoint_of_the_run_is_refused(trained, path):
    shutil.copytree(RUN, RUN.with_name("run2"))
    with pytest.raises(UserError, match="no checkpoint of checkpoint/run1.*use --model"):
        finetune(**trained | {"restore_from": path})


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


def test_documents_that_are_not_used_or_cut_are_counted(tiny_model, tmp_path):
    tally = Tally()
    path = tmp_path / "t.txt"
    long = render(Record(title="word " * 100))
    path.write_text(f"{render(Record(title='a'))}\n{long}\n<|startoftext|>~@cut\n")
    found = list(read_records(path, tally))
    documents = TokenDocuments(found, Model.load(tiny_model).tokenizer, 64, tally)
    assert documents.lengths.tolist()[1] == 64
    assert tally.lines() == [
        "1 documents without an end mark, not used (document 3)",
        "1 documents cut to 64 tokens (document 2)",
    ]


def test_a_share_of_the_categories_is_dropped_and_the_rest_stays():
    before = [Record("cats", "", f"title {n}") for n in range(1000)]
    after = drop_categories(before, 0.2, 0)
    assert 150 < sum(record.category is None for record in after) < 250
    assert [record.title for record in after] == [record.title for record in before]
    assert drop_categories(before, 0.0, 0) == before


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
    with pytest.raises(UserError, match="the loss is nan at step 7; lower --learning-rate"):
        finetune(**settings | {"model": str(here / "broken"), "save_every": 7})
    assert Run(RUN).checkpoints() == []


def test_decay_shrinks_weights_but_no_biases_and_norms():
    from gpt2kw.model.backend import tf
    from gpt2kw.training.optimizer import AdamW

    variables = [tf.Variable([1.0], name=f"layer/{part}") for part in ("weight", "bias", "gamma")]
    AdamW(0.1, weight_decay=0.5).apply_gradients([(tf.zeros([1]), v) for v in variables])
    assert [float(variable[0]) for variable in variables] == pytest.approx([0.95, 1.0, 1.0])


def test_nothing_is_set_aside_before_all_options_are_known_to_work(trained):
    with pytest.raises(UserError, match="there is no model folder"):
        finetune(**trained | {"restore_from": "fresh", "model": "models/typo"})
    with pytest.raises(UserError, match="was started from"):
        finetune(**trained | {"restore_from": str(RUN / "ckpt-10"), "model": "mini"})
    assert steps_kept() == [10, 20]


def test_settings_that_change_the_order_of_documents_are_said(trained, caplog):
    with caplog.at_level("WARNING", "gpt2kw"):
        finetune(**trained | {"steps": 22, "batch_size": 4})
    assert "--batch-size is not what checkpoint/run1 was started with" in caplog.text
    assert "--seed" not in caplog.text
    assert "the text" not in caplog.text


def test_sample_keywords_that_can_t_be_used_end_the_run_before_it_begins(settings):
    with pytest.raises(UserError, match="only punctuation"):
        finetune(**settings | {"sample_every": 10, "sample_keywords": "!!!"})
    assert not RUN.exists()
