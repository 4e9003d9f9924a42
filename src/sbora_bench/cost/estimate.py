"""What an experiment costs on a card before anyone pays: `sbora-bench plan NAME --cost --device a100-80gb`.

Steps and parameters are exact; memory is traced on `meta` (kept_traces.py keeps that, in `resources/plan`); tokens,
samples and hours are bounds or estimates, each as `BASIS` says. Imports nothing heavy unless something must be traced.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sbora_bench.cost import cell_work, roofline
from sbora_bench.cost.expected import share_of_width
from sbora_bench.cost.kept_traces import CACHE, NotKept, only_kept
from sbora_bench.cost.table_setting import Setting, setting_of
from sbora_bench.files import hash_of
from sbora_bench.inputs.adapters import merged
from sbora_bench.inputs.models.config import positions_of, read_config
from sbora_bench.inputs.models.scored_rows import numbered
from sbora_bench.inputs.models.sources import named_source
from sbora_bench.plan.catalog import Catalog, DeviceEntry
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell
from sbora_bench.results.store import CHECKPOINTS

SAMPLE_BYTES = 4  # of a token of English text in the samples, about
MANY = 8  # cells to trace that are worth the start of further processes
ADAM_BYTES = 8  # of two float32 moments a trainable parameter
BASIS = {
    "steps": "exact, from the row counts of the catalog",
    "tokens": "at most: every example as long as the protocol allows; expected: by known lengths, padding too",
    "peak": "traced: exact for a micro-batch of the longest examples; scoring: a batch of the longest prompts",
    "adapter": "exact, to the byte",
    "samples": f"at most: {SAMPLE_BYTES} bytes a token of the longest prompts and answers",
    "base": "16 bits a parameter as the hub has them, 32 where the weights are made here",
    "hours": "expected: examples, prompts and answers as long as `prepare` measured them here, else as the catalog's"
    " `lengths` say, as allowed where neither has any; at most: all as long as allowed",
    "score": f"estimate: each operator at {roofline.EFFICIENCY:.0%} of the card's peak or bandwidth (roofline)",
    "roofline": f"estimate: each operator at {roofline.EFFICIENCY:.0%} of the card's peak or bandwidth (roofline), as"
    " PEFT's runs on an L40S reach; `--calibrate` measures the machine at hand",
    "not traced": "not known: the method can't be traced without values",
    "none": "not known: no speed is measured for this device yet; `--calibrate` measures the machine at hand",
}


@dataclass(frozen=True)
class CellCost:
    """What a cell of a table costs, its seeds folded: figures of one run, but for `seeds`: how many runs at most, those
    that a learning rate is picked by too; `first`: how many up to the first look and within its grid of rates. None:
    doesn't apply, or isn't known.

    `micro_batch` x `accumulation` is the protocol's batch, split so that it fits; 0 x 0 where one example is too much.
    """

    table: str
    model: str
    method: str
    rank: int | None
    run: str
    seeds: int
    first: int
    steps: int | None
    tokens: int | None
    micro_batch: int | None
    accumulation: int | None
    tokens_per_second: float | None
    speed: str
    train_hours: float | None
    score_hours: float | None
    train_peak_bytes: int | None
    score_peak_bytes: int
    adapter_bytes: int
    checkpoint_bytes: int
    samples_bytes: int
    base_bytes: int
    trains: bool
    scores: bool
    expected_tokens: int | None
    expected_train_hours: float | None
    expected_score_hours: float | None

    @property
    def hours(self) -> float | None:
        """Hours of all seeds at most, of training alone where scoring's speed isn't known; None where nothing is."""
        return self._of(self.seeds, self.train_hours, self.score_hours)

    @property
    def expected_hours(self) -> float | None:
        """Hours of all seeds by the lengths that are known."""
        return self._of(self.seeds, self.expected_train_hours, self.expected_score_hours)

    @property
    def first_hours(self) -> float | None:
        """The same of the runs up to the first look."""
        return self._of(self.first, self.expected_train_hours, self.expected_score_hours)

    def _of(self, runs: int, train: float | None, score: float | None) -> float | None:
        if self.steps is not None and train is None:
            return None
        parts = [part for part in (train, score) if part is not None]
        return runs * sum(parts) if parts else None


def cell_cost(
    plan: Plan, cell: Cell, setting: Setting, card: DeviceEntry | None, rates: dict[str, float], kept: Path
) -> CellCost:
    """The cost of a cell on `card`; on this machine's CPU where that is None.

    `rates`: measured FLOP/s by `rate_key`; where one is missing the card's roofline serves.
    """
    protocol, catalog = setting.protocol, plan.catalog
    room, kernels = roofline.room(card), "cpu" if card is None else "cuda"
    source = named_source(catalog, cell.model)
    counts = cell_work.cell_counts(catalog, cell.model, cell.method, cell.rank, protocol, kept)
    training = training_cost(plan, cell, setting, card, rates, kept)
    seconds, expected, peak = scoring_cost(catalog, cell, setting, card, kernels, kept)
    trained = counts["trainable_parameters"]
    adapter = counts["adapter_bytes"] or 0
    saves = protocol.keep_best or protocol.checkpoint_every
    length = sum(items * (prompt + new) for items, prompt, new in setting.questions)
    return CellCost(
        **{key: getattr(cell, key) for key in ("table", "model", "method", "rank")},
        **training,
        run=cell.name,
        seeds=plan.run_count(cell),
        first=plan.run_count(cell, first=True),
        score_hours=None if seconds is None else seconds / 3600,
        expected_score_hours=None if expected is None else expected / 3600,
        score_peak_bytes=peak,
        scores=peak <= room,
        adapter_bytes=adapter,
        checkpoint_bytes=CHECKPOINTS * (adapter + ADAM_BYTES * trained) if saves and not cell.is_base else 0,
        samples_bytes=SAMPLE_BYTES * length,
        base_bytes=base_parameters(catalog, cell, protocol, kept) * source.stored_bits // 8,
    )


def training_cost(
    plan: Plan, cell: Cell, setting: Setting, card: DeviceEntry | None, rates: dict[str, float], kept: Path
) -> dict[str, Any]:
    """The part of a CellCost that is of training; None where nothing is trained or a method can't be traced."""
    protocol, catalog = setting.protocol, plan.catalog
    costs: dict[str, Any] = dict.fromkeys(("steps", "tokens", "tokens_per_second", "train_hours"))
    costs |= {"micro_batch": None, "accumulation": None, "train_peak_bytes": None, "trains": True, "speed": ""}
    costs |= {"expected_tokens": None, "expected_train_hours": None}
    if cell.is_base:
        return costs
    steps, examples = setting.steps, protocol.batch_size * protocol.max_length
    share = share_of_width(catalog, setting.train, protocol)
    costs |= {"steps": steps, "tokens": steps * examples, "expected_tokens": round(steps * examples * share)}
    try:
        split, work = fitting_split(catalog, cell, protocol, roofline.room(card), "cuda" if card else "cpu", kept)
    except cell_work.NotTraced:
        accumulation = protocol.batch_size // protocol.micro_batch
        return costs | {"micro_batch": protocol.micro_batch, "accumulation": accumulation, "speed": "not traced"}
    seconds, speed = update_seconds(catalog, cell, split, work, card, rates) if split else (None, "")
    costs |= {"train_peak_bytes": work.peak, "speed": speed, "trains": split is not None}
    costs["micro_batch"] = split.micro_batch if split else 0
    costs["accumulation"] = protocol.batch_size // split.micro_batch if split else 0
    if seconds:
        hours = steps * seconds / 3600
        costs |= {"tokens_per_second": examples / seconds, "train_hours": hours, "expected_train_hours": hours * share}
    return costs


