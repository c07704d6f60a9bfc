"""Exports: folders that gpt2kw, transformers and torch read, and the card in them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_error_line, run_command

from gpt2kw import UserError, export_model, finetune
from gpt2kw.model.folder import EMBEDDING, About, Model, SamplingDefaults
from gpt2kw.model.named import find_model
from gpt2kw.model.runs import Run
from gpt2kw.text.format import Record, prompt, render

SETTINGS = {"text": "/home/me/rap.txt", "model": "new", "batch_size": 8}
METRICS = """\
{"step": 10, "loss": 3.5, "tokens": 1200}
{"step": 10, "validation_loss": 3.25}
{"step": 20, "loss": 3.0, "tokens": 2400}
{"step": 20, "validation_loss": 3.5}
{"step": 30, "validation_loss": 1.0}
{"step": 30, "lo"""


@pytest.fixture
def model(tiny_model):
    model = Model.load(tiny_model)
    model.about = About(("east coast", "west"), ("category", "keywords", "title"))
    return model


@pytest.fixture
def rap(here, model):
    """A run with two checkpoints, the older one with other weights."""
    run = Run.named("rap")
    run.create(SETTINGS)
    run.metrics_file.write_text(METRICS)
    model.weights[EMBEDDING] += 1
    run.save(10, model, {}, {}, keep=2)
    model.weights[EMBEDDING] -= 1
    run.save(20, model, {}, {}, keep=2)
    return run


def embedding(folder):
    return Model.load(Path(folder)).weights[EMBEDDING]


def card(folder="out"):
    return Path(folder, "README.md").read_text("utf-8")


def head(folder="out"):
    import yaml

    return yaml.safe_load(card(folder).split("---\n")[1])


def test_an_export_has_the_weights_and_tokens_of_the_checkpoint(rap, model):
    report = export_model(run="rap", folder="out")
    assert report.checkpoint == Path("checkpoint/rap/ckpt-20")
    assert report.bytes == sum(path.stat().st_size for path in Path("out").iterdir())
    loaded = Model.load(find_model("out"))
    assert loaded.about == model.about
    assert loaded.config == model.config
    assert loaded.tokenizer.had_marks
    assert loaded.weights.keys() == model.weights.keys()
    for name, weight in Model.load(report.checkpoint).weights.items():
        np.testing.assert_array_equal(loaded.weights[name], weight)
    record = Record("cats", "cat", "The \u00e9 \U0001f408 ~@", "")
    assert list(loaded.tokenizer.encode([record])) == list(model.tokenizer.encode([record]))


def test_checkpoints_are_named_by_run_by_option_and_by_path(rap):
    calls = {
        "a": {"run": "rap"},
        "b": {"run": "checkpoint/rap"},
        "c": {"run": str(rap.folder.resolve())},
        "d": {"run": "rap", "checkpoint": "checkpoint/rap/ckpt-10"},
        "e": {"run": "checkpoint/rap/ckpt-10"},
        "f": {"run": str(rap.folder.resolve() / "ckpt-10")},
    }
    for folder, call in calls.items():
        export_model(folder=folder, **call)
    newest, older = embedding("checkpoint/rap/ckpt-20"), embedding("checkpoint/rap/ckpt-10")
    for folder in "abc":
        np.testing.assert_array_equal(embedding(folder), newest)
    for folder in "def":
        np.testing.assert_array_equal(embedding(folder), older)


ODD = [
    "Caf\u00e9 na\u00efve \u2014 \u201cquotes\u201d\u2026",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f408\u200d\u2b1b \U0001f469\U0001f3fd\u200d\U0001f680",
    "two\nlines\r\n and\ttabs  and   spaces ",
    " leading, e\u0301 combining, \u00a0 no-break, \ufeff mark",
    "lone ~ tilde, pipes | and <angles> and [MASK] <s> \\n",
    "\x00\x07 controls",
]


@pytest.mark.parametrize("text", ODD)
def test_transformers_tokenizer_agrees_on_odd_characters(rap, model, text):
    from transformers import AutoTokenizer

    export_model(run="rap", folder="out")
    theirs = AutoTokenizer.from_pretrained("out")
    record = Record("cats", "cat dog", text, text)
    (ids,) = model.tokenizer.encode([record])
    assert theirs(render(record))["input_ids"] == ids
    assert theirs.decode(ids) == render(record)
    assert theirs.eos_token_id == theirs.pad_token_id == model.tokenizer.end
    assert theirs.bos_token_id == model.tokenizer.start
    assert not set(model.tokenizer.mark_ids) & set(theirs("a", add_special_tokens=True).input_ids)


def test_configurations_say_what_transformers_asks_for(rap, model):
    from transformers import GenerationConfig, GPT2Config

    export_model(run="rap", folder="out", precision="bfloat16")
    config = GPT2Config.from_pretrained("out")
    tokenizer = model.tokenizer
    assert config.architectures == ["GPT2LMHeadModel"]
    assert str(json.loads(Path("out/config.json").read_text())["torch_dtype"]) == "bfloat16"
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.start, tokenizer.end)
    generation = GenerationConfig.from_pretrained("out")
    generation.validate()
    assert generation.do_sample
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.7, 40, 1.0)
    assert generation.eos_token_id == generation.pad_token_id == tokenizer.end
    allowed = set(range(model.config["vocab_size"])) - set(generation.suppress_tokens)
    contents = set(range(tokenizer.size)) - set(tokenizer.mark_ids)
    assert allowed == contents | {tokenizer.end, tokenizer.tag("body")}


