"""Seconds on a card, at least: every operator as fast as the card's arithmetic or its memory allows (roofline)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sbora_bench.inputs.models.scored_rows import machine_memory
from sbora_bench.plan.catalog import DeviceEntry

if TYPE_CHECKING:
    from sbora_bench.cost.tracer import Tracer

GIB = 2**30
# What a process holds on a card besides tensors: the CUDA context and its kernels, some 0.5 GiB on recent cards.
CONTEXT_GIB = 0.5

# The part of the roofline's speed that training reaches: PEFT's runs of Llama-3.2-3B on an L40S (method_comparison at
# 5d602fd) take 585 s of updates with LoRA and 707 s with DoRA, where the roofline has 467 and 608; of training, what is
# between updates too, 942 and 1,191 s.
EFFICIENCY = 0.8


def room(card: DeviceEntry | None) -> int:
    """Bytes that tensors may take on `card`; without one, this machine's memory."""
    if card is None:
        return machine_memory()
    return int((card.memory_gib - CONTEXT_GIB) * GIB)


@dataclass(frozen=True)
class Work:
    """What a computation needs: bytes at its peak, and its operators as (dtype, FLOPs, bytes moved, times)."""

    peak: int
    operations: list[tuple[str, int, int, int]]
    leading: int = 0  # of the operations, those that read prompts; the others make new tokens

    @property
    def flops(self) -> int:
        """FLOPs of matrix products, 2 a multiply-add."""
        return sum(flops * times for _, flops, _, times in self.operations)

    @property
    def moved(self) -> int:
        """Bytes that operators read and write."""
        return sum(moved * times for _, _, moved, times in self.operations)

    @property
    def prompts(self) -> "Work":
        """The part that reads prompts."""
        return Work(self.peak, self.operations[: self.leading])

    @property
    def answers(self) -> "Work":
        """The part that makes new tokens."""
        return Work(self.peak, self.operations[self.leading :])

    def seconds(self, card: DeviceEntry, tf32: bool = False) -> float:
        """The roofline's lower bound; a dtype that the card's entry lacks runs at its slowest peak.

        `tf32`: float32 products go through TF32, where the card has it: at half of bfloat16's peak, as tensor cores do.
        """
        peaks: dict[str, float] = {str(dtype): peak for dtype, peak in card.tflops.items()}
        if tf32 and "bfloat16" in peaks:
            peaks["float32"] = max(peaks["float32"], peaks["bfloat16"] / 2)
        slowest = min(peaks.values())
        return sum(
            times * max(flops / (peaks.get(dtype, slowest) * 1e12), moved / (card.bandwidth_gb_s * 1e9))
            for dtype, flops, moved, times in self.operations
        )


def work_of(tracer: "Tracer") -> Work:
    """What a `tracer.Tracer` counted."""
    operations = [(o.dtype, o.flops, o.moved, times) for o, times in sorted(tracer.operations.items())]
    return Work(tracer.peak()["peak"], operations)


def repeated_work(work: Work, times: int) -> Work:
    """The same work `times` times, one after the other."""
    return Work(work.peak, [(*operation[:3], operation[3] * times) for operation in work.operations])
