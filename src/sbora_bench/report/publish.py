"""Copy what README, docs and notebooks show of an experiment's results: `sbora-bench publish -e EXPERIMENT`."""

import shutil
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import whole_file
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.outputs import published_files


def publish(plan: Plan, results: Path, folder: Path) -> list[str]:
    """Copy the published files of `results` into `folder`; returns them. Raises UserError where one is missing."""
    names = published_files(plan)
    missing = [name for name in names if not (results / name).is_file()]
    if missing:
        raise UserError(f"{results}: {missing[0]}: no such file; run the experiment to its end, then publish")
    for name in names:
        with whole_file(folder / name) as beside:
            shutil.copyfile(results / name, beside)
    return names
