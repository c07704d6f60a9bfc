"""Hugging Face's Trainer on PyTorch, in bfloat16 autocast: `trainer.py padded|grouped WORK`."""

import sys

import torch
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from work import CLIP_NORM, FOREVER, RISE, WEIGHT_DECAY, Stopwatch, Work, documents


class Watch(TrainerCallback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    def on_train_begin(self, args, state, control, **kwargs):
        self._stopwatch.begin()

    def on_step_end(self, args, state, control, *, model, **kwargs):
        if self._stopwatch.step():
            control.should_training_stop = True
        if self._stopwatch.export_due:
            with self._stopwatch.export() as folder:
                model.save_pretrained(folder)


def main() -> None:
    work = Work.given()
    # Padding must not be labelled as the end mark, or the end would never be learnt. The start
    # mark stands first in a document and nowhere else, where nothing predicts it.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{work.model}/tokenizer.json", pad_token="<|startoftext|>"
    )
    if sys.argv[1] == "padded":
        encoded = tokenizer(
            documents(work.text), padding="max_length", truncation=True, max_length=work.length
        )
        rows = [
            {"input_ids": ids, "attention_mask": mask}
            for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        ]
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        size, tokens_per_step = work.documents, work.documents * work.mean_tokens
    else:
        joined = torch.tensor([token for ids in work.ids() for token in ids])
        whole = joined[: len(joined) // work.length * work.length].view(-1, work.length)
        rows = [{"input_ids": row, "labels": row} for row in whole]
        collator = None
        size, tokens_per_step = work.blocks, work.blocks * work.length
    stopwatch = Stopwatch(work, tokens_per_step)
    arguments = TrainingArguments(
        output_dir=work.out,
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=size,
        max_steps=work.steps or FOREVER,
        learning_rate=work.rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=RISE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP_NORM,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    Trainer(
        model=GPT2LMHeadModel.from_pretrained(work.model),
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        callbacks=[Watch(stopwatch)],
    ).train()
    stopwatch.print_report()


if __name__ == "__main__":
    main()
