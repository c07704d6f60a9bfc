"""Several devices of one machine: two virtual CPUs learn what one does."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from gpt2kw.model.backend import tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from gpt2kw import finetune

losses = {}
for name, devices in (("one", ()), ("two", ("CPU:0", "CPU:1"))):
    report = finetune(
        # Rows of a batch can't be shared evenly.
        text=sys.argv[1], model=sys.argv[2], run_name=name, devices=devices, steps=12,
        batch_size=30, learning_rate=0.01, dropout=0.0, precision="float32", validate_every=6,
        # So much decay that a weight which only one device decays would be noticed.
        keyword_weight=3.0, weight_decay=0.9,
    )
    lines = [json.loads(line) for line in open(f"checkpoint/{name}/metrics.jsonl")]
    losses[name] = [line.get("loss", line.get("validation_loss")) for line in lines]
print(json.dumps(losses))
"""


def test_two_devices_reach_the_losses_of_one(here, training_text, tiny_model):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, training_text, tiny_model],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    losses = json.loads(result.stdout)
    assert len(losses["one"]) == 4
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-3)
