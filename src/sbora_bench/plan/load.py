"""An experiment file, read with its catalog."""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.checks import check_plan
from sbora_bench.plan.data_entries import CATALOG
from sbora_bench.plan.entry import NAME
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.explain import explain
from sbora_bench.plan.sizes import sized
from sbora_bench.plan.table import Experiment
from sbora_bench.strict_yaml import read_yaml


def load_plan(name: str) -> Plan:
    """Read experiment `name` (`experiments/NAME.yaml`) or a path to a YAML file, and check all of it.

    Raises UserError with file, key, what was found and what is allowed.
    """
    path, experiment, catalog = read_experiment(name)
    tables = {}
    for key, table in experiment.tables.items():
        where = f"{path}: tables.{key}"
        protocol = catalog.protocol(table.protocol, table.suite, table.overrides, f"{where}.protocol")
        tables[key] = table.model_copy(update={"grids": sized(table.grids, catalog, protocol, path, where)})
    plan = Plan(path.stem, experiment.model_copy(update={"tables": tables}), catalog, str(path))
    check_plan(plan)
    return plan


def read_experiment(name: str) -> tuple[Path, Experiment, Catalog]:
    """The file of an experiment, what it says, and its catalog; no rank is chosen yet where a grid says a size.

    Its catalog is the folder `catalog` beside the file or, where there is none, `experiments/catalog`. Raises UserError
    for an unknown name, a file that can't be read, and a key or value that isn't allowed.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        if not re.fullmatch(NAME, name):
            raise UserError(f"experiment {name!r}: a name has lower-case letters, digits, '.' and '-' only")
        path = Path("experiments") / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in Path("experiments").glob("*.yaml"))
            if not known:
                raise UserError(f"{path}: no such file in {Path.cwd()}; run this in the root of the repository")
            raise UserError(f"{path}: {one_of(name, known, 'experiment')}")
    stem = path.stem
    if stem == "published":
        raise UserError(f"{path}: results/published/ is for published results; choose another name")
    if not re.fullmatch(NAME, stem):
        raise UserError(f"{path}: an experiment's file is named in lower-case letters, digits, '.' and '-' only")
    try:
        experiment = Experiment.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Experiment)}") from None
    beside = path.parent / "catalog"
    return path, experiment, load_catalog(str(beside if any(beside.glob("*.yaml")) else CATALOG))


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment file (workflow/schemas/experiment.schema.json)."""
    schema = Experiment.model_json_schema()
    schema["properties"]["tables"]["additionalProperties"] = False  # pydantic lets names of other patterns pass
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
