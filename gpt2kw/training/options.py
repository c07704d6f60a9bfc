"""The options of a fine-tuning."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from gpt2kw.errors import check_option
from gpt2kw.model.named import MINI
from gpt2kw.text.encoding import validation_path

_MOST = 10**9


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Fine-tune GPT-2 on training text, and go on where an earlier call stopped."""

    text: tyro.conf.Positional[Path]
    """Training text, as encode writes it."""
    model: str = MINI
    """Where to start: mini (the small pretrained model that comes with gpt2kw), new (one of its
    shape with random weights and a vocabulary of this text), gpt2, gpt2-medium, gpt2-large,
    gpt2-xl, distilgpt2, another name on the hub, or a folder."""
    run_name: str = "run1"
    """The run's directory in checkpoint/."""
    steps: int = 1000
    """Steps of the whole run. One that was interrupted goes on to this number."""
    max_minutes: float | None = None
    """Stop with a checkpoint after so long; the same command goes on."""
    restore_from: str = "latest"
    """latest: go on if the run has a checkpoint. fresh: begin anew, with the old run set
    aside. Or the folder of one of the run's checkpoints."""
    batch_size: int = 32
    """Documents of average length per step, on all devices together."""
    accumulate: int = 1
    """Parts of a batch that are computed one after another: the same step in less memory."""
    recompute: bool = False
    """Compute activations again instead of keeping them: less memory, a third slower."""
    learning_rate: float | None = None
    """Highest rate of AdamW. Default: 0.001 for a new model, 0.0001 for other models."""
    find_learning_rate: bool = False
    """Only try rising rates for up to 100 steps, and print the one to use."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: cosine to a tenth, linear to nothing."""
    warmup_steps: int = 50
    """Steps in which the rate rises."""
    weight_decay: float = 0.01
    """Of AdamW; not on biases and norms."""
    dropout: float = 0.1
    """Share of activations that are dropped while training, in 256ths."""
    clip_norm: float = 1.0
    """Longest gradient."""
    only_train_transformer_layers: bool = False
    """Keep the embeddings and the last norm as they are; the format's marks still learn."""
    only_train_attention: bool = False
    """Keep all as it is but the attention of each layer, a third of its weights, and the
    format's marks."""
    category_dropout: float = 0.2
    """Share of training documents that are shown without their category, so that texts
    can be generated without one."""
    loss_on: Literal["all", "text"] = "all"
    """What is learned: every token, or only what follows the keywords."""
    keyword_weight: float = 1.0
    """How much more a keyword counts in what is learned than the other words, where the text
    first has it. Above 1, texts have more of their keywords by themselves, and are a little
    less likely."""
    validation: Path | None = None
    """Validation text. Default: the file that encode wrote beside the training text."""
    validate_every: int = 250
    """Steps between measurements of the validation loss; 0 for none."""
    validation_documents: int = 1000
    """Most documents of the validation text that are used."""
    patience: int = 0
    """Stop after so many measurements in a row without a better validation loss; 0: don't."""
    on_divergence: Literal["restore", "continue", "stop"] = "restore"
    """If the loss jumps or is no number. restore: go on from the newest checkpoint, past
    the documents in between."""
    spike: float = 2.0
    """A jump: so many nats per token above the mean of the 100 steps before; 0: none is."""
    save_every: int = 250
    """Steps between checkpoints."""
    keep: int = 3
    """Newest checkpoints that are kept; the one with the best validation loss is too."""
    sample_every: int = 250
    """Steps between sample texts; 0 for none."""
    sample_keywords: str = ""
    """Keywords of the sample texts."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of matrix products. auto: the best that the hardware multiplies."""
    devices: tuple[str, ...] = ()
    """TensorFlow's names, such as GPU:0 GPU:1. Default: all GPUs, or else the CPU."""
    address: str | None = None
    """Of a ray cluster whose machines train together: auto on one of them, HOST:PORT, or
    local to start ray here. They must share the folder that you are in."""
    workers: int = 0
    """Processes on the ray cluster. 0: one for each GPU, or for each machine without any."""
    seed: int = 0
    """Of new weights, dropout and the order of documents."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", Path(self.text))
        if self.validation is not None:
            object.__setattr__(self, "validation", Path(self.validation))
        whole = ("steps", "batch_size", "accumulate", "save_every", "keep", "validation_documents")
        for name in whole:
            value = getattr(self, name)
            check_option(name, value, 1 <= value <= _MOST, f"1 to {_MOST:,}")
        for name in ("warmup_steps", "validate_every", "sample_every", "patience"):
            value = getattr(self, name)
            check_option(name, value, 0 <= value <= _MOST, f"0 to {_MOST:,}")
        for name in ("dropout", "category_dropout"):
            check_option(name, getattr(self, name), 0 <= getattr(self, name) < 1, "0 to below 1")
        rate = self.learning_rate
        check_option("learning-rate", rate, rate is None or 0 < rate < 1, "more than 0, below 1")
        check_option("weight-decay", self.weight_decay, 0 <= self.weight_decay < 1, "0 to below 1")
        minutes = self.max_minutes
        check_option("max-minutes", minutes, minutes is None or minutes > 0, "more than 0")
        weight = self.keyword_weight
        check_option("keyword-weight", weight, 0 < weight <= 100, "more than 0, 100 at most")
        check_option("spike", self.spike, 0 <= self.spike < math.inf, "0 or more")
        norm = self.clip_norm
        check_option("clip-norm", norm, 0 < norm < math.inf, "more than 0")
        check_option("workers", self.workers, 0 <= self.workers <= _MOST, f"0 to {_MOST:,}")
        check_option(
            "workers", self.workers, self.address or not self.workers, "--address with it, or 0"
        )
        for name in ("devices", "find_learning_rate"):
            value = getattr(self, name)
            check_option(name, value, not (self.address and value), "it without --address")
        check_option("seed", self.seed, 0 <= self.seed < 2**32, "0 to 4294967295")

    @property
    def validation_text(self) -> Path | None:
        """The validation text: the one that was named, or the one beside the training text."""
        beside = validation_path(self.text)
        return self.validation or (beside if beside.exists() else None)
