"""Options of the commands that estimate: what each of them changes."""

import json

import pytest

from sbora_bench.cost import cell_work
from sbora_bench.results.records import MEMORY_KINDS
from tests.factories.workplace import workplace  # noqa: F401

CELL = (
    "cell-footprint",
    "ladder-xs",
    "--method",
    "lora",
    "--rank",
    "4",
    "--protocol",
    "tiny",
    "--length",
    "16",
    "--json",
)


def figures(place, *options: str) -> dict:
    status, out, err = place.run(*CELL, *options)
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize(
    ("options", "key", "values"),
    [
        (["--optimizer", "adamw_8bit"], "optimizer", ["adamw_torch_fused", "adamw_8bit"]),
        (["--checkpointing"], "gradient_checkpointing", [False, True]),
    ],
)
def test_a_cell_is_trained_as_an_option_says(workplace, options, key, values):  # noqa: F811
    before, after = figures(workplace), figures(workplace, *options)
    assert [before[key], after[key]] == values and before["memory"]["peak"] != after["memory"]["peak"]


def test_the_layers_that_are_adapted_are_those_of_the_option(workplace):  # noqa: F811
    some, all_linear = (figures(workplace, "--target-modules", names) for names in ("q_proj,v_proj", "all-linear"))
    assert some["target_modules"] == ["q_proj", "v_proj"] and all_linear["target_modules"] == "all-linear"
    assert some["trainable_parameters"] < all_linear["trainable_parameters"]


def test_the_peak_over_ranks(workplace):  # noqa: F811
    ranks = [row["rank"] for row in figures(workplace, "--sweep", "rank")["sweep"]]
    assert ranks[:2] == [4, 8] and "sweep" not in figures(workplace)


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        (["paper-footprint", "out.csv"], "trainable_parameters"),
        (["paper-footprint", "out.csv", "--memory"], "peak"),
        (["footprint", "--paper-memory", "--output", "out.csv"], "peak"),
    ],
)
def test_memory_of_the_papers_scales_in_the_place_of_the_counts(workplace, monkeypatch, command, columns):  # noqa: F811
    counts = dict.fromkeys(("trainable_parameters", "total_parameters", "adapter_bytes"), 7)
    peaks = dict.fromkeys((*MEMORY_KINDS, "peak"), 7)
    monkeypatch.setattr(cell_work, "remembered", lambda _, kind, *__: counts if kind == "counts" else peaks)
    status, _, err = workplace.run(*command)
    assert status == 0, err
    assert columns in (workplace.folder / "out.csv").read_text().splitlines()[0].split(",")
