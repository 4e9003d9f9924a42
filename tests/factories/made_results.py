"""A small experiment whose records are made by hand: two tables, five tuned cells a model, right answers by rule."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import yaml

from sbora_bench.files import hash_of, sha256, write_jsonl
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import data_settings, run_settings, settings_hash, training_settings
from sbora_bench.report.render import PrintedTable
from sbora_bench.report.tables import TABLES
from sbora_bench.results.folders import VALIDATION
from sbora_bench.results.read import Results
from sbora_bench.results.records import (
    ContaminationRecord,
    FootprintRecord,
    ScoresRecord,
    TaskData,
    TaskScore,
    TrainRecord,
    read_record,
    write_record,
)

ITEMS = 40
CONTAMINATED = [0, 3, 5]  # of AddSub
PROTOCOL = {
    "title": "By hand",
    "train_prompt": "plain",
    "score_prompt": "plain",
    "loss_on": "answer",
    "max_length": 64,
    "padding_side": "right",
    "pad": "own",
    "alpha_over_rank": 2,
    "dropout": 0.0,
    "target_modules": ["q_proj"],
    "learning_rate": 0.001,
    "schedule": "linear",
    "optimizer": "adamw_torch",
    "batch_size": 4,
    "micro_batch": 4,
    "steps": 10,
    "weights_dtype": "float32",
    "extraction": "strict",
}
METHODS = {"lora": "LoRA", "dora": "DoRA", "sbora-fa": "SBoRA-FA", "qlora": "QLoRA"}
TASKS = {"MultiArith": "MultiArith", "gsm8k": "GSM8K", "AddSub": "AddSub", "mmlu": "MMLU"}
# how many of 40 items each cell gets right, by task; a seed adds its number
RIGHT = {
    ("base", None): {"MultiArith": 2, "gsm8k": 1, "AddSub": 3, "mmlu": 10},
    ("lora", 32): {"MultiArith": 30, "gsm8k": 3, "AddSub": 20, "mmlu": 12},
    ("dora", 32): {"MultiArith": 31, "gsm8k": 4, "AddSub": 21, "mmlu": 12},
    ("sbora-fa", 32): {"MultiArith": 12, "gsm8k": 3, "AddSub": 20, "mmlu": 12},
    ("sbora-fa", 64): {"MultiArith": 33, "gsm8k": 4, "AddSub": 19, "mmlu": 12},
    ("qlora", 64): {"mmlu": 25},
}
TRAINABLE = {
    ("lora", 32): 56_098_816,
    ("dora", 32): 56_975_360,
    ("sbora-fa", 32): 28_049_408,
    ("sbora-fa", 64): 56_098_816,
}


def catalog(model_title: str = "LLaMA-7B") -> dict:
    arguments = {"r": "$rank"}
    return {
        "models": {
            "llama-7b": {"title": model_title, "source": {"kind": "folder", "path": "nowhere"}},
            "llama-s": {"title": "Small <s>|&_%", "source": {"kind": "folder", "path": "nowhere"}},
        },
        "methods": {
            name: {"title": title, "peft_type": "LORA", "arguments": arguments} for name, title in METHODS.items()
        },
        "tasks": {
            name: {"title": title, "template": "number", "answer": {"strict": "x"}, "items": {"paper": "items"}}
            for name, title in TASKS.items()
        },
        "suites": {
            "arithmetic": {"title": "Arithmetic reasoning", "tasks": ["MultiArith", "gsm8k", "AddSub"]},
            "mmlu": {"title": "MMLU", "tasks": ["mmlu"]},
        },
        "data": {
            name: {"kind": "synthetic", "maker": "items", "name": name, "seed": 0}
            for name in ("items", "math-10k", "alpaca", "flan-v2")
        },
        "protocols": {"by-hand": PROTOCOL},
    }


def experiment(seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    common = {"protocol": "by-hand", "seeds": list(seeds)}
    both = [{"models": ["llama-7b"], "methods": ["qlora"], "ranks": [64]}]
    return {
        "title": "By hand",
        "items": "paper",
        "tables": {
            "arithmetic": {
                **common,
                "title": "Arithmetic, by hand",
                "suite": "arithmetic",
                "train": "math-10k",
                "grids": [
                    {"models": ["llama-7b"], "methods": ["lora", "dora"], "ranks": [32]},
                    {"models": ["llama-7b"], "methods": ["sbora-fa"], "ranks": [32, 64]},
                    {"models": ["llama-s"], "methods": ["lora"], "ranks": [32]},
                ],
            },
            "mmlu-alpaca": {**common, "title": "Alpaca", "suite": "mmlu", "train": "alpaca", "grids": both},
            "mmlu-flanv2": {**common, "title": "Flanv2", "suite": "mmlu", "train": "flan-v2", "grids": both},
        },
    }


def make_plan(folder: Path, written: dict | None = None, entries: dict | None = None) -> Plan:
    """An experiment file (`written`) and its catalog (`entries`) below `folder`, read back."""
    (folder / "experiments/catalog").mkdir(parents=True)
    (folder / "experiments/catalog/all.yaml").write_text(yaml.safe_dump(entries or catalog()))
    path = folder / "experiments/by-hand.yaml"
    path.write_text(yaml.safe_dump(written or experiment(), sort_keys=False))
    return load_plan(str(path))


def make_results(plan: Plan, results: Path) -> None:
    """Every record of every run."""
    for table in plan.experiment.tables:
        make_contamination(plan, results, table)
    for run in plan.runs:
        make_run(plan, results, run)


def printed_tables(results: Results) -> list[PrintedTable]:
    """The tables that have files of their own, as data. Raises UserError where `collect` has not run."""
    return [table for view in TABLES if view.formats for table in view.tables(results)]


def with_settings(plan: Plan, results: Path) -> None:
    """The tables' data again, with the hash of their settings in the record."""
    for table in plan.experiment.tables:
        make_contamination(plan, results, table, hash_of(data_settings(plan, table)))


