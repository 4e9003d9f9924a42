"""The README.md beside a trained adapter, in Hugging Face's format: what it is, of what, how it was made, and again.

Nothing in it depends on the time, the machine or the scores: the same run, the same bytes.
"""

from pathlib import Path

from sbora_bench.experiment import Plan, Run

SHOWN = ["learning_rate", "schedule", "warmup_steps", "optimizer", "batch_size", "micro_batch", "steps", "epochs"]
SHOWN += ["max_length", "loss_on", "dropout", "target_modules", "weights_dtype", "autocast"]


def model_card(plan: Plan, run: Run, trainable: int, total: int) -> str:
    """The card of a tuned run; `trainable` of `total` parameters. Metadata and parsing by huggingface_hub."""
    from huggingface_hub import ModelCard, ModelCardData

    model, method = plan.catalog.models[run.model], plan.catalog.methods[run.method]
    table, protocol = plan.experiment.tables[run.table], plan.protocol_of(run)
    data = plan.catalog.data[table.train]
    metadata = ModelCardData(
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
    content = f"""---
{metadata.to_yaml()}
---

# {run.name}

{method.title} adapter of rank {run.rank} on {model.title}, trained on `{table.train}`: {trainable:,} of {total:,}
parameters. Scores, and what it was measured on, stand in the record of its run (`scores.json`), not here.

| Setting | |
|---|---|
{chr(10).join(lines)}

Made by, and to be made again with the same bytes on the same machine by:

```bash
sbora-bench finetune --experiment {Path(plan.path).stem} {run.name}
```
"""
    return str(ModelCard(content))
