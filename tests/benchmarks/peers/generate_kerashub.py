"""KerasHub's `GPT2CausalLM.generate`: `generate_kerashub.py tensorflow|jax float32|bfloat16 TASK`.

It compiles with XLA, as it comes.
"""

import importlib.util
import os
import sys

import numpy as np
from task import Task, measure, unable


def main() -> None:
    task = Task.given()
    backend, precision = sys.argv[1:3]
    if importlib.util.find_spec(backend) is None:
        unable(f"{backend} is not installed")
        return
    os.environ["KERAS_BACKEND"] = backend
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    model = keras_hub.models.GPT2CausalLM(keras_hub.models.GPT2Backbone.from_preset(task.model))
    sampler = keras_hub.samplers.TopKSampler(k=task.top_k, temperature=task.temperature, seed=0)
    model.compile(sampler=sampler)

    def write(prompts: np.ndarray) -> np.ndarray:
        ids = np.pad(prompts, [(0, 0), (0, task.new)])
        given = np.pad(np.ones_like(prompts), [(0, 0), (0, task.new)])
        inputs = {"token_ids": ids, "padding_mask": given}
        return model.generate(inputs, stop_token_ids=None)["token_ids"]

    measure(task, write)


if __name__ == "__main__":
    main()
