"""A process that promises to train nothing writes the same texts, faster, and trains nothing."""

import json
import os
import subprocess
import sys

import pytest
from conftest import with_clear_choices

from gpt2kw.errors import UserError
from gpt2kw.generation.generator import Generator
from gpt2kw.model import frozen
from gpt2kw.model.cores import usable_cores
from gpt2kw.model.folder import Model

ASKED = {"keywords": "cat wall", "nsamples": 12, "seed": 1, "max_tokens": 20}
SCRIPT = f"""
import json, sys
from pathlib import Path
import gpt2kw

gpt2kw.freeze_weights()
generator = gpt2kw.Generator.load(model=sys.argv[1], precision="bfloat16")
threads = gpt2kw.model.backend.tf.config.threading.get_intra_op_parallelism_threads()
print(json.dumps([threads, generator.generate(**{ASKED})]))
try:
    gpt2kw.finetune(text=sys.argv[2], model=sys.argv[1], steps=1)
except gpt2kw.UserError as error:
    print(error, file=sys.stderr)
"""


@pytest.fixture
def clear_model(tiny_model, here):
    (here / "clear").mkdir()
    model = with_clear_choices(Model.load(tiny_model))
    model.save(here / "clear")
    return here / "clear"


def test_texts_are_the_same_and_training_is_refused(clear_model, training_text, here):
    expected = Generator.load(model=str(clear_model), precision="bfloat16").generate(**ASKED)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, clear_model, training_text],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    threads, texts = json.loads(result.stdout)
    assert texts == expected, result.stderr
    assert threads == (1 if usable_cores() > 1 else 0)
    assert "this process has called gpt2kw.freeze_weights; fine-tune in another" in result.stderr
    assert not (here / "checkpoint/run1").exists()


@pytest.fixture
def promised(monkeypatch):
    monkeypatch.setattr(frozen, "_frozen", True)
    # So that it is as before when the test ends.
    monkeypatch.setenv(frozen._VARIABLE, "0")


def test_only_products_in_bfloat16_are_kept_ready(promised):
    frozen.keep_ready("float32")
    assert os.environ[frozen._VARIABLE] == "0"
    frozen.keep_ready("bfloat16")
    assert os.environ[frozen._VARIABLE] == "1"


def test_a_process_that_was_frozen_from_outside_does_not_train(monkeypatch):
    monkeypatch.setenv(frozen._VARIABLE, "1")
    with pytest.raises(UserError, match="is 1, with which TensorFlow does not see"):
        frozen.check_weights_may_change()


def test_without_the_promise_nothing_is_kept_and_no_core_works_alone(monkeypatch):
    monkeypatch.delenv(frozen._VARIABLE, raising=False)
    frozen.keep_ready("bfloat16")
    frozen.check_weights_may_change()
    assert frozen.cores_for_writing() == 1
