"""transformers' `generate` on PyTorch: `generate_torch.py float32|bfloat16 TASK`."""

import sys

import numpy as np
import torch
from task import Task, measure
from transformers import GenerationConfig, GPT2LMHeadModel


def main() -> None:
    task = Task.given()
    model = GPT2LMHeadModel.from_pretrained(task.model, dtype=getattr(torch, sys.argv[1])).eval()
    # In place of the model's own, which names the token that ends a text.
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=task.top_k,
        temperature=task.temperature,
        max_new_tokens=task.new,
        pad_token_id=0,
    )

    def write(prompts: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(prompts).long()
        return model.generate(ids, attention_mask=torch.ones_like(ids)).numpy()

    measure(task, write)


if __name__ == "__main__":
    main()