def base_parameters(catalog: Catalog, cell: Cell, protocol: Protocol, kept: Path) -> int:
    """Parameters of a cell's base."""
    return cell_work.cell_counts(catalog, cell.model, "base", None, protocol, kept)["total_parameters"]


def fitting_split(catalog: Catalog, cell: Cell, protocol: Protocol, room: int, kernels: str, kept: Path) -> Any:
    """(the protocol with the largest micro-batch that fits, its own at most; or None, the work of an update).

    The micro-batches tried divide the batch, so that the batch stays the protocol's.
    """
    sizes = [n for n in range(protocol.micro_batch, 0, -1) if protocol.batch_size % n == 0]
    for size in sizes:
        split = protocol.model_copy(update={"micro_batch": size})
        work = cell_work.update_work(catalog, cell.model, cell.method, cell.rank, split, kept, kernels)
        if work.peak <= room:
            return split, work
    return None, work


def update_seconds(
    catalog: Catalog, cell: Cell, protocol: Protocol, work: Any, card: Any, rates: Any
) -> tuple[float | None, str]:
    """(seconds of an update, `measured`, `roofline` or `none`)."""
    rate = rates.get(rate_key(catalog, cell, protocol))
    if rate is not None:
        return work.flops / rate, "measured"
    return (None, "none") if card is None else (work.seconds(card, protocol.tf32) / roofline.EFFICIENCY, "roofline")


