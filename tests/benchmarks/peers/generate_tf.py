"""transformers' `generate` on TensorFlow: `generate_tf.py eager|function TASK`.

Only transformers 4 has it, so this runs with gpt2kw's Python. `eager` is what a plain call
does; `function` is the same call in a `tf.function`, traced once for each batch size.
"""

import sys
from pathlib import Path

import numpy as np
from task import Task, measure

from gpt2kw.model.backend import tf
from gpt2kw.model.folder import Model
from gpt2kw.model.keras import to_keras

from transformers import GenerationConfig  # isort: skip  (after the backend)


def main() -> None:
    task = Task.given()
    model = to_keras(Model.load(Path(task.model)))
    # In place of the model's own, which names the token that ends a text.
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=task.top_k,
        temperature=task.temperature,
        max_new_tokens=task.new,
        pad_token_id=0,
    )

    def generate(ids: tf.Tensor) -> tf.Tensor:
        return model.generate(ids, attention_mask=tf.ones_like(ids))

    if sys.argv[1] == "function":
        generate = tf.function(generate)

    def write(prompts: np.ndarray) -> np.ndarray:
        return generate(tf.constant(prompts)).numpy()

    measure(task, write)


if __name__ == "__main__":
    main()
