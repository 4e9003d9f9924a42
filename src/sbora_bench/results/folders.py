"""Where things lie in a results folder: the one place that spells it.

runs/<run>/{train,scores,footprint}.json, samples/<task>.jsonl, adapter/; validation/ has scores and samples, too
data/<table>/{train,<task>}.jsonl, contamination.json
rates/<table>.json, rounds/<table>-<n>.json: where rates are picked, and their grids extended
regions/<run>.json: of the runs whose regions are shown
looks/<table>-<n>.json, footprints/<cell>.json: where seeds are added in looks, the latter for rounds too
store/<run>/<stage>-<hash>/, logs/<stage>/*.log, tables/, figures/, scores.csv, footprint.csv, budget.csv
"""

from pathlib import Path

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run

TRAINING, SCORES, FOOTPRINT, CONTAMINATION = "train.json", "scores.json", "footprint.json", "contamination.json"
BASE = "base.json"  # in the folder of a prepared model
RUNS, DATA, STORE, SAMPLES = "runs", "data", "store", "samples"
FOOTPRINTS, RATES, ROUNDS, LOOKS, REGIONS = "footprints", "rates", "rounds", "looks", "regions"
VALIDATION = "validation"  # folder of a table's data and of a run, of held-out training rows
LOGITS = "logits.safetensors"
MODEL_CARD = "README.md"  # in an adapter's folder
ADAPTER, ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter", "adapter_model.safetensors", "adapter_config.json"
ADAPTER_FILES = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, LOGITS)  # what training leaves in adapter/
PAPER_FOOTPRINT = "paper_footprint.csv"
RESOURCES = Path("resources")  # unless an option says otherwise


def run_folder(results: str | Path, run: Run | str) -> Path:
    """Records, samples and adapter of a run."""
    return Path(results) / RUNS / (run if isinstance(run, str) else run.name)


def scored_parts(plan: Plan, run: Run) -> tuple[str, ...]:
    """Folders below a run's that hold its scores: of the held-out training rows, and of the items (its own folder).

    A run that a learning rate is picked by is never scored on an item; nor are the others on held-out rows then.
    """
    table = plan.experiment.tables[run.table]
    if table.picking_seeds:
        return (VALIDATION,) if run.seed in table.picking_seeds else ("",)
    return (VALIDATION, "") if table.learning_rates else ("",)


def model_folder(model: str, resources: str | Path = RESOURCES) -> Path:
    """A prepared model."""
    return Path(resources) / "models" / model


def data_folder(results: str | Path, table: str) -> Path:
    """Rows of training and items of a table, as prepared."""
    return Path(results) / DATA / table


def rates_file(results: str | Path, table: str) -> Path:
    """Which learning rate was picked for each cell of a table."""
    return Path(results) / RATES / f"{table}.json"


def round_file(results: str | Path, table: str, number: int) -> Path:
    """Which cells of a table try which learning rate beyond their grid; the first round is 1."""
    return Path(results) / ROUNDS / f"{table}-{number}.json"


def look_file(results: str | Path, table: str, look: int) -> Path:
    """What a look at a table's seeds so far says; the first is 1."""
    return Path(results) / LOOKS / f"{table}-{look}.json"


def region_file(results: str | Path, run: Run | str) -> Path:
    """What a run's adapter changes in the base's weights."""
    return Path(results) / REGIONS / f"{run if isinstance(run, str) else run.name}.json"


def footprint_of(plan: Plan, results: str | Path, run: Run) -> Path:
    """Beside a run's other records; one a cell where it isn't known beforehand which runs it has."""
    if plan.experiment.tables[run.table].staged:
        return Path(results) / FOOTPRINTS / f"{run.cell.name}.json"
    return run_folder(results, run) / FOOTPRINT


def store_folder(results: str | Path, run: Run | str) -> Path:
    """The entries of a run in the store."""
    return Path(results) / STORE / (run if isinstance(run, str) else run.name)


def samples_file(folder: Path, task: str) -> Path:
    """The samples of a task in a run's folder, in its `validation/`, or in an entry of the store."""
    return folder / SAMPLES / f"{task}.jsonl"


def log_files(results: str | Path, stage: str = "*") -> list[Path]:
    """The logs of the jobs of a stage, or of all, sorted."""
    return sorted((Path(results) / "logs").glob(f"{stage}/*.log"))