def with_table(written: dict, **changes) -> dict:
    """The experiment as it is written, with changes of its arithmetic table."""
    return written | {"tables": written["tables"] | {"arithmetic": written["tables"]["arithmetic"] | changes}}


def make_experiment(folder: Path, written: dict | None = None, entries: dict | None = None) -> tuple[Plan, Path]:
    """A plan below `folder` and its results there, every record of every run."""
    plan, results = make_plan(folder, written, entries), folder / "results"
    make_results(plan, results)
    return plan, results


def make_contamination(plan: Plan, results: Path, table: str, settings_sha256: str = "") -> None:
    """`settings_sha256`: of the data's settings; a record without is taken as it is."""
    entry = plan.experiment.tables[table]
    tasks = {task: TaskData(available=ITEMS, n=ITEMS) for task in plan.scored(table)}
    if "AddSub" in tasks:
        tasks["AddSub"] = TaskData(available=ITEMS, contaminated=CONTAMINATED, n=ITEMS)
    record = ContaminationRecord(
        experiment=plan.name,
        table=table,
        train=entry.train,
        train_rows=100,
        train_sha256="0" * 64,
        policy=entry.contaminated,
        settings_sha256=settings_sha256,
        tasks=tasks,
    )
    write_record(results / "data" / table / "contamination.json", record)


def samples(run: Run, task: str) -> list[dict]:
    """Right are the first items; answers are 1, 2, 3, 4 in turn, so the commonest has a quarter of them."""
    right = RIGHT[run.method, run.rank][task] + (run.seed or 0)
    answers = itertools.cycle("1234")
    return [
        {
            "id": item,
            "prompt": f"item {item}",
            "response": answer if item < right else "<script>alert(1)</script>",
            "extracted": answer if item < right else "",
            "answer": answer,
            "correct": item < right,
            "contaminated": task == "AddSub" and item in CONTAMINATED,
            **({"subject": ("algebra", "birds")[item % 2]} if task == "mmlu" else {}),
        }
        for item, answer in zip(range(ITEMS), answers, strict=False)
    ]


def own_items(right: dict[str, int], around: list[int]) -> Callable[[Run, str], list[dict]]:
    """In the place of `samples`: items of the run's own seed, of which so many as its method has in `right` are right,
    and by chance some more or less.
    """
    shared = {"prompt": "", "response": "", "extracted": "", "answer": "1", "contaminated": False}

    def items_of(run: Run, task: str) -> list[dict]:
        count = right.get(run.method, 5) + random.Random(f"{run.method} {run.seed} {task}").choice(around)
        return [{"id": 1000 * (run.seed or 0) + item, "correct": item < count, **shared} for item in range(ITEMS)]

    return items_of


def extra(task: str, rows: list[dict], value: float) -> dict[str, float]:
    if task == "mmlu":
        return {"macro": value, "micro": value + 0.01}
    clean = [row["correct"] for row in rows if not row["contaminated"]]
    return {"clean": sum(clean) / len(clean), "clean_n": len(clean)} if len(clean) < len(rows) else {}


