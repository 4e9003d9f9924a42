"""Seconds on a card, at least: every traced operator as fast as the card's arithmetic or its memory allows (roofline).

A trace takes seconds and knows no card, so what it found is kept in a file that is named by all that it depends on.
"""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench import provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import hash_of, read_json, write_json
from sbora_bench.inputs.models.sources import named_source
from sbora_bench.plan.catalog import Catalog, DeviceEntry
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch

    from sbora_bench.cost.tracer import Tracer

GIB = 2**30
CACHE = Path("resources/plan")
PUBLISHED = Path("results/published/traces.json")
TRACING = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")  # packages whose versions make a trace
# What a process holds on a card besides tensors: the CUDA context and its kernels, some 0.5 GiB on recent cards.
CONTEXT_GIB = 0.5

# The part of the roofline's speed that training reaches: PEFT's runs of Llama-3.2-3B on an L40S (method_comparison at
# 5d602fd) take 585 s of updates with LoRA and 707 s with DoRA, where the roofline has 467 and 608; of training, what is
# between updates too, 942 and 1,191 s.
EFFICIENCY = 0.8

# All of a protocol that the counts of a cell depend on, that the work of an update does, and that of scoring.
COUNTED = {
    "autocast",
    "compute_dtype",
    "double_quantization",
    "dropout",
    "gradient_checkpointing",
    "max_length",
    "pad",
    "target_modules",
    "weights_dtype",
}
TRACED = COUNTED | {
    "batch_size",
    "logits",
    "max_grad_norm",
    "micro_batch",
    "optimizer",
    "pad_to_multiple_of",
    "padding_free",
    "tokens_at_once",
}
SCORED = {"compute_dtype", "double_quantization", "gradient_checkpointing", "merge", "num_beams", "pad"}
SCORED |= {"score_batch", "target_modules", "weights_dtype"}


class NotKept(Exception):
    """What is wanted is not in the cache, and must not be traced now."""


class NotTraced(Exception):
    """A method's work that can't be traced on `meta`, with the reason."""


def room(card: DeviceEntry | None) -> int:
    """Bytes that tensors may take on `card`; without one, this machine's memory."""
    if card is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
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