def test_a_run_and_its_export_choose_tokens_as_the_model_they_began_with(settings, tiny_model):
    shutil.copytree(tiny_model, "calm")
    chosen = {"do_sample": True, "temperature": 0.4, "top_k": 7, "top_p": 0.9}
    Path("calm/generation_config.json").write_text(json.dumps(chosen))
    finetune(**settings | {"model": "calm", "steps": 2})
    export_model(run="run1", folder="out")
    assert Model.load(Path("out")).sampling == SamplingDefaults(0.4, 7, 0.9)
    export_model(run="run1", folder="warm", temperature=1.5, top_k=0)
    assert Model.load(Path("warm")).sampling == SamplingDefaults(1.5, 0, 0.9)
    with pytest.raises(UserError, match=r"--top-p is 2\.0"):
        export_model(run="run1", folder="other", top_p=2.0)


def test_the_card_tells_what_the_run_knows(rap):
    export_model(run="rap", folder="out")
    assert head() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "gpt2kw", "keywords"],
    }
    text = card()
    assert "began with random weights" in text
    assert "`rap.txt` for 20 steps of 8 documents, 2,400 tokens" in text
    assert "/home/me" not in text
    assert "best validation loss was 3.250 nats per token (perplexity 25.8), at step 10" in text
    assert "At step 20 it was 3.500" in text
    assert "    east coast\n    west\n" in text
    assert 'python -m gpt2kw.generate --model out --keywords "cats"' in text
    assert "python -m gpt2kw.finetune TEXT --model out" in text
    assert json.dumps(prompt(Record("east coast", "cats", ""))) in text
    assert "index of training titles" in text


def test_a_model_that_began_on_the_hub_names_it_also_over_two_runs(rap, model):
    rap.create(SETTINGS | {"model": "someone/small-gpt2"})
    rapper = Run.named("rapper")
    rapper.create(SETTINGS | {"model": "checkpoint/rap", "text": "one.txt"})
    rapper.save(5, model, {}, {}, keep=1)
    export_model(run="rapper", folder="out")
    assert head()["base_model"] == "someone/small-gpt2"
    assert "[someone/small-gpt2](https://huggingface.co/someone/small-gpt2)" in card()
    assert "from `rap.txt`, then from `one.txt` for 5 steps" in card()
    rap.create(SETTINGS | {"model": "checkpoint/rapper/ckpt-5"})
    export_model(run="rapper", folder="circle")
    assert "began with the weights in a folder named `ckpt-5`" in card("circle")


