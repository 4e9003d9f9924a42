"""What a plan costs: steps to the unit, the split that fits, hours by their formula, and nothing traced twice."""

import copy
import json
import os
import random
import subprocess
import sys

import pytest

from sbora_bench.cost import calibrate, cell_work, estimate, estimate_text, expected, roofline, table_setting
from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import DeviceEntry, load_catalog
from sbora_bench.plan.lengths import Lengths
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.table import Table
from tests.factories import shipped
from tests.factories.shipped import ROOT
from tests.factories.workplace import LOADED, workplace  # noqa: F401

GRIDS = [{"models": ["ladder-xs"], "methods": ["lora", "qsbora-fa"], "ranks": [4]}]


def card(memory_gib: float) -> DeviceEntry:
    return DeviceEntry(
        title="Card", memory_gib=memory_gib, bandwidth_gb_s=100, tflops={"float32": 1, "bfloat16": 4}, source="by hand"
    )


@pytest.fixture
def plan(workplace):  # noqa: F811
    """LoRA and QSBoRA-FA on the smallest model, two seeds, on data whose lengths nobody knows."""
    workplace.experiment((("tables", "sums", "grids"), GRIDS))
    load_catalog.cache_clear()
    loaded = load_plan("small")
    loaded.catalog = loaded.catalog.model_copy(update={"lengths": {}})
    return loaded


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Traces of all tests of this module."""
    return tmp_path_factory.mktemp("traces")


@pytest.mark.parametrize(("table", "steps"), [("commonsense", 10_643), ("arithmetic", 3_675), ("mmlu-flanv2", 10_000)])
@pytest.mark.parametrize("name", ["paper", "paper-clean"])
def test_the_paper_s_steps_follow_from_the_catalog_s_row_counts(monkeypatch, name, table, steps):
    monkeypatch.chdir(ROOT)
    plan = load_plan(name)
    assert table_setting.steps_of(plan.catalog, plan.experiment.tables[table].train, plan.protocol(table)) == steps


def test_rows_of_each_kind_of_data():
    catalog = shipped.catalog()
    counts = [table_setting.row_count(catalog, data) for data in ("math-10k", "alpaca", "flan-v2", "ladder-svamp")]
    assert counts == [9_919, 52_002, 50_000, 100]
    assert table_setting.row_count(catalog, "ladder-math") > 100


def test_what_a_table_scores(plan):
    protocol = plan.protocol("sums")
    assert table_setting.task_sizes(plan, "sums") == [(100, protocol.max_length, protocol.max_new_tokens)] * 6
    limited = plan.experiment.tables["sums"].model_copy(update={"limit": {"SVAMP": 7}})
    plan.experiment.tables["sums"] = limited
    assert [items for items, _, _ in table_setting.task_sizes(plan, "sums")] == [100] * 5 + [7]


def test_a_cell_by_hand(plan, kept):
    cells = estimate.costs(plan, card(10), {}, kept)
    assert [cell.run for cell in cells] == [
        "sums-ladder-xs-base",
        "sums-ladder-xs-lora-r4",
        "sums-ladder-xs-qsbora-fa-r4",
    ]
    base, lora, _ = cells
    protocol = plan.protocol("sums")
    work = cell_work.update_work(plan.catalog, "ladder-xs", "lora", 4, protocol, kept)
    assert (lora.steps, lora.tokens) == (10, 10 * 8 * 128) and (lora.micro_batch, lora.accumulation) == (4, 2)
    assert lora.train_peak_bytes == work.peak and lora.speed == "roofline"
    seconds = work.seconds(card(10)) / roofline.EFFICIENCY
    assert lora.tokens_per_second == pytest.approx(8 * 128 / seconds)
    assert lora.train_hours == lora.expected_train_hours == pytest.approx(10 * seconds / 3600)
    assert lora.seeds == 2 and lora.hours == pytest.approx(2 * (lora.train_hours + lora.score_hours))
    assert lora.adapter_bytes > 0 and lora.samples_bytes == 4 * 6 * 100 * (128 + 24)
    assert (base.seeds, base.steps, base.adapter_bytes, base.hours) == (1, None, 0, base.score_hours)
    assert (
        lora.base_bytes
        == base.base_bytes
        == 4 * cell_work.cell_counts(plan.catalog, "ladder-xs", "base", None, protocol, kept)["total_parameters"]
    )


def test_true_lengths_make_the_expected_hours(plan, kept):
    """Rows of 32 tokens, padded to as many, in the place of 128; prompts and answers half as long as allowed."""
    bound, (train,) = estimate.costs(plan, card(10), {}, kept)[1], {t.train for t in plan.experiment.tables.values()}
    protocol = plan.protocol("sums")
    prompt, new = protocol.max_length // 2, protocol.max_new_tokens // 2
    items = {name: Lengths(prompt=(prompt,) * 11, source="here") for name in plan.items("sums").values()}
    trained = {train: Lengths(example=(32,) * 11, answer=(new,) * 11, source="here")}
    catalog = plan.catalog.model_copy(update={"lengths": items | trained})
    protocol = catalog.protocol("tiny", "arithmetic", {"pad_to_multiple_of": 1}, "here")
    assert expected.share_of_width(catalog, train, protocol) == 32 / 128
    other = copy.copy(plan)
    other.catalog = catalog
    shorter = estimate.costs(other, card(10), {}, kept)[1]
    share = (32 + 3.5) / 128  # padded to a multiple of 8
    assert shorter.expected_tokens == round(bound.tokens * share) and shorter.tokens == bound.tokens
    assert shorter.expected_train_hours == pytest.approx(bound.train_hours * share)
    assert shorter.expected_score_hours == pytest.approx(bound.score_hours / 2)
    assert (shorter.train_hours, shorter.score_hours) == (bound.train_hours, bound.score_hours)
    assert shorter.expected_hours < bound.expected_hours == bound.hours


def test_a_published_mean_serves_where_no_lengths_were_measured(plan):
    """As if all rows were that long; longer ones are cut; a set of both is refused."""
    protocol = plan.protocol("sums")
    for mean, tokens in ((32, 32 + 3.5), (10_000, protocol.max_length)):  # padded to a multiple of 8
        entry = Lengths(example_mean=mean, source="a paper")
        catalog = plan.catalog.model_copy(update={"lengths": {"ladder-math": entry}})
        assert expected.share_of_width(catalog, "ladder-math", protocol) == pytest.approx(tokens / protocol.max_length)
    with pytest.raises(ValueError, match="keep the deciles"):
        Lengths(example=(1,) * 11, example_mean=1, source="both")
    alpaca = load_catalog().lengths["alpaca"]
    assert alpaca.example_mean == 127 and "2306.04751" in alpaca.source


@pytest.mark.parametrize("ordered", [False, True])
def test_the_width_of_a_micro_batch_is_that_of_real_draws(ordered):
    """Against 4,000 batches drawn from the same lengths."""
    deciles = (10, 12, 15, 20, 24, 30, 31, 40, 55, 70, 120)
    changes = {"batch_size": 8, "micro_batch": 4, "pad_to_multiple_of": 1, "max_length": 100, "sort_by_length": ordered}
    protocol = load_catalog().protocol("ladder", "arithmetic", changes, "here")
    draw = random.Random(0)
    lengths = [[round(expected.quantile(deciles, draw.random())) for _ in range(8)] for _ in range(4000)]
    batches = [sorted(rows, reverse=True) if ordered else rows for rows in lengths]
    widths = [(min(max(rows[:4]), 100) + min(max(rows[4:]), 100)) / 2 for rows in batches]
    assert expected.width(deciles, protocol) == pytest.approx(sum(widths) / len(widths), rel=0.02)
    assert expected.mean(deciles, 100) == pytest.approx(sum(min(n, 100) for n in sum(lengths, [])) / 32_000, rel=0.02)


@pytest.mark.parametrize(
    ("deciles", "words"), [([1, 2], "eleven"), ([9, *range(1, 11)], "none below"), ([0] * 11, "from 1")]
)
def test_lengths_that_are_no_deciles(deciles, words):
    with pytest.raises(ValueError, match=words):
        Lengths(prompt=deciles, source="here")


# PEFT's own runs on an L40S (huggingface/peft at 5d602fd, method_comparison/MetaMathQA): tokens a second of 5,000
# updates of 4 rows, 4,198,051 tokens in all, sorted by length in buckets of 80; rank, method, tokens a second.
PUBLIC = [("lora", 32, 7174.3), ("lora", 64, 7062.0), ("dora", 32, 5941.1)]


def test_public_runs_took_what_is_estimated(kept):
    """Llama-3.2-3B on an L40S, bfloat16, q_proj and v_proj: tokens a second of updates alone (docs/memory.md says what
    their training took besides) within 30 %, and no run beats the roofline.
    """
    sizes = {"vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28}
    sizes |= {"num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
    catalog = load_catalog()
    entry = ModelEntry(title="3B", source={"kind": "folder", "path": "."}, architecture=sizes)
    catalog = catalog.model_copy(update={"models": catalog.models | {"llama-3b": entry}})
    changes = {"micro_batch": 4, "batch_size": 4, "max_length": 210, "autocast": None, "dropout": 0.0, "logits": "all"}
    changes |= {"target_modules": ["q_proj", "v_proj"], "weights_dtype": "bfloat16", "sort_by_length": False}
    protocol = catalog.protocol("clean", "commonsense", changes, "here")
    for method, rank, measured in PUBLIC:
        work = cell_work.update_work(catalog, "llama-3b", method, rank, protocol, kept)
        least = work.seconds(catalog.devices["l40s"])
        tokens = 4_198_051 / 5000
        assert tokens / least > measured
        assert roofline.EFFICIENCY * tokens / least == pytest.approx(measured, rel=0.3)


def test_an_hour_s_price(plan, kept, capsys):
    cells = estimate.costs(plan, card(10), {}, kept)
    totals = estimate_text.summary(plan, "card", card(10), cells, price=2.5)
    assert totals["price"] == {
        "an_hour": 2.5,
        "expected": 2.5 * totals["expected_hours"],
        "most": 2.5 * totals["hours"],
    }
    estimate_text.print_estimate(plan, totals, cells, "Card")
    output = capsys.readouterr().out
    hours = f"{totals['expected_hours']:,.2f} hours expected, at most {totals['hours']:,.2f}"
    assert "at 2.5 an hour" in output and output.count(hours) == 2, "of its only table, and of all"
    assert estimate_text.summary(plan, "card", card(10), cells)["price"] is None


def test_what_may_be_asked_for_is_at_most(plan, kept, capsys):
    rates = {"learning_rates": {"pick": [0.001, 0.01], "seeds": [100], "extend": 3}}
    table = Table.model_validate(plan.experiment.tables["sums"].model_dump(by_alias=True) | rates)
    plan.experiment.tables["sums"] = table
    cells = estimate.costs(plan, card(10), {}, kept)
    assert [(cell.first, cell.seeds) for cell in cells] == [(1, 1), (2 + 2, 2 + 2 + 3), (2 + 2, 2 + 2 + 3)]
    totals = estimate_text.summary(plan, "card", card(10), cells)
    estimate_text.print_estimate(plan, totals, cells, "Card")
    output = " ".join(capsys.readouterr().out.split())
    assert "Within the grids of learning rates 9 runs on Card:" in output
    assert "with all rates beyond a grid that may be tried: At most 15 runs on Card:" in output


def test_nothing_is_traced_twice_nor_for_another_card(plan, kept, monkeypatch):
    first = estimate.costs(plan, card(10), {}, kept)
    monkeypatch.setattr("sbora_bench.inputs.meta_twin.build", None)  # from here on a trace would raise
    monkeypatch.setattr("sbora_bench.inputs.meta_twin.build_scored", None)
    assert estimate.costs(plan, card(10), {}, kept) == first
    faster = card(10).model_copy(update={"bandwidth_gb_s": 1000.0})
    assert estimate.costs(plan, faster, {}, kept)[1].train_hours < first[1].train_hours


def test_the_split_keeps_the_batch_and_takes_the_most_that_fits(plan, kept):
    protocol = plan.protocol("sums")
    cell, setting = plan.tuned_cells("sums")[0], table_setting.setting_of(plan, "sums")
    peaks = {
        n: cell_work.update_work(
            plan.catalog, "ladder-xs", "lora", 4, protocol.model_copy(update={"micro_batch": n}), kept
        ).peak
        for n in (4, 2, 1)
    }
    assert peaks[4] > peaks[2] > peaks[1]
    for room, split in ((peaks[4], (4, 2)), (peaks[4] - 1, (2, 4)), (peaks[2] - 1, (1, 8)), (peaks[1] - 1, (0, 0))):
        cost = estimate.cell_cost(plan, cell, setting, card(room / roofline.GIB + roofline.CONTEXT_GIB), {}, kept)
        assert (cost.micro_batch, cost.accumulation) == split
        assert cost.trains == (split != (0, 0)) and (cost.train_hours is None) == (split == (0, 0))


def test_what_does_not_fit_is_said(plan, kept, capsys):
    small = card(roofline.CONTEXT_GIB + 0.001)
    cells = estimate.costs(plan, small, {}, kept)
    totals = estimate_text.summary(plan, "small", small, cells)
    assert set(totals["does_not_fit"]) == {cell.run for cell in cells}
    estimate_text.print_estimate(plan, totals, cells, "Card")
    out = capsys.readouterr().out
    assert "sums-ladder-xs-lora-r4: even one example takes" in out and "scoring a batch takes" in out
    assert "too large" in out


def test_scoring_a_merged_adapter_costs_what_the_base_does(plan, kept):
    table = plan.experiment.tables["sums"]
    base, lora, nf4 = estimate.costs(plan, card(10), {}, kept)
    assert lora.score_hours > base.score_hours
    plan.experiment.tables["sums"] = table.model_copy(update={"overrides": {"merge": True}})
    base, lora, nf4 = estimate.costs(plan, card(10), {}, kept)
    assert (lora.score_hours, lora.score_peak_bytes) == (base.score_hours, base.score_peak_bytes)
    assert nf4.score_hours != base.score_hours  # 4-bit weights are never merged


def test_batches_by_memory_fill_the_card_they_are_for_and_no_more(plan, kept):
    table, cards = plan.experiment.tables["sums"], [card(0.55), card(0.6), card(10)]
    plan.experiment.tables["sums"] = table.model_copy(update={"overrides": {"score_batch": "auto"}})
    on_card = [estimate.costs(plan, one, {}, kept)[1] for one in cards]
    assert all(cost.score_peak_bytes < roofline.room(one) for cost, one in zip(on_card, cards, strict=True))
    assert on_card[0].score_peak_bytes < on_card[1].score_peak_bytes < on_card[2].score_peak_bytes
    assert on_card[0].score_hours > on_card[2].score_hours


def test_a_measured_speed_takes_the_place_of_the_roofline(plan, kept):
    cells = plan.tuned_cells("sums")
    key = estimate.rate_key(plan.catalog, cells[0], plan.protocol("sums"))
    assert key != estimate.rate_key(plan.catalog, cells[1], plan.protocol("sums"))
    setting = table_setting.setting_of(plan, "sums")
    lora, nf4 = (estimate.cell_cost(plan, cell, setting, None, {key: 1e9}, kept) for cell in cells)
    work = cell_work.update_work(plan.catalog, "ladder-xs", "lora", 4, plan.protocol("sums"), kept, "cpu")
    assert (lora.speed, lora.train_hours) == ("measured", pytest.approx(10 * work.flops / 1e9 / 3600))
    assert (nf4.speed, nf4.train_hours, nf4.hours, lora.score_hours) == ("none", None, None, None)
    totals = estimate_text.summary(plan, "cpu", None, [lora, nf4])
    assert totals["cells_without_hours"] == 1 and totals["hours"] == lora.hours
    assert totals["basis"]["train"].startswith("1 of 2 cells measured here") and "1 of 2 cells not known" in str(totals)


def test_calibration_measures_every_kind_and_is_kept(plan, kept):
    assert calibrate.known_rates("cpu", kept) == {}
    path = calibrate.calibrate(plan, "cpu", kept)
    rates = calibrate.known_rates("cpu", kept)
    assert set(rates) == {estimate.rate_key(plan.catalog, c, plan.protocol("sums")) for c in plan.tuned_cells("sums")}
    assert all(rate > 0 for rate in rates.values())
    assert {cell.speed for cell in estimate.costs(plan, None, rates, kept) if cell.steps} == {"measured"}
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"versions": {"torch": "another"}}))
    assert calibrate.known_rates("cpu", kept) == {}


def test_no_gpu_no_speed_of_a_card(plan, kept):
    with pytest.raises(UserError, match="no GPU is here, so the speed of a100-80gb can't be measured"):
        calibrate.calibrate(plan, "a100-80gb", kept)


def test_the_command(plan, workplace):  # noqa: F811
    status, out, err = workplace.run("plan", "small", "--cost", "--device", "rtx-4090", "--json")
    assert status == 0, err
    totals = json.loads(out)
    assert totals["runs"] == 5 and len(totals["cells"]) == 3 and totals["does_not_fit"] == []
    assert "estimate: each operator" in totals["basis"]["train"]
    status, out, _ = workplace.run("plan", "small", "--cost", "--device", "rtx-4090", "--only", "method=lora")
    assert status == 0 and "sums-ladder-xs-lora-r4" in out and "qsbora" not in out and "3 runs on" in out
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "plan", "small", "--cost", "--device", "rtx-4090"],
        cwd=workplace.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "transformers", "peft", "numpy", "datasets"} & set(json.loads(done.stdout.splitlines()[-1]))


WRONG = {
    "an unknown card": (["--cost", "--device", "a100"], "unknown device 'a100', did you mean"),
    "a calibration without costs": (["--calibrate"], "--calibrate belongs to --cost"),
    "a card that is not here": (["--cost", "--calibrate", "--device", "h100"], "no GPU is here"),
    "a part that is not there": (["--cost", "--only", "method=dora"], "unknown method 'dora'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_command_refuses(plan, workplace, case):  # noqa: F811
    arguments, message = WRONG[case]
    assert message in workplace.refused("plan", "small", *arguments)
