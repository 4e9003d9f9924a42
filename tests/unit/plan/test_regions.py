"""Which runs have their regions shown: named in the experiment, known from it alone, and no part of any run's key."""

import pytest

from sbora_bench.plan.load import load_plan
from sbora_bench.plan.narrowing import narrowed
from sbora_bench.plan.settings import data_settings, settings_hash
from sbora_bench.report.outputs import figure_files, table_files
from sbora_bench.report.publish import region_files
from sbora_bench.workflow.files import Files
from tests.factories.workplace import TABLE, workplace  # noqa: F401

REGIONS = (*TABLE, "regions")
SHOWN = {"cells": ["sbora-fa-r4", "lora-r4"], "seeds": [1, 0]}


def test_what_is_shown_is_known_from_the_plan(workplace):  # noqa: F811
    files = Files(load_plan(workplace.experiment((REGIONS, SHOWN))))
    names = [f"sums-ladder-xs-{method}-r4-s{seed}" for method in ("lora", "sbora-fa") for seed in (1, 0)]
    assert {key: [run.name for run in runs] for key, runs in files.region_jobs.items()} == {
        ("sums", "ladder-xs"): names
    }
    assert files.regions == [f"results/small/regions/{name}.json" for name in names]
    assert set(files.regions) < set(files.beside_runs) and region_files(files.plan) == [
        f"regions/{name}.json" for name in names
    ]
    assert {"tables/regions-sums.md", "tables/overlaps-sums.md"} < set(table_files(files.plan))
    shown = [name for name in figure_files(files.plan) if name.startswith("figures/region-") and name.endswith("svg")]
    assert shown == [f"figures/region-{name}.svg" for name in names[::2]]  # of each cell the first seed


def test_without_it_every_key_and_every_file_is_as_before(workplace):  # noqa: F811
    """The runs, too, of an experiment that shows regions are those of one that does not."""
    plain, showing = (load_plan(workplace.experiment(*edits)) for edits in ((), ((REGIONS, SHOWN),)))
    assert [settings_hash(plain, run) for run in plain.all_runs] == [
        settings_hash(showing, run) for run in showing.all_runs
    ]
    assert data_settings(plain, "sums") == data_settings(showing, "sums")
    files = Files(plain)
    assert files.region_jobs == {} and files.regions == region_files(plain) == []
    assert not [name for name in (*table_files(plain), *figure_files(plain)) if "region" in name or "overlap" in name]
    assert set(files.all) < set(Files(showing).all)


def test_a_part_shows_what_it_has(workplace):  # noqa: F811
    plan = load_plan(workplace.experiment((REGIONS, SHOWN)))
    part = narrowed(plan, "method=sbora-fa,seed=0")
    assert [run.name for run in part.region_runs("sums")] == ["sums-ladder-xs-sbora-fa-r4-s0"]
    shown = {"cells": ["lora-r4"], "seeds": [0]}
    plan = load_plan(workplace.experiment((REGIONS, shown)))
    assert narrowed(plan, "method=sbora-fa").experiment.tables["sums"].regions is None
    assert narrowed(plan, "seed=1").region_runs("sums") == []


@pytest.mark.parametrize(
    ("regions", "edits", "says"),
    [
        (
            {"cells": ["lora-r8"], "seeds": [0]},
            (),
            "regions.cells.0: unknown cell of this table 'lora-r8', did you mean",
        ),
        ({"cells": ["lora-r4"], "seeds": [2]}, (), "regions.seeds.0: found 2, allowed 0, 1: the seeds that every cell"),
        ({"cells": ["lora-r4", "lora-r4"], "seeds": [0]}, (), "a value stands twice"),
        ({"cells": [], "seeds": [0]}, (), "regions.cells"),
        (SHOWN, (((*TABLE, "learning_rates"), [5e-3, 1e-2]),), "each cell is run at every learning rate here"),
    ],
)
def test_a_mistake_is_one_line(workplace, regions, edits, says):  # noqa: F811
    path = workplace.experiment((REGIONS, regions), *edits)
    assert says in workplace.refused("plan", path)