def test_a_checkpoint_without_its_run_is_exported_with_a_card_that_says_less(rap):
    (rap.folder / "run.json").unlink()
    rap.metrics_file.unlink()
    export_model(run="rap", folder="out")
    assert "learnt from a text that is not known for 20 steps." in card()
    assert "validation" not in card()


def test_a_model_without_keywords_is_not_asked_for_any(rap, model):
    model.about = About((), ("title", "body"))
    rap.save(30, model, {}, {}, keep=1)
    export_model(run="rap", folder="out")
    assert "--keywords" not in card()
    assert '"<|startoftext|>~@"' in card()
    assert "~^" not in card()
    assert "    <|startoftext|>~@The first words\n" in card()


def test_odd_names_stay_on_their_line_of_the_card(rap, model):
    rap.create(SETTINGS | {"text": "a`b\n# c.txt"})
    model.about = About(('new\n# "wave"`',), ("category", "title"))
    rap.save(30, model, {}, {}, keep=1)
    export_model(run="rap", folder="it's \u00e9")
    assert "`a b # c.txt`" in card("it's \u00e9")
    assert re.findall("^# (.*)", card("it's \u00e9"), re.M) == ["it's \u00e9"]
    code = card("it's \u00e9").split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def bad_calls():
    yield {"run": "rab"}, "no run 'rab' with a checkpoint in checkpoint; did you mean 'rap'"
    yield {"run": "checkpoint/rab"}, "no run 'rab'.*did you mean 'rap'"
    yield (
        {"run": "checkpoint/rap/ckpt-15"},
        "ckpt-15 is no checkpoint of .*rap; there are .*ckpt-10",
    )
    yield {"checkpoint": "checkpoint/rap/ckpt-15"}, "ckpt-15 is no checkpoint of checkpoint/rap"
    yield {"checkpoint": "newest"}, "newest is no checkpoint"
    yield (
        {"run": "checkpoint/rap/ckpt-10", "checkpoint": "checkpoint/rap/ckpt-20"},
        "both name a checkpoint; give one",
    )
    yield {"precision": "int8"}, "--precision is 'int8'"
    yield {"folder": "full"}, "the folder full is not empty; .*--overwrite"
    yield {"folder": "full", "overwrite": True}, "the folder full holds mine.txt, which is of no"
    yield {"folder": "checkpoint/rap", "overwrite": True}, "holds ckpt-10, which is of no export"
    yield {"folder": "full/mine.txt"}, "full/mine.txt is a file"
    yield {"folder": "full/mine.txt/out"}, "full/mine.txt does not exist|can't"
    yield {"folder": "no/out"}, "no does not exist; make it: mkdir -p no"
    yield {"folder": "/proc/out"}, "/proc"
    yield {"folder": "."}, r"the output \. is the folder that you are in"
    yield {"folder": "x" * 300}, "can't write x+: File name too long"
    yield {"folder": "\udcff"}, "Unicode"


@pytest.mark.parametrize(("call", "message"), bad_calls(), ids=str)
def test_what_cannot_be_exported_is_one_clear_line_and_nothing_is_written(rap, call, message):
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        export_model(**{"run": "rap", "folder": "out"} | call)
    assert "\n" not in str(error.value)
    assert sorted(Path().rglob("*")) == before


def test_a_damaged_checkpoint_is_not_exported(rap):
    path = rap.folder / "ckpt-20/model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match=r"ckpt-20 is damaged.*ckpt-10 .*export as --checkpoint"):
        export_model(run="rap", folder="out")
    assert not Path("out").exists()


def test_an_empty_folder_is_filled_and_an_export_replaced_on_demand(rap):
    Path("out").mkdir()
    Path("link").symlink_to("out")
    export_model(run="rap", folder="link")
    assert Path("link").is_symlink()
    with pytest.raises(UserError, match="not empty.*--overwrite"):
        export_model(run="checkpoint/rap/ckpt-10", folder="out")
    np.testing.assert_array_equal(embedding("out"), embedding("checkpoint/rap/ckpt-20"))
    export_model(run="checkpoint/rap/ckpt-10", folder="out", overwrite=True)
    np.testing.assert_array_equal(embedding("out"), embedding("checkpoint/rap/ckpt-10"))
    assert sorted(path.name for path in Path().iterdir()) == ["checkpoint", "link", "out"]


