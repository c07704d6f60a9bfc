"""The model card of an export: where the model comes from, and how it is asked."""

import json
import logging
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.model.named import MINI, NEW, is_hub_id
from gpt2kw.model.runs import Checkpoint, Run
from gpt2kw.text.format import Record, prompt

log = logging.getLogger(__name__)

_CATEGORIES = 20
"""The most categories that a card lists."""


def model_card(name: str, model: Model, checkpoint: Checkpoint) -> str:
    """Return the card, Markdown with the head that the hub reads.

    Args:
        name: what the card calls the model.
        model: the model of `checkpoint`.
        checkpoint: its run's `run.json` and `metrics.jsonl` are told as far as they are there.
    """
    stages = list(_stages(Run(checkpoint.folder.parent)))
    start = stages[-1].get("model") if stages else None
    parts = [
        _head(start),
        f"# {name}",
        "Writes short texts about keywords. This is a GPT-2 with "
        f"{model.parameters / 1e6:.1f} million parameters that sees {model.context:,} tokens, "
        "trained with gpt2kw.",
        *_training(start, stages, checkpoint),
        *_format(model),
        *_use(name, model),
        *_limits(model),
    ]
    return "\n\n".join(parts) + "\n"


def _stages(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the settings of a run, then those of the run whose model it began with, and so on."""
    seen = set()
    while run.exists and run.folder.resolve() not in seen:
        seen.add(run.folder.resolve())
        try:
            settings = run.settings()
        except UserError as error:
            log.warning("the model card does not tell of the training: %s", error)
            return
        yield settings
        run = Run.of_model(str(settings.get("model")))


def _head(start: str | None) -> str:
    """Return the YAML that the hub reads."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", "- gpt2", "- gpt2kw", "- keywords"]
    if start and is_hub_id(start):
        lines.append(f"base_model: {json.dumps(start)}")
    return "\n".join([*lines, "---"])


def _training(
    start: str | None, stages: list[dict[str, Any]], checkpoint: Checkpoint
) -> Iterator[str]:
    yield "## Training"
    if start == NEW:
        yield "It began with random weights."
    elif start == MINI:
        yield f"It began as {_code(MINI)}, the small pretrained model of gpt2kw."
    elif start and is_hub_id(start):
        yield f"It began as [{start}](https://huggingface.co/{start})."
    elif start:
        yield f"It began with the weights in a folder named {_code(Path(start).name)}."
    run = Run(checkpoint.folder.parent)
    entries = [entry for entry in run.metrics() if entry["step"] <= checkpoint.step]
    texts = [_code(Path(str(stage.get("text"))).name) for stage in reversed(stages)]
    documents = stages[0].get("batch_size") if stages else None
    tokens = max((entry["tokens"] for entry in entries if "tokens" in entry), default=None)
    yield (
        f"It learnt from {', then from '.join(texts) or 'a text that is not known'} "
        f"for {checkpoint.step:,} steps"
        + (f" of {documents:,} documents" if documents else "")
        + (f", {tokens:,} tokens." if tokens else ".")
    )
    losses = {
        entry["step"]: entry["validation_loss"] for entry in entries if "validation_loss" in entry
    }
    if losses:
        best, newest = min(losses, key=losses.__getitem__), max(losses)
        told = [f"The best validation loss was {_loss(losses[best])}, at step {best:,}."]
        if newest != best:
            told.append(f"At step {newest:,} it was {_loss(losses[newest])}.")
        told.append(f"The weights are those of step {checkpoint.step:,}.")
        yield " ".join(told)


def _loss(nats: float) -> str:
    return f"{nats:.3f} nats per token (perplexity {math.exp(min(nats, 80)):,.1f})"


def _code(text: str) -> str:
    """Return `text` as code in Markdown, on one line."""
    printable = text.encode("utf-8", "replace").decode()
    return f"`{' '.join(printable.replace('`', ' ').split())}`"


def _sections(model: Model) -> tuple[str, ...]:
    """The sections that the model was trained with; the usual ones, if that is not known."""
    return model.about.sections or ("keywords", "title")


def _example(model: Model) -> str:
    """A prompt that the model knows the form of."""
    sections = _sections(model)
    category = model.about.categories[0] if model.about.categories else None
    return prompt(Record(category, "cats" if "keywords" in sections else None, ""))


_FORMS = {
    "category": ("~`category", "- a tilde and a backtick, then the category"),
    "keywords": (
        "~^keyword1 new-york",
        "- `~^`, then keywords with spaces between them; dashes join the words of one, and "
        "none at all asks for a text about anything",
    ),
    "title": ("~@The first words", "- `~@`, then the text's first words, or nothing"),
}


def _format(model: Model) -> Iterator[str]:
    sections = [section for section in _FORMS if section in {*_sections(model), "title"}]
    yield "## Prompts"
    yield "A prompt is the beginning of a document, which the model goes on with:"
    yield "    <|startoftext|>" + "".join(_FORMS[section][0] for section in sections)
    yield "\n".join(["- `<|startoftext|>`", *(_FORMS[section][1] for section in sections)])
    ending = "The text ends with `<|endoftext|>`"
    if "body" in _sections(model):
        ending += ", or a longer one follows it behind `~}`"
    yield f"{ending}. Each of these marks is one token."
    if categories := model.about.categories:
        shown = [" ".join(category.split()) for category in categories[:_CATEGORIES]]
        more = len(categories) - len(shown)
        yield f"Categories, most frequent first{f' ({more:,} more are left out)' if more else ''}:"
        yield "\n".join(f"    {category}" for category in shown)


def _use(name: str, model: Model) -> Iterator[str]:
    whole = '.replace("~}", "\\n")' if "body" in _sections(model) else ""
    yield "## With transformers"
    yield (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({_quoted(name)})\n"
        f"model = AutoModelForCausalLM.from_pretrained({_quoted(name)})\n"
        f'prompt = tokenizer({_quoted(_example(model))}, return_tensors="pt")\n'
        "for tokens in model.generate(**prompt, num_return_sequences=5):\n"
        '    text = tokenizer.decode(tokens).split("~@", 1)[1]\n'
        f'    print(text.split("<|endoftext|>")[0]{whole})\n'
        "```"
    )
    yield "`generation_config.json` says how tokens are chosen, and keeps marks out of the text."
    yield "## With gpt2kw"
    asked = ' --keywords "cats"' if "keywords" in _sections(model) else ""
    folder = shlex.quote(name)
    yield (
        f"    python -m gpt2kw.generate --model {folder}{asked}\n"
        f"    python -m gpt2kw.finetune TEXT --model {folder}"
    )


def _quoted(text: str) -> str:
    """Return `text` as a literal of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _limits(model: Model) -> Iterator[str]:
    yield "## Limits"
    limits = [
        "It is asked for the keywords, and may leave some out.",
        "It knows the kind of text that it learnt from, writes in its tone, and may repeat "
        "parts of it word for word. Nothing checks what it says. The index of training titles, "
        "with which gpt2kw tells copies of them, is not part of the model.",
        f"It sees {model.context:,} tokens, with the prompt.",
        "In a prompt, anything that looks like a mark is read as one: leave `~@` and the like "
        "out of keywords and first words. gpt2kw itself takes any text.",
    ]
    yield "\n".join(f"- {limit}" for limit in limits)