def score_again(results: Path, run: Run, task: str, rows: list[dict], **fields) -> None:
    """Other samples of one task of a run that there is, and its score's `fields` with them."""
    folder = results / "runs" / run.name
    samples_file = folder / "samples" / f"{task}.jsonl"
    write_jsonl(samples_file, rows)
    record = read_record(folder / "scores.json", ScoresRecord)
    score = record.tasks[task].model_copy(update={"samples_sha256": sha256(samples_file)} | fields)
    write_record(folder / "scores.json", record.model_copy(update={"tasks": record.tasks | {task: score}}))


def make_run(plan: Plan, results: Path, run: Run, missing: tuple[str, ...] = (), failed: str = "") -> None:
    """The records of one run; tasks in `missing` are not available; `failed` is why all of it failed."""
    folder = results / "runs" / run.name
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    names |= {"experiment": plan.name, "run": run.name, "status": "failed" if failed else "ok", "reason": failed}
    scores = {}
    for task in () if failed else plan.scored(run.table):
        if task in missing:
            scores[task] = TaskScore(status="not available", reason="no file")
            continue
        rows = samples(run, task)
        write_jsonl(folder / "samples" / f"{task}.jsonl", rows)
        value = sum(row["correct"] for row in rows) / len(rows)
        scores[task] = TaskScore(
            metric="acc",
            mean_over="subjects" if task == "mmlu" else "items",
            value=value,
            stderr=(value * (1 - value) / len(rows)) ** 0.5,
            n=len(rows),
            samples_sha256=sha256(folder / "samples" / f"{task}.jsonl"),
            extra=extra(task, rows, value),
        )
    settings = run_settings(plan, run)
    record = ScoresRecord(
        **names,
        suite=settings["suite"],
        train=settings["train"],
        protocol=settings["protocol_name"],
        settings_sha256=settings_hash(plan, run),
        tasks=scores,
    )
    write_record(folder / "scores.json", record)
    count = TRAINABLE.get((run.method, run.rank), 0 if run.is_base else 159_907_840)
    footprint = FootprintRecord(
        model=run.model,
        method=run.method,
        rank=run.rank,
        trainable_parameters=count,
        total_parameters=6_738_415_616 + count,
        adapter_bytes=None if run.is_base else 4 * count,
        memory={"weights": 2 * 6_738_415_616},
    )
    write_record(folder / "footprint.json", footprint)
    if not run.is_base:
        curve = [{"step": step, "loss": 3.0 / step + 0.1 * run.seed, "learning_rate": 0.001} for step in (1, 5, 10)]
        happened = {"steps": 10, "tokens": 640, "seconds": 1.5, "tokens_per_second": 427.0, "loss_curve": curve}
        happened |= {"peak_memory_bytes": 10**9 + run.seed, "trainable_parameters": count, "micro_batch": 4}
        on = {"versions": {"torch": "2"}, "hardware": {"gpu": "A card"}}
        record = TrainRecord(**names, asked=training_settings(plan, run), happened={} if failed else happened, on=on)
        write_record(folder / "train.json", record)


def make_held_out(plan: Plan, results: Path, run: Run, right: int) -> None:
    """What a run that a rate is picked by leaves: scores of 20 held-out rows alone; below 0 it failed."""
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    score = TaskScore(metric="acc", value=right / 20, n=20)
    record = ScoresRecord(
        **names,
        experiment=plan.name,
        run=run.name,
        status="failed" if right < 0 else "ok",
        reason="out of memory" if right < 0 else "",
        suite=run.table,
        train="math-10k",
        protocol="by-hand",
        settings_sha256=settings_hash(plan, run),
        tasks={} if right < 0 else {"MultiArith": score},
    )
    write_record(results / "runs" / run.name / VALIDATION / "scores.json", record)


GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_FILES = ["scores.csv", "footprint.csv", "budget.csv"] + [
    f"tables/arithmetic.{suffix}" for suffix in ("md", "csv", "tex", "html")
]
GOLDEN_FILES += [
    "tables/mmlu.md",
    "tables/mmlu.csv",
    "tables/separation.md",
    "tables/separation.csv",
    "tables/differences.csv",
    "tables/averages.csv",
    "tables/cells.csv",
]


def write_golden() -> None:
    """Draw the golden files anew, to be read before they are committed: `python -m tests.factories.made_results`."""
    import shutil
    import tempfile

    from sbora_bench.analysis.collect import collect
    from sbora_bench.report.tables import tables

    with tempfile.TemporaryDirectory() as folder:
        plan, results = make_plan(Path(folder)), Path(folder) / "results"
        make_results(plan, results)
        collect(plan, results)
        tables(plan, results)
        for name in GOLDEN_FILES:
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / name, GOLDEN / name)


if __name__ == "__main__":
    write_golden()
