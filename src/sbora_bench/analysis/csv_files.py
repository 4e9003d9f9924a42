"""The three flat files of an experiment: their columns, how they are spelt, and reading them back typed."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.results.records import old_metric

if TYPE_CHECKING:
    import pandas as pd

TEXT, WHOLE, FRACTION = "string", "Int64", "Float64"  # pandas types that know a missing value
PREDICTED = {"weights": "weights", "optimizer": "optimizer", "activation": "activations", "peak": "peak"}
SCORES = {
    "experiment": TEXT,
    "table": TEXT,
    "run": TEXT,
    "model": TEXT,
    "method": TEXT,
    "rank": WHOLE,
    "seed": WHOLE,
    "train": TEXT,
    "task": TEXT,
    "metric": TEXT,
    "value": FRACTION,
    "stderr": FRACTION,
    "n": WHOLE,
    "protocol": TEXT,
    "status": TEXT,
    "low": FRACTION,
    "high": FRACTION,
    "clean_value": FRACTION,  # of the items whose question is not in the training set
    "clean_n": WHOLE,
    "micro": FRACTION,  # over items and over subjects, where items have subjects
    "macro": FRACTION,
    "gold_loss": FRACTION,  # of the gold answer, nats a token
    "by_likelihood": FRACTION,  # share of choices whose likeliest label is right
    "learning_rate": FRACTION,  # that was picked for the cell before its runs were made
    "mean_over": TEXT,  # items or subjects: what the value is a mean over
}
# columns of `scores.csv` that only experiments with such values have, and `mean_over`, which older files lack
OPTIONAL = ("gold_loss", "by_likelihood", "learning_rate", "mean_over")
FOOTPRINT = {
    "experiment": TEXT,
    "table": TEXT,
    "model": TEXT,
    "method": TEXT,
    "rank": WHOLE,
    "trainable_parameters": WHOLE,
    "total_parameters": WHOLE,
    "adapter_bytes": WHOLE,
    **{f"{part}_bytes": WHOLE for part in PREDICTED},
    "measured_peak_bytes": WHOLE,
    "flops_per_step": WHOLE,
}
BUDGET = {
    "table": TEXT,
    "model": TEXT,
    "method": TEXT,
    "rank": WHOLE,
    "trained": WHOLE,  # seeds, whose means these are
    "steps": FRACTION,
    "examples": FRACTION,
    "tokens": FRACTION,
    "seconds": FRACTION,
    "flops": FRACTION,
    "peak_bytes": WHOLE,  # estimated
    "measured_peak_bytes": WHOLE,  # by an allocator
    "process_peak_bytes": WHOLE,  # of all that the process held, on a CPU
}


def csv_text(columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """CSV with a header, `\\n` at line ends, six decimals for fractions and nothing where there is no value."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns)).astype(columns)
    frame = frame.drop(columns=[name for name in OPTIONAL if name in columns and frame[name].isna().all()])
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read_frame(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """A CSV that `collect` wrote, typed, optional columns too. Raises UserError if it's missing, damaged or has other
    columns.
    """
    import pandas as pd

    try:
        header = pd.read_csv(path, nrows=0).columns.tolist()
        if header == [name for name in columns if name in header or name not in OPTIONAL]:
            read = pd.read_csv(path, dtype=columns, keep_default_na=False, na_values=[""])
            return read.reindex(columns=list(columns)).astype(columns)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sbora-bench collect` first") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole table ({error}); delete it and collect again") from None
    raise UserError(f"{path}: columns: found {header}, allowed {list(columns)}; delete it and collect again")


def read_scores(results: Path) -> pd.DataFrame:
    """`scores.csv`, typed: a row a run and task."""
    read = read_frame(results / "scores.csv", SCORES)
    if read.mean_over.isna().all():
        named = [old_metric(metric) for metric in read.metric.fillna("")]
        read = read.assign(metric=[name for name, _ in named], mean_over=[over for _, over in named])
        read = read.astype(SCORES)
    return read


def read_footprint(results: Path) -> pd.DataFrame:
    """`footprint.csv`, typed: a row a table cell."""
    return read_frame(results / "footprint.csv", FOOTPRINT)


def read_budget(results: Path) -> pd.DataFrame:
    """`budget.csv`, typed: a row a trained table cell."""
    return read_frame(results / "budget.csv", BUDGET)


def _line(columns: Iterable[str]) -> Any:
    return namedtuple("Line", columns)


def lines(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples, None for what is missing: one by one they are read many times faster than a frame's."""
    import pandas as pd

    line = _line(frame.columns)
    columns = [[None if value is pd.NA else value for value in frame[name].tolist()] for name in frame]
    return [line(*values) for values in zip(*columns, strict=True)]


def by_place(frame: pd.DataFrame) -> dict[tuple[str, str, str, int | None], Any]:
    """(table, model, method, rank) -> its line of `footprint.csv` or `budget.csv`."""
    return {(line.table, line.model, line.method, line.rank): line for line in lines(frame)}
