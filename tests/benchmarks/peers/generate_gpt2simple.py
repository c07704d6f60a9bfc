"""gpt-2-simple's sampling: `generate_gpt2simple.py TASK`.

Its `generate` makes a new graph at each call and has one prompt for all rows. Here the graph is
made once for each batch size, as for many texts of one call, and each row has a prompt.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import gpt_2_simple
import numpy as np
import tensorflow as tf
from gpt2simple import write_model
from gpt_2_simple.src import sample
from gpt_2_simple.src.model import default_hparams
from task import Task, measure


def main() -> None:
    task = Task.given()
    session = gpt_2_simple.start_tf_sess()
    with tempfile.TemporaryDirectory() as models:
        write_model(task.model, Path(models, "start"))
        gpt_2_simple.load_gpt2(session, model_name="start", model_dir=models)
        hparams = default_hparams()
        hparams.override_from_dict(json.loads(Path(models, "start", "hparams.json").read_text()))

    @cache
    def graph(batch: int) -> tuple[tf.Tensor, tf.Tensor]:
        context = tf.compat.v1.placeholder(tf.int32, [batch, None])
        output = sample.sample_sequence(
            hparams=hparams,
            length=task.new,
            context=context,
            batch_size=batch,
            temperature=task.temperature,
            top_k=task.top_k,
        )
        return context, output

    def write(prompts: np.ndarray) -> np.ndarray:
        context, output = graph(len(prompts))
        return session.run(output, feed_dict={context: prompts})

    measure(task, write)


if __name__ == "__main__":
    main()
