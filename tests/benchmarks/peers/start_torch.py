"""A fresh process of transformers on PyTorch: `start_torch.py FOLDER PROMPT N`.

Prints N titles that the model of a folder writes behind a prompt, as gpt2kw.generate does by
default.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.inference_mode()
def main() -> None:
    folder, prompt, titles = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    texts = model.generate(
        **tokenizer(prompt, return_tensors="pt"),
        num_return_sequences=int(titles),
        do_sample=True,
        top_k=40,
        temperature=0.7,
        max_new_tokens=64,
    )
    for text in texts:
        document = tokenizer.decode(text).removeprefix(prompt)
        print(" ".join(document.partition("<|endoftext|>")[0].split()), flush=True)


if __name__ == "__main__":
    main()