def update_work(
    catalog: Catalog, model: str, method: str, rank: int | None, protocol: Protocol, cache: Path, kernels: str = "cuda"
) -> Work:
    """The work of an update of a cell, each of its examples `protocol.max_length` tokens long.

    `peak` is a micro-batch's, the rest is the whole update's. Kept in the folder `cache`. Raises UserError where the
    cell can't be: an optimizer that can't be traced, a rank above a layer's width. Raises NotTraced.
    """

    def trace() -> Work:
        from sbora_bench.cost import footprint
        from sbora_bench.inputs import meta_twin

        twin = _counted.pop(hash_of(described(catalog, model, method, rank, protocol, COUNTED)), None)
        if twin is None:
            twin = meta_twin.build(catalog, model, catalog.methods[method], rank, protocol)
        return repeated(work_of(footprint.trace(twin, protocol, kernels)), protocol.batch_size // protocol.micro_batch)

    return kept(cache, "update", [*described(catalog, model, method, rank, protocol, TRACED), kernels], trace)


def scoring_work(
    catalog: Catalog,
    model: str,
    method: str,
    rank: int | None,
    protocol: Protocol,
    prompt: int,
    new_tokens: int,
    cache: Path,
    kernels: str = "cuda",
) -> Work:
    """The work of scoring `protocol.score_batch` prompts (a number) of `prompt` tokens with `new_tokens` made for each.

    All of them are made: no answer ends early. Every step costs what the middle one does, for the cache grows evenly.
    With one new token (a letter's logits) there is the prompt alone. Method `base`: the untuned model.
    """

    def trace() -> Work:
        from sbora_bench.cost import traced_step
        from sbora_bench.inputs import meta_twin

        twin = meta_twin.build_scored(catalog, model, catalog.methods.get(method), rank, protocol)
        rows, beams = int(protocol.score_batch), protocol.num_beams

        @once
        def step(fed: int, past: int) -> Work:
            return work_of(traced_step.decoding_step(twin, rows, beams, fed, past, kernels)[0])

        first = step(prompt, 0)
        if new_tokens == 1:
            return Work(first.peak, first.operations, len(first.operations))
        peak = max(first.peak, step(1, prompt + new_tokens - 1).peak)
        after = repeated(step(1, prompt + (new_tokens - 1) // 2), new_tokens - 1)
        return Work(peak, first.operations + after.operations, len(first.operations))

    about = [*described(catalog, model, method, rank, protocol, SCORED), kernels, prompt, new_tokens]
    return kept(cache, "scoring", about, trace)


def described(catalog: Catalog, model: str, method: str, rank: int | None, protocol: Protocol, keys: set[str]) -> list:
    """All that the work of a cell depends on, but the code, as JSON."""
    entry, source = catalog.models[model], named_source(catalog, model)
    method_entry = [] if method == "base" else [catalog.methods[method].model_dump(mode="json")]
    about = [source.values(), source.pads, entry.source.kind, *method_entry]
    return [*about, rank, protocol.model_dump(mode="json", include=keys)]


def repeated(work: Work, times: int) -> Work:
    """The same work `times` times, one after the other."""
    return Work(work.peak, [(*operation[:3], operation[3] * times) for operation in work.operations])


def counts(catalog: Catalog, model: str, method: str, rank: int | None, protocol: Protocol, cache: Path) -> dict:
    """`counting.counts_of_cell`: exact numbers of parameters, bytes of the adapter. Kept as traces are."""

    about = described(catalog, model, method, rank, protocol, COUNTED)

    def keep(twin: "torch.nn.Module") -> None:
        _counted.clear()
        _counted[hash_of(about)] = twin

    def count() -> dict:
        from sbora_bench.cost import counting

        return counting.counts_of_cell(catalog, model, catalog.methods.get(method), rank, protocol, keep)

    return remembered(cache, "counts", about, count)


_counted: dict[str, "torch.nn.Module"] = {}  # the twin that was counted last, which a trace then takes and changes


def kept(cache: Path, kind: str, about: list, trace: Callable[[], Work]) -> Work:
    """The work in the file of `cache` that is named by `about` and the code, traced and written where there is none.

    Raises NotTraced where it can't be traced on `meta`.
    """
    entry = remembered(cache, kind, about, lambda: _traced(trace))
    if "reason" in entry:
        raise NotTraced(entry["reason"])
    return Work(entry["peak"], [tuple(operation) for operation in entry["operations"]], entry["leading"])


def _traced(trace: Callable[[], Work]) -> dict:
    """The work as JSON, or why it can't be traced: PEFT's methods raise what they like where `meta` has no values."""
    try:
        return asdict(trace())
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:
        return {"reason": in_a_line(error)}


def remembered(cache: Path, kind: str, about: list, make: Callable[[], dict]) -> dict:
    """JSON of the file of `cache` named by `about` and the code, or of that name among those published; made and
    written where there is none.

    Raises NotKept instead within `only_kept`.
    """
    path = Path(cache) / f"{kind}-{hash_of([*about, *_made_by()])[:32]}.json"
    if path.is_file():
        _used.add(path)
        return read_json(path)
    if path.stem in published():
        return published()[path.stem]
    if _only_kept.get():
        raise NotKept(path.name)
    write_json(path, value := make())
    _used.add(path)
    return value


_used: set[Path] = set()  # files of the cache that this process made or read


@once
def published() -> dict[str, dict]:
    """Traces that came with the repository, by the names of their files; of other code or packages none has a name."""
    return read_json(PUBLISHED) if PUBLISHED.is_file() else {}


def publish() -> int:
    """Make what this process took from the cache, or put there, the traces that are published; how many."""
    write_json(PUBLISHED, {path.stem: read_json(path) for path in sorted(_used)})
    published.cache_clear()
    return len(_used)


_only_kept = contextvars.ContextVar("only_kept", default=False)


@contextlib.contextmanager
def only_kept() -> Iterator[None]:
    """In this block nothing is traced: what isn't in the cache raises NotKept."""
    token = _only_kept.set(True)
    try:
        yield
    finally:
        _only_kept.reset(token)


@once
def _made_by() -> tuple:
    versions = provenance.versions()
    return code_hash("sbora_bench.cost.roofline"), {name: versions[name] for name in TRACING}
