"""How planning, the DAG, tables and report grow from ten to a thousand runs: `python benchmarks/scale.py`.

Records are made up, written by the harness's own writers, with 100 items a task. Processor seconds (a shared machine's
clock says little) and peak memory of each command, from outside. Markdown on the screen, JSON into --output; with
--figure a drawing too, of what --output holds where --sizes is empty.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sbora_bench.files import read_json, sha256, whole_file, write_json, write_jsonl
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import run_settings, settings_hash, training_settings
from sbora_bench.results.records import (
    ContaminationRecord,
    FootprintRecord,
    ScoresRecord,
    TaskData,
    TaskScore,
    TrainRecord,
    write_record,
)

ROOT = Path(__file__).parents[1]
METHODS = ["lora", "sbora-fa", "dora", "sbora-fb"]
SIZES = {10: (1, 3, 1), 98: (2, 4, 4), 1029: (21, 4, 4)}  # runs -> tables, methods, ranks
ITEMS = 100
SEEDS = 3
COMMANDS = ("collect", "tables", "figures", "audit", "report")


def experiment(tables: int, methods: int, ranks: int) -> dict:
    """An experiment file; runs: tables x (1 + methods x ranks x seeds).

    More runs are more tables alike: within one each pair of methods and of ranks is compared, as many as their square.
    """
    grid = {"models": ["ladder-s"], "methods": METHODS[:methods], "ranks": list(range(1, ranks + 1))}
    common = {"protocol": "ladder", "seeds": list(range(SEEDS)), "grids": [grid]}
    named = {
        f"arithmetic-{number}": {**common, "suite": "arithmetic", "train": "ladder-math"} for number in range(tables)
    }
    return {"title": "Scale", "items": "ladder", "runs_per_job": 8, "tables": named}


def make_records(plan: Plan, results: Path) -> None:
    """Every record and sample of every run; right answers drawn by the run's name."""
    for table, entry in plan.experiment.tables.items():
        tasks = {task: TaskData(available=ITEMS, n=ITEMS) for task in plan.tasks(table)}
        record = ContaminationRecord(
            experiment=plan.name,
            table=table,
            train=entry.train,
            train_rows=1000,
            train_sha256="0" * 64,
            policy=entry.contaminated,
            tasks=tasks,
        )
        write_record(results / "data" / table / "contamination.json", record)
    for run in plan.runs:
        make_run(plan, results / "runs" / run.name, run)


def make_run(plan: Plan, folder: Path, run: Run) -> None:
    draw = random.Random(run.name)
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    names |= {"experiment": plan.name, "run": run.name}
    skill, settings, scores = draw.random(), run_settings(plan, run), {}
    for task in plan.tasks(run.table):
        rows = [
            {
                "id": item,
                "prompt": f"How many lamps are in the red house number {item} ? " * 4,
                "answer": str(item % 4),
                "contaminated": False,
                "correct": draw.random() < skill,
                "response": str(item % 4),
                "extracted": str(item % 4),
                "tokens": 3,
            }
            for item in range(ITEMS)
        ]
        path = folder / "samples" / f"{task}.jsonl"
        write_jsonl(path, rows)
        value = sum(row["correct"] for row in rows) / ITEMS
        spread = (value * (1 - value) / ITEMS) ** 0.5
        scores[task] = TaskScore(metric="acc", value=value, stderr=spread, n=ITEMS, samples_sha256=sha256(path))
    record = ScoresRecord(
        **names,
        suite=settings["suite"],
        train=settings["train"],
        protocol=settings["protocol_name"],
        settings_sha256=settings_hash(plan, run),
        tasks=scores,
    )
    write_record(folder / "scores.json", record)
    count = 1000 * (run.rank or 0) * (1 + METHODS.index(run.method)) if run.rank else 0
    record = FootprintRecord(
        model=run.model,
        method=run.method,
        rank=run.rank,
        trainable_parameters=count,
        total_parameters=10**6 + count,
        adapter_bytes=None if run.is_base else 4 * count,
        memory={"weights": 4 * 10**6, "optimizer": 8 * count, "activations": 10**6, "peak": 5 * 10**6},
    )
    write_record(folder / "footprint.json", record)
    if run.is_base:
        return
    curve = [{"step": step, "loss": 3 / step + draw.random(), "learning_rate": 1e-3} for step in range(1, 101)]
    happened = {"steps": 100, "tokens": 10**5, "seconds": 12.5, "tokens_per_second": 8000.0, "loss_curve": curve}
    happened |= {"peak_memory_bytes": 10**9, "trainable_parameters": count, "micro_batch": 8, "resumed_from_step": 0}
    on = {"versions": {"torch": "made up"}, "hardware": {"cpu": "made up", "gpu": None}, "threads": 1}
    record = TrainRecord(**names, asked=training_settings(plan, run), happened=happened, on=on)
    write_record(folder / "train.json", record)


