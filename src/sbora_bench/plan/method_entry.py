"""A method in the catalog: a PEFT config and what training does for it beside."""

import json
from typing import Any, Literal

from pydantic import Field

from sbora_bench.plan.entry import Strict

LOW_RANK = {"LORA", "ADALORA", "SBORA"}  # PEFT types whose rank can't be above a layer's shorter side
PROMPTS = {"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CARTRIDGE"}  # whose rank takes positions of the model


class Hooks(Strict):
    """What a method wants of training beside its PEFT config (inputs/method_hooks.py).

    What PEFT's own methods can't do without (AdaLoRA's pruning, first values from data for EVA, LoRA-GA and CorDA)
    needs no entry.
    """

    optimizer: Literal["lora-plus", "lora-fa", "riemannian"] | None = None
    optimizer_arguments: dict[str, float] = Field(default_factory=dict, description="{loraplus_lr_ratio: 16}, say")
    init_batches: int = Field(default=8, ge=1, description="micro-batches of training data for first values from data")


class MethodEntry(Strict):
    """A PEFT method: the config class that `peft_type` names, and its arguments.

    In `arguments`, `$rank $alpha $dropout $target_modules $seed $steps` stand for what the run and its protocol say,
    `$rank*1.5`, `$rank/100` and `1-$rank/100` for a part of it.
    """

    title: str
    source: str = Field(default="", exclude=True, description="where it is published")
    rank_means: str = Field(default="rank of the update", exclude=True, description="the size that `rank` stands for")
    peft_type: str
    arguments: dict[str, Any]
    quantization: Literal["nf4"] | None = None
    hooks: Hooks | None = Field(default=None, exclude_if=lambda hooks: hooks is None)

    @property
    def has_size(self) -> bool:
        """Whether `rank` changes anything; a method without a size of its own stands at rank 1."""
        return "$rank" in json.dumps(self.arguments)