def rate_key(catalog: Catalog, cell: Cell, protocol: Protocol) -> str:
    """What a measured speed holds for: a model and method under a protocol, whatever rank and micro-batch."""
    free = {"batch_size": 1, "micro_batch": 1}
    about = cell_work.work_depends_on(
        catalog, cell.model, cell.method, None, protocol.model_copy(update=free), cell_work.TRACED
    )
    return hash_of(about)


def scoring_cost(
    catalog: Catalog, cell: Cell, setting: Setting, card: DeviceEntry | None, kernels: str, kept: Path
) -> tuple[float | None, float | None, int]:
    """(seconds of scoring all tasks at most, and by known lengths, or None; bytes at the peak).

    A merged adapter costs what the base does.
    """
    protocol, method = setting.protocol, catalog.methods.get(cell.method)
    alone = method is None or merged(method, protocol)
    name, rank = ("base", None) if alone else (cell.method, cell.rank)
    positions = positions_of(named_source(catalog, cell.model).values())
    most, expected, peaks = 0.0, 0.0, []
    with_rows = batches_of(catalog, cell.model, name, rank, protocol, card, kept)
    for (items, prompt, new), (_, prompt_tokens, answer_tokens) in zip(
        setting.questions, setting.expected, strict=True
    ):
        longest = min(prompt, positions - new) if positions else prompt
        batched = with_rows(longest + new, items)
        batches = -(-items // int(batched.score_batch))
        try:
            work = cell_work.scoring_work(catalog, cell.model, name, rank, batched, longest, new, kept, kernels)
        except cell_work.NotTraced:  # at least what the base takes
            work = cell_work.scoring_work(catalog, cell.model, "base", None, batched, longest, new, kept, kernels)
        peaks.append(work.peak)
        if card is not None:
            reading, making = (
                batches * part.seconds(card, protocol.tf32) / roofline.EFFICIENCY
                for part in (work.prompts, work.answers)
            )
            most += reading + making
            expected += reading * min(prompt_tokens / longest, 1) + making * answer_tokens / new
    return (None, None, max(peaks)) if card is None else (most, expected, max(peaks))


def batches_of(
    catalog: Catalog,
    model: str,
    method: str,
    rank: int | None,
    protocol: Protocol,
    card: DeviceEntry | None,
    kept: Path,
) -> Callable[[int, int], Protocol]:
    """(tokens of a prompt and its answer, items) -> the protocol with the rows of a batch of such for `auto`."""
    if protocol.score_batch != "auto":
        return lambda length, items: protocol
    config = read_config(catalog, model)
    held = cell_work.cell_counts(catalog, model, method, rank, protocol, kept)["memory"]
    return partial(numbered, protocol, config, roofline.room(card) - held["weights"] - held["adapter"])


def costs(plan: Plan, card: DeviceEntry | None, rates: dict[str, float], kept: Path = CACHE) -> list[CellCost]:
    """The cost of every cell of a plan, bases first within a table. What isn't kept yet is traced."""
    cells = [cell for table in plan.experiment.tables for cell in plan.cells(table)]
    settings = {table: setting_of(plan, table) for table in plan.experiment.tables}
    known: dict[Cell, CellCost] = {}
    with only_kept():
        for cell in cells:
            try:
                known[cell] = cell_cost(plan, cell, settings[cell.table], card, rates, kept)
            except NotKept:
                continue
    missing = [cell for cell in cells if cell not in known]
    if missing:
        known |= traced(plan, missing, settings, card, rates, kept)
    return [known[cell] for cell in cells]


def traced(
    plan: Plan, cells: list[Cell], settings: dict[str, Setting], card: Any, rates: Any, kept: Path
) -> dict[Cell, CellCost]:
    """The costs of `cells` from fresh traces, many of them by as many processes as there are cores; a progress bar."""
    from rich.console import Console
    from rich.progress import Progress

    workers = min(os.cpu_count() or 1, len(cells)) if len(cells) >= MANY else 1
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("tracing", total=len(cells))
        known = {}
        if workers == 1:
            for cell in cells:
                known[cell] = cell_cost(plan, cell, settings[cell.table], card, rates, kept)
                progress.advance(bar)
            return known
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_quiet) as pool:
            jobs = {pool.submit(cell_cost, plan, cell, settings[cell.table], card, rates, kept): cell for cell in cells}
            for job in as_completed(jobs):
                known[jobs[job]] = job.result()
                progress.advance(bar)
            return known


def _quiet() -> None:
    """Libraries' warnings don't concern what is traced on `meta`, and would break the progress bar."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