def measured(folder: Path, *command: str) -> dict[str, float]:
    """Processor seconds, seconds and peak bytes of a command and its children. Raises RuntimeError where it fails."""
    output = folder / "told.log"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    started = time.perf_counter()
    with output.open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}: {output.read_text()[-3000:]}")
    factor = 1 if sys.platform == "darwin" else 1024
    costs = {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_bytes": used.ru_maxrss * factor,
    }
    print(json.dumps({"command": " ".join(command[2:]), **costs}), file=sys.stderr, flush=True)
    return costs


def measure(size: int, folder: Path) -> dict[str, dict[str, float]]:
    """Command -> what it takes with an experiment of `size` runs."""
    for name in ("Snakefile", "environment.yml", "workflow", "experiments", "profiles"):
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy2(source, folder / name)
    (folder / "experiments" / "scale.yaml").write_text(yaml.safe_dump(experiment(*SIZES[size]), sort_keys=False))
    plan = load_plan(str(folder / "experiments" / "scale.yaml"))
    assert len(plan.runs) == size, len(plan.runs)
    bench = (sys.executable, "-m", "sbora_bench.cli.main")
    snakemake = (sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run", "--quiet", "all")
    costs = {"plan": measured(folder, *bench, "plan", "scale")}
    costs["DAG (dry run)"] = measured(folder, *snakemake, "--config", "experiment=scale")
    make_records(plan, folder / "results" / "scale")
    for stage in COMMANDS:
        place = ("--tables", "results/scale/tables", "--own", "--output", "results/scale")
        arguments = place if stage == "audit" else ("--experiment", "scale")
        costs[stage] = measured(folder, *bench, stage, *arguments)
    costs["report"]["page_bytes"] = (folder / "results" / "scale" / "report.html").stat().st_size
    costs["status"] = measured(folder, *bench, "status", "scale")
    return costs


def draw(costs: dict[str, dict], path: Path) -> None:
    """Processor seconds of each command by runs, both axes logarithmic."""
    import matplotlib.style
    from matplotlib.figure import Figure

    from sbora_bench.report.plotting import DASHES, MARKERS, STYLE

    sizes = sorted(map(int, costs))
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(5.2, 2.8))
        axis = figure.subplots()
        times = {stage: [costs[str(size)][stage]["cpu_seconds"] for size in sizes] for stage in costs[str(sizes[0])]}
        for place, (stage, seconds) in enumerate(sorted(times.items(), key=lambda pair: -pair[1][-1])):
            axis.plot(sizes, seconds, marker=MARKERS[place], linestyle=DASHES[place], label=stage)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("Runs")
        axis.set_ylabel("Processor seconds")
        figure.legend(loc="outside right center")
        with whole_file(path) as beside:
            figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/scale.json"))
    parser.add_argument("--figure", type=Path, help="SVG file of the growth.")
    arguments = parser.parse_args()
    kept = {} if arguments.sizes else read_json(arguments.output)["runs"]
    costs = {size: kept[size] for size in sorted(kept, key=int)}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            costs[str(size)] = measure(size, Path(folder))
    write_json(arguments.output, {"items": ITEMS, "runs": costs})
    if arguments.figure:
        draw(costs, arguments.figure)
    print("\n| Processor seconds | " + " | ".join(f"{int(size):,} runs" for size in costs) + " | Peak memory |")
    print("| --- |" + " ---: |" * (len(costs) + 1))
    for stage in next(iter(costs.values())):
        times = [f"{by_command[stage]['cpu_seconds']:.1f}" for by_command in costs.values()]
        peak = max(by_command[stage]["peak_bytes"] for by_command in costs.values())
        print(f"| {stage} | {' | '.join(times)} | {peak / 2**20:,.0f} MiB |")


if __name__ == "__main__":
    main()
