"""The JSON schema in `workflow/schemas/` is the typed experiment's own, and every shipped experiment holds to both."""

import json

import jsonschema
import pytest

from sbora_bench.inputs.check import checked_plan
from sbora_bench.plan.load import json_schema
from sbora_bench.strict_yaml import read_yaml
from tests.factories.shipped import ROOT
from tests.factories.workplace import EXPERIMENT, edited

SCHEMA = ROOT / "workflow" / "schemas" / "experiment.schema.json"
SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))


def test_the_committed_schema_is_that_of_the_types():
    committed = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert committed == json_schema(), "run: sbora-bench schema > workflow/schemas/experiment.schema.json"
    jsonschema.Draft202012Validator.check_schema(committed)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_validates_and_plans(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    jsonschema.validate(read_yaml(path), json_schema())
    plan = checked_plan(str(path.relative_to(ROOT)))
    assert plan.name == path.stem
    assert len({run.name for run in plan.runs}) == len(plan.runs) > len(plan.experiment.tables)


@pytest.mark.parametrize(
    "edit",
    [
        (("titel",), "x"),
        (("tables", "sums", "seeds"), []),
        (("tables", "sums", "grids", 0, "ranks"), [0]),
        (("tables", "sums", "grids", 0, "models"), []),
        (("tables",), {"../up": EXPERIMENT["tables"]["sums"]}),
    ],
)
def test_the_schema_refuses_what_the_types_refuse(edit):
    jsonschema.validate(EXPERIMENT, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(edited(EXPERIMENT, edit), json_schema())
