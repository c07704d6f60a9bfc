"""The options of a fine-tuning."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from gpt2kw.errors import check_option
from gpt2kw.text.encoding import validation_path

_MOST = 10**9


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Fine-tune GPT-2 on training text, and go on where an earlier call stopped."""

    text: tyro.conf.Positional[Path]
    """Training text, as encode writes it."""
    model: str = "mini"
    """Where to start: mini (a small new model made for this text), gpt2, gpt2-medium,
    gpt2-large, gpt2-xl, distilgpt2, another name on the hub, or a folder."""
    run_name: str = "run1"
    """The run's directory in checkpoint/."""
    steps: int = 1000
    """Steps of the whole run. One that was interrupted goes on to this number."""
    restore_from: str = "latest"
    """latest: go on if the run has a checkpoint. fresh: begin anew, with the old run set
    aside. Or the folder of one of the run's checkpoints."""
    batch_size: int = 32
    """Documents per step, on all devices together."""
    learning_rate: float | None = None
    """Highest rate of AdamW. Default: 0.001 for a new mini, 0.0001 for other models."""
    warmup_steps: int = 50
    """Steps in which the rate rises; then it falls along a cosine to a tenth."""
    weight_decay: float = 0.01
    """Of AdamW; not on biases and norms."""
    dropout: float = 0.1
    """Share of activations that are dropped while training."""
    clip_norm: float = 1.0
    """Longest gradient."""
    category_dropout: float = 0.2
    """Share of training documents that are shown without their category, so that texts
    can be generated without one."""
    validation: Path | None = None
    """Validation text. Default: the file that encode wrote beside the training text."""
    validate_every: int = 250
    """Steps between measurements of the validation loss; 0 for none."""
    validation_documents: int = 1000
    """Most documents of the validation text that are used."""
    save_every: int = 250
    """Steps between checkpoints."""
    keep: int = 3
    """Newest checkpoints that are kept."""
    sample_every: int = 250
    """Steps between sample texts; 0 for none."""
    sample_keywords: str = ""
    """Keywords of the sample texts."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products. auto: bfloat16 where the hardware has it."""
    devices: tuple[str, ...] = ()
    """TensorFlow's names, such as GPU:0 GPU:1. Default: all GPUs, or else the CPU."""
    seed: int = 0
    """Of new weights, dropout and the order of documents."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", Path(self.text))
        if self.validation is not None:
            object.__setattr__(self, "validation", Path(self.validation))
        for name in ("steps", "batch_size", "save_every", "keep", "validation_documents"):
            value = getattr(self, name)
            check_option(name, value, 1 <= value <= _MOST, f"1 to {_MOST:,}")
        for name in ("warmup_steps", "validate_every", "sample_every"):
            value = getattr(self, name)
            check_option(name, value, 0 <= value <= _MOST, f"0 to {_MOST:,}")
        for name in ("dropout", "category_dropout"):
            check_option(name, getattr(self, name), 0 <= getattr(self, name) < 1, "0 to below 1")
        rate = self.learning_rate
        check_option("learning-rate", rate, rate is None or 0 < rate < 1, "more than 0, below 1")
        check_option("weight-decay", self.weight_decay, 0 <= self.weight_decay < 1, "0 to below 1")
        norm = self.clip_norm
        check_option("clip-norm", norm, 0 < norm < math.inf, "more than 0")
        check_option("seed", self.seed, 0 <= self.seed < 2**32, "0 to 4294967295")

    @property
    def validation_text(self) -> Path | None:
        """The validation text: the one that was named, or the one beside the training text."""
        beside = validation_path(self.text)
        return self.validation or (beside if beside.exists() else None)
