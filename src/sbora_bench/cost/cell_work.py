"""What a cell takes: its counts, and the work of an update and of scoring, traced once and kept (kept_traces.py)."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench.cost.kept_traces import remembered
from sbora_bench.cost.roofline import Work, repeated_work, work_of
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import hash_of
from sbora_bench.inputs.models.sources import named_source
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch

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


class NotTraced(Exception):
    """A method's work that can't be traced on `meta`, with the reason."""


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

        twin = _counted.pop(hash_of(work_depends_on(catalog, model, method, rank, protocol, COUNTED)), None)
        if twin is None:
            twin = meta_twin.build(catalog, model, catalog.methods[method], rank, protocol)
        return repeated_work(
            work_of(footprint.trace(twin, protocol, kernels)), protocol.batch_size // protocol.micro_batch
        )

    return kept_work(
        cache, "update", [*work_depends_on(catalog, model, method, rank, protocol, TRACED), kernels], trace
    )


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
        after = repeated_work(step(1, prompt + (new_tokens - 1) // 2), new_tokens - 1)
        return Work(peak, first.operations + after.operations, len(first.operations))

    about = [*work_depends_on(catalog, model, method, rank, protocol, SCORED), kernels, prompt, new_tokens]
    return kept_work(cache, "scoring", about, trace)


def work_depends_on(
    catalog: Catalog, model: str, method: str, rank: int | None, protocol: Protocol, keys: set[str]
) -> list:
    """All that the work of a cell depends on, but the code, as JSON."""
    entry, source = catalog.models[model], named_source(catalog, model)
    method_entry = [] if method == "base" else [catalog.methods[method].model_dump(mode="json")]
    about = [source.values(), source.pads, entry.source.kind, *method_entry]
    return [*about, rank, protocol.model_dump(mode="json", include=keys)]


def cell_counts(catalog: Catalog, model: str, method: str, rank: int | None, protocol: Protocol, cache: Path) -> dict:
    """Of `counting.counts_and_twin`: exact numbers of parameters, bytes of the adapter. Kept as traces are."""
    about = work_depends_on(catalog, model, method, rank, protocol, COUNTED)

    def count() -> dict:
        from sbora_bench.cost import counting

        counted, twin = counting.counts_and_twin(catalog, model, catalog.methods.get(method), rank, protocol)
        _counted.clear()
        if twin is not None:
            _counted[hash_of(about)] = twin
        return counted

    return remembered(cache, "counts", about, count)


_counted: dict[str, "torch.nn.Module"] = {}  # the twin that was counted last, which a trace then takes and changes


def peak_by_kind(
    catalog: Catalog, model: str, method: str, rank: int, protocol: Protocol, cache: Path
) -> dict[str, int]:
    """Bytes by kind at the peak of a training step on a GPU. Kept as traces are."""

    def make() -> dict:
        from sbora_bench.cost import footprint
        from sbora_bench.inputs import meta_twin

        twin = meta_twin.build(catalog, model, catalog.methods[method], rank, protocol)
        return footprint.trace(twin, protocol, "cuda").peak()

    return remembered(cache, "memory", work_depends_on(catalog, model, method, rank, protocol, TRACED), make)


def kept_work(cache: Path, kind: str, about: list, trace: Callable[[], Work]) -> Work:
    """`remembered` work. Raises NotTraced where it can't be traced on `meta`."""
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
