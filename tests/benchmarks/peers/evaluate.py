"""Held-out loss of models in one way for all: `evaluate.py TEXT FOLDER... WORK`.

Prints nats per token of the text for each folder, as JSON. Every document stands alone; each of
its tokens but the first counts.
"""

import json
import sys

import torch
from transformers import GPT2LMHeadModel
from work import Work

MOST = 1000
"""Documents that are used, as many as gpt2kw's own validation uses."""


@torch.inference_mode()
def loss(folder: str, batches: list[list[list[int]]]) -> float:
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    nats = tokens = 0.0
    for batch in batches:
        longest = max(map(len, batch))
        # Padding stands behind, where a causal model does not see it.
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
        labels = torch.tensor([row + [-100] * (longest - len(row)) for row in batch])[:, 1:]
        logits = model(ids).logits[:, :-1].float()
        nats += torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=-100, reduction="sum"
        ).item()
        tokens += (labels != -100).sum().item()
    return nats / tokens


def main() -> None:
    text, *folders = sys.argv[1:-1]
    documents = sorted((ids[:256] for ids in Work.given().ids(text)[:MOST]), key=len)
    batches = [documents[start : start + 32] for start in range(0, len(documents), 32)]
    print(json.dumps({folder: loss(folder, batches) for folder in folders}))


if __name__ == "__main__":
    main()
