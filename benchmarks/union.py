"""Two tasks trained apart and joined in one adapter, scored on both: SBoRA's exact union against LoRA's ways.

    snakemake --cores all --config experiment=ladder-union
    python benchmarks/union.py --output results/published/union-cpu.json

The parts are the adapters of experiment `ladder-union`. For every way of joining them, and every seed, the joined
adapter is scored on all items of both suites, as the parts were on their own. Writes the JSON and, beside it, the same
as a Markdown table: means of a suite's tasks in per cent, and mean and standard deviation over the seeds.
"""

import argparse
import gc
import logging
import statistics
from pathlib import Path

import torch
from peft import PeftModel
from tqdm import tqdm

import sbora  # noqa: F401  (registers SBORA with PEFT)
from sbora_bench import provenance
from sbora_bench.files import write_json, write_text
from sbora_bench.inputs.models.load import load_base, load_tokenizer
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.runs import Run
from sbora_bench.results.records import ContaminationRecord, ScoresRecord, read_record
from sbora_bench.score.evaluate import adapter_folder
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.tasks import prepared_items, score_task

SUITES = ("commonsense", "arithmetic")  # the tables of the experiment, in the order of the parts
RANK = 16
WAYS = {  # how: the parts' methods, by how many seeds the second part's is further, arguments of the joining
    "SBoRA-FA, disjoint halves": ("sbora-fa-half0", "sbora-fa-half1", 0, {}),
    "SBoRA-FA, regions drawn apart": ("sbora-fa", "sbora-fa", 1, {}),
    "SBoRA-FA, one region": ("sbora-fa", "sbora-fa", 0, {}),
    "SBoRA-FB, disjoint halves": ("sbora-fb-half0", "sbora-fb-half1", 0, {}),
    "SBoRA-FB, regions drawn apart": ("sbora-fb", "sbora-fb", 1, {}),
    "SBoRA-FB, one region": ("sbora-fb", "sbora-fb", 0, {}),
    "LoRA, cat": ("lora", "lora", 0, {"combination_type": "cat"}),
    "LoRA, linear": ("lora", "lora", 0, {"combination_type": "linear"}),
    "LoRA, svd": ("lora", "lora", 0, {"combination_type": "svd"}),
}


def parts_of(plan: Plan, way: str, seed: int) -> list[Run]:
    """The two runs that are joined for a seed."""
    first, second, further, _ = WAYS[way]
    seeds = plan.experiment.tables[SUITES[1]].seeds
    other = seeds[(seeds.index(seed) + further) % len(seeds)]
    names = [f"{SUITES[0]}-ladder-s-{first}-r{RANK}-s{seed}", f"{SUITES[1]}-ladder-s-{second}-r{RANK}-s{other}"]
    return [plan.run(name) for name in names]


def joined(plan: Plan, way: str, seed: int, resources: Path, results: Path):
    """(model with the joined adapter active, number of its parameters that differ from 0 by construction)."""
    protocol = plan.protocol(SUITES[0])
    base = load_base(resources, "ladder-s", protocol, None)
    first, second = (adapter_folder(plan, results, run) for run in parts_of(plan, way, seed))
    model = PeftModel.from_pretrained(base, str(first), adapter_name="first")
    model.load_adapter(str(second), adapter_name="second")
    arguments = WAYS[way][3]
    model.base_model.add_weighted_adapter(["first", "second"], adapter_name="both", weights=[1.0, 1.0], **arguments)
    model.set_adapter("both")
    size = sum(p.numel() for name, p in model.named_parameters() if ".both" in name)
    return model.eval(), size


def mean_score(scores: dict[str, float]) -> float:
    return 100 * statistics.fmean(scores.values())


def score(plan: Plan, model, table: str, resources: Path, results: Path) -> dict[str, float]:
    """Score of every task of a table's suite, by the very items and templates of its runs."""
    protocol = plan.protocol(table)
    tokenizer = load_tokenizer(resources, "ladder-s", protocol)
    data = results / "data" / table
    task_data = read_record(data / "contamination.json", ContaminationRecord).tasks
    scorer = Scorer(model, tokenizer, protocol.score_batch, protocol.score_max_length)
    scores = {}
    for task in plan.tasks(table):
        items = prepared_items(data / f"{task}.jsonl", task_data[task].sha256)
        config = task_config(task, plan.catalog.tasks[task], protocol)
        scores[task] = score_task(scorer, config, items, protocol.macro_average)[0].value
    return scores


def alone(run: Run, results: Path) -> float:
    """Mean score of a part on its own suite."""
    record = read_record(results / "runs" / run.name / "scores.json", ScoresRecord)
    return mean_score({task: score.value for task, score in record.tasks.items()})


def spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(by_way: dict[str, list[dict]]) -> str:
    """The Markdown table of what was found: one line a way of joining."""
    lines = [
        "| joined | parameters | commonsense alone | joined | arithmetic alone | joined |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for way, seeds in by_way.items():
        cells = [spread([seed[suite][key] for seed in seeds]) for suite in SUITES for key in ("alone", "joined")]
        lines.append(f"| {way} | {seeds[0]['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=Path, default=Path("resources"))
    parser.add_argument("--results", type=Path, default=Path("results/ladder-union"))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/union.json"))
    args = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    plan = load_plan("ladder-union")
    torch.set_num_threads(plan.protocol(SUITES[0]).threads)
    torch.manual_seed(0)
    seeds = plan.experiment.tables[SUITES[0]].seeds
    by_way: dict[str, list[dict]] = {way: [] for way in WAYS}
    for way, seed in tqdm([(way, seed) for way in WAYS for seed in seeds], desc="joining and scoring"):
        model, size = joined(plan, way, seed, args.resources, args.results)
        row: dict = {"seed": seed, "parameters": size}
        for suite, part in zip(SUITES, parts_of(plan, way, seed), strict=True):
            scores = score(plan, model, suite, args.resources, args.results)
            row[suite] = {"alone": alone(part, args.results), "joined": mean_score(scores), "tasks": scores}
        by_way[way].append(row)
        del model
        gc.collect()
    write_json(args.output, {"rank": RANK, "versions": provenance.versions(), "results": by_way})
    write_text(args.output.with_suffix(".md"), table(by_way))
    print(table(by_way))


if __name__ == "__main__":
    main()