def test_a_failure_leaves_the_earlier_export(rap, model, monkeypatch):
    export_model(run="rap", folder="out")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="can't write out: No space left on device"):
        export_model(run="checkpoint/rap/ckpt-10", folder="out", overwrite=True)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert sorted(path.name for path in Path().iterdir()) == ["checkpoint", "out"]


def test_the_command_says_what_it_wrote_and_needs_no_tensorflow(rap, here):
    result = run_command("export", "rap", "out", "--precision", "float16", cwd=here)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert re.fullmatch(
        r"out has the model of checkpoint/rap/ckpt-20: 0\.\d million parameters in float16, "
        r"0\.\d MB\n",
        result.stderr,
    )
    assert_one_error_line(run_command("export", "rap", "out", cwd=here), "out", "--overwrite")
    code = (
        "import sys, gpt2kw\n"
        "gpt2kw.export_model(run='rap', folder='again')\n"
        "print({'tensorflow', 'transformers', 'torch', 'tf_keras'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "set()\n"


def test_a_second_stage_begins_where_the_first_one_ended(rap, training_text):
    from gpt2kw import Generator, finetune

    def second_stage(run_name, model):
        finetune(
            text=training_text,
            model=model,
            run_name=run_name,
            steps=1,
            learning_rate=1e-9,
            batch_size=2,
            validate_every=0,
            sample_every=0,
        )
        return embedding(Run.named(run_name).latest().folder)

    export_model(run="rap", folder="out")
    start = embedding("checkpoint/rap/ckpt-20")
    for number, model in enumerate(["checkpoint/rap", "checkpoint/rap/ckpt-20", "out"]):
        np.testing.assert_allclose(second_stage(f"rapper{number}", model), start, atol=1e-6)
    assert len(Generator.load(model="out").generate(keywords="cats", nsamples=2, seed=1)) == 2


def sample_ids(model):
    records = [Record("cats", "cat", "The cat sleeps"), Record(keywords="", title="My")]
    return [ids[:40] for ids in model.tokenizer.encode(records)]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_torch_computes_what_keras_computes(rap, torch):
    from transformers import AutoModelForCausalLM

    from gpt2kw.model.keras import tf, to_keras

    export_model(run="rap", folder="out")
    loaded, info = AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert type(loaded).__name__ == "GPT2LMHeadModel"
    assert {name: list(keys) for name, keys in info.items() if keys} == {}
    model = Model.load(Path("checkpoint/rap/ckpt-20"))
    keras_model = to_keras(model)
    for ids in sample_ids(model):
        with torch.no_grad():
            theirs = loaded.eval()(torch.tensor([ids])).logits.numpy()
        np.testing.assert_allclose(
            theirs, keras_model(tf.constant([ids])).logits.numpy(), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_torch_reads_16_bit_exports_as_such(rap, torch, precision):
    from transformers import AutoModelForCausalLM

    export_model(run="rap", folder="out", precision=precision)
    loaded = AutoModelForCausalLM.from_pretrained("out", torch_dtype="auto")
    assert loaded.dtype == getattr(torch, precision)
    whole = Model.load(Path("checkpoint/rap/ckpt-20"))
    theirs = loaded.transformer.wte.weight.detach().float().numpy()
    np.testing.assert_allclose(theirs, whole.weights[EMBEDDING], rtol=2**-8, atol=1e-7)


def test_the_cards_example_runs_with_transformers_and_torch(rap, torch, capsys):
    export_model(run="rap", folder="out")
    torch.manual_seed(0)
    exec(card().split("```python\n")[1].split("```")[0], {})
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 5
    assert "<|" not in printed
