"""gpt-2-simple's `finetune`, as its defaults are: `gpt2simple.py WORK`.

A step is 5 rows of 1,024 tokens, one after the other. It has no dropout, no bfloat16, no weight
decay and no schedule of its rate.
"""

import contextlib
import io
import json
import re
from pathlib import Path

import gpt_2_simple
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file, save_file
from work import FOREVER, Stopwatch, Work

ROW, ROWS = 1024, 5


def first_weights(model: str) -> dict[str, np.ndarray]:
    return load_file(f"{model}/model.safetensors")


def name_there(name: str) -> str:
    """`transformer.h.0.ln_1.bias` as gpt-2-simple's `model/h0/ln_1/b`."""
    name = re.sub(r"(wte|wpe)\.weight$", r"\1", name)
    name = name.replace("weight", "g" if ".ln_" in name else "w").replace("bias", "b")
    return name.replace("transformer.", "model/").replace("h.", "h").replace(".", "/")


def write_model(model: str, folder: Path) -> None:
    """Write the weights of a model's folder as gpt-2-simple keeps what it downloads."""
    config = json.loads(Path(model, "config.json").read_text())
    sizes = {name: config[name] for name in ("n_embd", "n_head", "n_layer")}
    folder.mkdir(parents=True)
    hparams = {"n_vocab": config["vocab_size"], "n_ctx": ROW, **sizes}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    # The text comes to it as token ids, its own tokenizer has nothing to do.
    (folder / "encoder.json").write_text("{}")
    (folder / "vocab.bpe").write_text("")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, weight in first_weights(model).items():
            if "wpe" in name:
                # Its rows have 1,024 tokens, whatever the model's context is.
                missing = (ROW - len(weight), weight.shape[1])
                more = np.random.default_rng(2).normal(0, 0.02, missing).astype(np.float32)
                weight = np.concatenate([weight, more])
            elif weight.ndim == 2 and "wte" not in name:
                weight = weight[None]
            tf.compat.v1.get_variable(name_there(name), initializer=weight)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"))


def export(work: Work, session: tf.compat.v1.Session, folder: str) -> None:
    """Write the weights under training as a folder that transformers reads."""
    variables = {v.op.name: v for v in tf.compat.v1.trainable_variables()}
    found = session.run(variables)
    weights = {}
    for name, first in first_weights(work.model).items():
        weight = found[name_there(name)]
        weights[name] = (weight[: len(first)] if "wpe" in name else weight).reshape(first.shape)
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    Path(folder, "config.json").write_bytes(Path(work.model, "config.json").read_bytes())


class LastStepError(Exception):
    """Ends the training."""


class Watch(io.StringIO):
    """Reads what gpt-2-simple prints, its only sign of a step that is done."""

    def __init__(self, work: Work, session: tf.compat.v1.Session, stopwatch: Stopwatch) -> None:
        super().__init__()
        self._work, self._session, self._stopwatch = work, session, stopwatch

    def write(self, text: str) -> int:
        if text == "Training...":
            self._stopwatch.begin()
        elif re.match(r"\[\d+ \|", text):
            last = self._stopwatch.step()
            if self._stopwatch.export_due:
                with self._stopwatch.export() as folder:
                    export(self._work, self._session, folder)
            if last:
                raise LastStepError
        return len(text)


def main() -> None:
    work = Work.given()
    folder = Path(work.out)
    write_model(work.model, folder / "models" / "start")
    text = folder / "text.npz"
    np.savez(text, np.concatenate(work.ids()).astype(np.int32))
    session = gpt_2_simple.start_tf_sess()
    stopwatch = Stopwatch(work, ROW * ROWS)
    watch = Watch(work, session, stopwatch)
    with contextlib.suppress(LastStepError), contextlib.redirect_stdout(watch):
        gpt_2_simple.finetune(
            session,
            str(text),
            model_name="start",
            model_dir=str(folder / "models"),
            checkpoint_dir=str(folder / "checkpoint"),
            learning_rate=work.rate,
            sample_every=FOREVER,
            save_every=FOREVER,
        )
    stopwatch.print_report()


if __name__ == "__main__":
    main()
