"""The README.md of a tuned run's adapter, in Hugging Face's format: what it is, of what, how good, and how to make it.

`sbora-bench cards -e EXPERIMENT`, once runs are scored: of all that are.

Nothing in it depends on the time or the machine but the scores: the same run and scores, the same bytes.
"""

from pathlib import Path

from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.results.folders import ADAPTER, MODEL_CARD, run_folder
from sbora_bench.results.read import Results
from sbora_bench.results.records import ScoresRecord, TaskScore, TrainRecord

SHOWN = ["learning_rate", "schedule", "warmup_steps", "optimizer", "batch_size", "micro_batch", "steps", "epochs"]
SHOWN += ["max_length", "loss_on", "dropout", "target_modules", "weights_dtype", "autocast"]


def cards(plan: Plan, results: Path) -> None:
    """Write `runs/<run>/adapter/README.md` of every tuned run that has a record of scoring.

    Raises UserError for a damaged record, or one made under other settings than the plan's.
    """
    left = Results(plan, results)
    for run in plan.runs:
        scores = None if run.is_base else left.scores(run)
        if scores is not None:
            text = model_card(plan, run, left.training(run), scores)
            write_text(run_folder(results, run) / ADAPTER / MODEL_CARD, text)


def model_card(plan: Plan, run: Run, training: TrainRecord | None, scores: ScoresRecord) -> str:
    """The card of a tuned run: metadata with the scores as `model-index` (huggingface_hub writes it), settings, scores
    and the commands. Of a training that failed, why.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if training is not None and training.status == "failed":
        return f"Training failed: {training.reason}\n"
    model, method = plan.catalog.models[run.model], plan.catalog.methods[run.method]
    table, protocol = plan.experiment.tables[run.table], plan.protocol_of(run)
    data = plan.catalog.data[table.train]
    of_run = {task: scores.tasks[task] for task in plan.scored(run.table) if task in scores.tasks}
    known = {task: score for task, score in of_run.items() if score.status == "ok" and score.value is not None}
    metadata = ModelCardData(
        model_name=run.name if known else None,
        eval_results=eval_results(plan, run, known) or None,
        base_model=getattr(model.source, "id", run.model),
        datasets=[data.id] if data.kind == "hub" else None,
        library_name="peft",
        license="other" if " " in model.licence else model.licence.lower() or None,
        license_name=model.licence if " " in model.licence else None,
        pipeline_tag="text-generation",
        tags=[method.peft_type.lower(), run.method],
    )
    settings = {key: value for key, value in protocol.model_dump(mode="json").items() if key in SHOWN}
    rows = {"method": method.title, "rank": run.rank, "seed": run.seed, "protocol": table.protocol}
    rows |= {key: settings[key] for key in SHOWN if settings[key] is not None}
    if method.quantization:
        rows["quantization"] = method.quantization
    lines = [f"| {key} | {', '.join(value) if isinstance(value, list) else value} |" for key, value in rows.items()]
    known_counts = (training.happened.trainable_parameters, training.happened.total_parameters) if training else ()
    counts = [f"{count:,}" for count in known_counts if count is not None]
    counted = f": {' of '.join(counts)} parameters" if counts else ""
    scored = score_lines(plan, known) or [f"It has no score: {scores.reason or 'no task could be scored'}."]
    words = f"--experiment {Path(plan.path).stem} {run.name}"
    content = f"""---
{metadata.to_yaml()}
---

# {run.name}

{method.title} adapter of rank {run.rank} on {model.title}, trained on `{table.train}`{counted}.

| Setting | |
|---|---|
{chr(10).join(lines)}

## Scores

{chr(10).join(scored)}

## Again

With the same bytes on the same machine:

```bash
sbora-bench finetune {words}
sbora-bench evaluate {words}
```
"""
    return str(ModelCard(content))


def eval_results(plan: Plan, run: Run, scores: dict[str, TaskScore]) -> list:
    """The scores as huggingface_hub's results, one a task."""
    from huggingface_hub import EvalResult

    items = plan.items(run.table)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=items[task],
            dataset_config=task,  # results of one dataset and no configuration would be lumped together
            dataset_name=plan.catalog.tasks[task].title,
            metric_type=score.metric,
            metric_value=round(score.value, 6),
        )
        for task, score in scores.items()
        if score.value is not None
    ]


def score_lines(plan: Plan, scores: dict[str, TaskScore]) -> list[str]:
    """A Markdown table of the scores; empty where there is none."""
    tasks = plan.catalog.tasks
    lines = [
        f"| {tasks[task].title} | {score.measured.text(score.value)} | {score.measured.text(score.stderr)} |"
        f" {score.n:,} | {score.shown_metric} |"
        for task, score in scores.items()
    ]
    head = ["| Task | Score, % | Standard error | Items | Metric |", "|---|---:|---:|---:|---|"]
    return [*head, *lines] if lines else []
