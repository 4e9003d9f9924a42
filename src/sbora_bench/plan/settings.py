"""All that a run, its training or a table's data depend on, but their inputs' bytes and the code; and its hashes."""

from typing import Any

from sbora_bench.files import content_sha256, hash_of
from sbora_bench.plan.data_entries import HubData, LmEvalData, OwnData
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.hub_copies import below_root
from sbora_bench.plan.protocol import SCORING
from sbora_bench.plan.runs import Run

SCORED = ("tasks", "also", "answers", "fresh_items")  # of a run's settings, those that training doesn't depend on


def data_settings(plan: Plan, table: str, own: dict[str, str] | None = None) -> dict[str, Any]:
    """All that a table's prepared data depend on, as JSON; `own`: in the place of `own_data`, which reads files."""
    entry, protocol = plan.experiment.tables[table], plan.protocol(table)
    data = plan.catalog.data
    own = own_data_hashes(plan, table) if own is None else own
    more: dict[str, Any] = {"validation_items": entry.validation_items} if entry.learning_rates else {}
    if entry.also:
        more["also"] = {suite: plan.protocol(table, suite).score_prompt for suite in entry.also}
    if plan.gold(table):
        more["gold"] = True
    if seeds := plan.fresh_seeds(table):
        more["fresh_seeds"] = seeds
    if own:
        more["own_data"] = own
    if whole := [task for task in plan.scored(table) if plan.catalog.tasks[task].own_template()]:
        more["own_templates"] = whole  # they read any column
    used = [
        protocol.train_prompt,
        *(plan.protocol(table, suite).score_prompt for suite in plan.scored(table).values()),
    ]
    if own_prompts := {name: plan.catalog.prompts[name].stated for name in used if name in plan.catalog.prompts}:
        more["own_prompts"] = own_prompts
    return more | {
        "suite": entry.suite,
        "train": {entry.train: data[entry.train].model_dump(mode="json")},
        "items": {task: data[name].model_dump(mode="json") for task, name in plan.items(table).items()},
        "train_prompt": protocol.train_prompt,
        "score_prompt": protocol.score_prompt,
        **entry.model_dump(mode="json", include={"limit", "limit_seed", "contaminated", "missing"}),
    }


def own_data_hashes(plan: Plan, table: str) -> dict[str, str]:
    """Name -> SHA-256 of the data of one's own that a table is trained and scored on, copies of sets of the hub
    among them. Raises UserError where there is no such file.
    """
    names = [plan.experiment.tables[table].train, *plan.items(table).values()]
    data = {name: plan.catalog.data[name] for name in names}
    own = {name: entry for name, entry in data.items() if isinstance(entry, OwnData | LmEvalData)}
    files = {name: entry.file() for name, entry in own.items() if isinstance(entry, OwnData) or entry.include_path}
    hashes = {name: [content_sha256(file)] for name, file in files.items()}
    instead = {entry.otherwise for entry in data.values() if isinstance(entry, HubData) and entry.otherwise}
    for name, entry in (data | {name: plan.catalog.data[name] for name in sorted(instead)}).items():
        if folder := below_root(entry):
            hashes.setdefault(name, []).append(content_sha256(folder))
    return {name: both[0] if len(both) == 1 else hash_of(both) for name, both in hashes.items()}


def run_settings(plan: Plan, run: Run) -> dict[str, Any]:
    """All that a run depends on but its inputs' bytes and the code, as JSON: a record's settings."""
    entry = plan.experiment.tables[run.table]
    method = None if run.is_base else plan.catalog.methods[run.method].model_dump(mode="json")
    also = {suite: plan.protocol(run.table, suite).model_dump(mode="json") for suite in entry.also}
    more: dict[str, Any] = {"also": also} if also else {}
    if plan.gold(run.table):
        more["answers"] = {"gold": True, "by": entry.answer_by}
    if entry.fresh_items:
        more["fresh_items"] = True
    return more | {
        "experiment": plan.name,
        "table": run.table,
        "run": run.name,
        "model": run.model,
        "method": run.method,
        "rank": run.rank,
        "seed": run.seed,
        "suite": entry.suite,
        "train": None if run.is_base else entry.train,
        "protocol_name": entry.protocol,
        "protocol": plan.protocol_of(run).model_dump(mode="json"),
        "model_entry": plan.catalog.models[run.model].model_dump(mode="json"),
        "method_entry": method,
        "tasks": {task: plan.catalog.tasks[task].settings() for task in plan.scored(run.table)},
    }


def settings_hash(plan: Plan, run: Run) -> str:
    """SHA-256 of all settings of a run (`run_settings`), as its scores hold it."""
    return hash_of(run_settings(plan, run))


def training_settings(plan: Plan, run: Run) -> dict[str, Any]:
    """The settings less those of scoring: another number of beams, say, doesn't train anew."""
    settings = {key: value for key, value in run_settings(plan, run).items() if key not in SCORED}
    protocol = {key: value for key, value in settings["protocol"].items() if key not in SCORING}
    return settings | {"protocol": protocol}


def training_hash(plan: Plan, run: Run) -> str:
    """SHA-256 of the settings that a run's training depends on (`training_settings`)."""
    return hash_of(training_settings(plan, run))
