"""Planned comparisons from samples to `verdicts.csv`, the sentences and the forest plot."""

import csv
import re
from types import SimpleNamespace

import matplotlib.style
import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.judged import Judgement, judgements
from sbora_bench.analysis.learning_rates import rate_ends
from sbora_bench.analysis.pick import pick
from sbora_bench.analysis.sequential import Decision, Verdict
from sbora_bench.plan.comparison import Planned
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.metric import LOSS, SHARE
from sbora_bench.plan.runs import Cell
from sbora_bench.report import audit
from sbora_bench.report.figures import figures
from sbora_bench.report.outputs import figure_files, published_files, table_files
from sbora_bench.report.page import report
from sbora_bench.report.plotting import STYLE
from sbora_bench.report.tables import tables
from sbora_bench.report.verdicts import (
    decided_otherwise,
    interval_text,
    remarks_on,
    verdict_remarks,
    verdict_sentence,
    verdict_sentences,
    verdict_summary,
)
from sbora_bench.report.views import verdict_figure
from sbora_bench.report.views.leaderboard import leaderboard
from sbora_bench.report.views.verdict_figure import forest_figure, panels_of
from sbora_bench.report.views.verdict_table import COLUMNS
from sbora_bench.results.read import Results
from sbora_bench.results.stages import so_far
from tests.factories import made_results
from tests.factories.made_results import make_experiment, make_plan, make_results, make_run, own_items
from tests.factories.shipped import ROOT

TABLE, ITEMS = "arithmetic", 40
RIGHT = {"lora": 20, "dora": 20, "sbora-fa": 32}  # of 40; DoRA's are LoRA's
PLANNED = [
    {"a": "sbora-fa-r32", "b": "lora-r32", "equal": "rank", "margin": 0.01},
    {"a": "lora-r32", "b": "sbora-fa-r32", "equal": "neither", "margin": 0.5, "metric": ""},
    {"a": "dora-r32", "b": "lora-r32", "equal": "rank", "margin": 0.001},
]


def written(seeds, comparisons):
    made = made_results.experiment()
    grids = [{"models": ["llama-7b"], "methods": ["lora", "dora", "sbora-fa"], "ranks": [32]}]
    return made | {
        "tables": {TABLE: made["tables"][TABLE] | {"grids": grids, "seeds": seeds, "comparisons": comparisons}}
    }


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(made_results, "samples", own_items(RIGHT, [-2, -1, 0, 1, 2]))
    return make_experiment(tmp_path, written([0, 1, 2, 3, 4], [PLANNED[0], PLANNED[2]]))


def drawn(plan, results):
    collect(plan, results)
    tables(plan, results)
    return list(csv.DictReader((results / "tables/verdicts.csv").open()))


def test_a_list_of_seeds_is_one_look(made):
    plan, results = made
    first, second = drawn(plan, results)
    assert list(first) == COLUMNS
    names = ("table", "model", "a", "b", "equal", "metric", "verdict", "seeds", "seeds_planned")
    assert [first[key] for key in names] == [
        TABLE,
        "llama-7b",
        "sbora-fa-r32",
        "lora-r32",
        "rank",
        "score",
        "better",
        "5",
        "5",
    ]
    assert (second["a"], second["verdict"]) == ("dora-r32", "undecided")
    low, difference, high = (float(first[key]) for key in ("low", "difference", "high"))
    assert 0.2 < low < difference < high < 0.4 and first["margin"] == "0.010000"
    assert {"tables/verdicts.csv", "tables/verdicts.md", "figures/forest.svg"} <= set(published_files(plan))
    assert r"\label{tab:verdicts}" in (results / "tables/verdicts.tex").read_text()


def test_sentences_say_what_was_found(made):
    plan, results = made
    first, second = verdict_sentences(Results(plan, results))  # of one table, with two margins
    assert first.heading == "Arithmetic, by hand, LLaMA-7B: points; margin 1.0, 5 seeds"
    assert second.heading == "Arithmetic, by hand, LLaMA-7B: points; margin 0.1, 5 seeds"
    assert re.fullmatch(
        r"SBoRA-FA r = 32 is better than LoRA r = 32 at equal rank: \+3\d\.\d \[2\d\.\d, 3\d\.\d\]; by more than the"
        r" margin\.",
        first.said[0].sentence,
    )
    assert second.said[0].sentence.startswith("DoRA r = 32 against LoRA r = 32 at equal rank is undecided: ")
    assert (first.part(decided=True).said, second.part(decided=True).said) == (first.said, [])
    assert verdict_summary(Results(plan, results)) == (
        "1 of 2 planned comparisons are decided: the first method is better in 1. Of the 1 better or worse, 1 is shown"
        " to be so by more than the margin."
    )


def judged(verdict, low, high, seeds_run=6, of=12, lost=0, ends=None):
    """A comparison of SBoRA-FA and LoRA as it came out, with a margin of 0.01."""
    a, b = (Cell(TABLE, "llama-7b", method, 32) for method in ("sbora-fa", "lora"))
    planned = Planned(a, b, "rank", "gold_loss", LOSS, 0.01)
    decision = Decision(Verdict(verdict), seeds_run - lost, (low + high) / 2, low, high)
    return Judgement(
        planned, decision, seeds_run, of, {{"a": a, "b": b}[side]: end for side, end in (ends or {}).items()}
    )


@pytest.mark.parametrize(
    ("judgement", "remarks"),
    [
        (judged("better", -0.03, -0.005, 12), []),
        (judged("better", -0.03, -0.0101, 12), ["by more than the margin"]),
        (judged("worse", 0.0101, 0.02, 12), ["by more than the margin"]),
        (judged("equivalent", -0.009, 0.009), ["stopped after 6 of 12 seeds"]),
        (judged("undecided", -0.02, 0.02), ["6 of 12 seeds so far"]),
        (judged("undecided", -0.02, 0.02, 12, lost=2), ["2 of 12 seeds failed"]),
    ],
)
def test_what_a_verdict_rests_on_is_said_beside_it(tmp_path, judgement, remarks):
    plan = make_plan(tmp_path, written([0, 1], [PLANNED[0]]))
    results = Results(plan, tmp_path)
    assert remarks_on(judgement) == remarks
    assert all(f"; {remark}" in verdict_sentence(results, judgement) for remark in remarks)


@pytest.mark.parametrize(
    ("ends", "opening"),
    [
        ({}, "SBoRA-FA r = 32 is worse than LoRA r = 32 at equal rank: "),
        ({"b": "highest"}, "SBoRA-FA r = 32 is worse than LoRA r = 32‡ at equal rank: "),
        ({"a": "lowest", "b": "lowest"}, "SBoRA-FA r = 32† is worse than LoRA r = 32† at equal rank: "),
    ],
)
def test_a_method_whose_rate_is_at_an_end_is_marked(tmp_path, ends, opening):
    plan = make_plan(tmp_path, written([0, 1], [PLANNED[0]]))
    judgement = judged("worse", 0.001, 0.02, 12, ends=ends)
    assert verdict_sentence(Results(plan, tmp_path), judgement).startswith(opening)


def test_what_remarks_mean_is_said_once_and_where_it_applies(tmp_path):
    plan = make_plan(tmp_path, written([0, 1], [PLANNED[0]]))

    def said(*judged_ones):
        results = Results(plan, tmp_path)
        results.once("judgements", lambda: list(judged_ones))
        return verdict_remarks(results)

    whole = judged("better", -0.03, -0.005, 12)
    early, at_end = judged("equivalent", -0.009, 0.009), judged("worse", 0.001, 0.02, 12, ends={"b": "highest"})
    assert said() == []
    (intervals, loss) = said(whole)
    assert "hold all together, at 95 %" in intervals and loss.startswith("Gold loss: ")
    assert [line.partition(":")[0] for line in said(early, at_end, early)[2:]] == [
        "Stopped before all seeds",
        "‡ at the highest learning rate tried",
    ]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((-0.021, 0.001), "−0.010 [−0.021, 0.001]"),
        ((0.0003, 0.048), "+0.0242 [0.0003, 0.0480]"),  # worse: leaves out 0
        ((-0.002, 0.00996), "+0.00398 [−0.00200, 0.00996]"),  # equivalent: within the margin of 0.01
        ((0.0, 0.01), "+0.005 [0.000, 0.010]"),  # the very limits
        ((-0.02, 1e-9), "−0.010000 [−0.020000, 0.000000]"),
    ],
)
def test_an_interval_has_the_digits_that_tell_its_ends_from_0_and_the_margin(ends, text):
    assert interval_text(judged("undecided", *ends)) == text


def test_a_rate_at_an_end_is_found_where_it_was_picked(tmp_path):
    made = written([0, 1], [PLANNED[0]])
    made["tables"][TABLE]["learning_rates"] = {"pick": [1e-3, 2e-3, 4e-3], "seeds": [9]}
    plan, results = make_plan(tmp_path, made), tmp_path / "results"
    assert rate_ends(Results(plan, results), TABLE) == {}
    for run in plan.picking_runs(TABLE):
        right = {"lora": {1e-3: 9}, "dora": {2e-3: 9}, "sbora-fa": {4e-3: 9}}[run.method].get(run.learning_rate, 5)
        made_results.make_held_out(plan, results, run, right)
    pick(plan, TABLE, results)
    ends = {cell.method: end for cell, end in rate_ends(Results(plan, results), TABLE).items()}
    assert ends == {"lora": "lowest", "sbora-fa": "highest"}


def test_scores_are_noted_to_decide_nothing_but_where_they_are_the_loss_itself():
    plan = load_plan(str(ROOT / "experiments" / "smollm2.yaml"))
    assert decided_otherwise(plan, ["arc-easy"]) and not decided_otherwise(plan, ["arithmetic"])


def test_a_table_whose_rates_are_not_picked_yet_is_drawn_with_what_there_is(tmp_path):
    made = written([0, 1], [PLANNED[0]])
    made["tables"][TABLE]["learning_rates"] = {"pick": [1e-3, 2e-3], "seeds": [9]}
    plan, results = make_plan(tmp_path, made), tmp_path / "results"
    make_run(plan, results, plan.run(f"{TABLE}-llama-7b-base"))
    plan = so_far(plan, results)
    collect(plan, results)
    tables(plan, results)
    figures(plan, results)
    audit.write_findings(list(audit.own_tables(results / "tables")), results)
    report(plan, results)
    said = (results / "tables" / f"{TABLE}.md").read_text(encoding="utf-8")
    assert "Base, untuned" in said and "Items scored: " in said
    assert "SBoRA-FA r = 32" in (results / "tables" / "verdicts.md").read_text(encoding="utf-8")


def test_a_margin_that_holds_the_interval_is_equivalent(tmp_path, monkeypatch):
    monkeypatch.setattr(made_results, "samples", own_items(RIGHT, [-2, -1, 0, 1, 2]))
    plan = make_plan(tmp_path, written([0, 1, 2, 3], [PLANNED[2] | {"margin": 0.2}]))
    make_results(plan, tmp_path / "results")
    (group,) = verdict_sentences(Results(plan, tmp_path / "results"))
    (said,) = group.said
    assert said.verdict == "equivalent" and group.heading.endswith("points; margin 20.0, 4 seeds")
    assert said.sentence.startswith("DoRA r = 32 and LoRA r = 32 at equal rank are equivalent: ")


def test_a_failed_seed_is_counted_and_a_missing_one_waited_for(made):
    plan, results = made
    make_run(plan, results, plan.run(f"{TABLE}-llama-7b-lora-r32-s1"), failed="no memory")
    (first, second) = judgements(Results(plan, results))
    assert (first.decision.seeds, first.failed, first.decision.verdict) == (4, 1, "better")
    assert "; 1 of 5 seeds failed." in verdict_sentences(Results(plan, results))[0].said[0].sentence
    (results / f"runs/{TABLE}-llama-7b-dora-r32-s0/scores.json").unlink()
    first, second = judgements(Results(plan, results))
    assert first.decision.verdict == "better"
    assert (second.decision.verdict, second.decision.seeds, second.decision.difference) == ("undecided", 0, None)
    rows = drawn(plan, results)
    assert rows[1]["difference"] == rows[1]["low"] == "" and rows[1]["verdict"] == "undecided"


def test_the_forest_is_of_the_data(made):
    plan, results = made
    rows = judgements(Results(plan, results))
    with matplotlib.rc_context():
        (axis,) = forest_figure(plan, rows).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["SBoRA-FA r = 32 − LoRA r = 32", "DoRA r = 32 − LoRA r = 32"]
    assert [
        bar[0].get_xdata()[0] for bar in axis.containers if bar.get_label() != "_nolegend_" and hasattr(bar, "lines")
    ] == [pytest.approx(one.shown[0]) for one in rows]
    zones = [patch for patch in axis.patches if patch.get_width() > 0]
    assert [zone.get_width() for zone in zones] == pytest.approx([2.0, 0.2])
    assert sorted(text.get_text() for text in axis.texts) == [
        "? undecided, 5",
        "arithmetic, LLaMA-7B",
        "verdict, seeds",
        "▲ better, 5",
    ]


@pytest.mark.parametrize(("count", "highest"), [(6, 3), (12, 4), (25, 6.6), (40, 6.6)])
def test_a_forest_stands_on_one_screen_and_no_rows_run_into_each_other(made, count, highest):
    plan, results = made
    rows = (judgements(Results(plan, results)) * count)[:count]
    with matplotlib.style.context(["default", STYLE]):
        figure = forest_figure(plan, rows)
        figure.draw_without_rendering()
        (axis,) = figure.axes
        labels = [label.get_window_extent() for label in axis.get_yticklabels()]
        texts = [text.get_window_extent() for text in axis.texts]
    assert figure.get_figwidth() <= 4.9 and figure.get_figheight() <= highest
    assert all(above.y0 >= below.y1 for above, below in zip(labels, labels[1:], strict=False))
    assert all(text.x0 >= 0 and text.x1 <= figure.bbox.width for text in (*labels, *texts))


def test_rows_of_several_panels_do_not_run_into_each_other(made, monkeypatch):
    plan, results = made
    rows = judgements(Results(plan, results)) * 6
    monkeypatch.setattr(verdict_figure, "panels_of", lambda rows: [rows, rows, rows[:2], rows[:2]])
    with matplotlib.style.context(["default", STYLE]):
        figure = verdict_figure.forest_figure(plan, rows)
        figure.draw_without_rendering()
        labels = [[label.get_window_extent() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert all(above.y0 >= below.y1 for of in labels for above, below in zip(of, of[1:], strict=False))
    assert figure.get_figheight() <= 6.61
    assert [axis.get_xlabel().count("better") for axis in figure.axes] == [0, 0, 0, 1], "said once"


def test_long_names_in_a_forest_leave_room_for_the_intervals(made, monkeypatch):
    plan, results = made
    rows = judgements(Results(plan, results))
    monkeypatch.setattr(
        verdict_figure, "ranked_title", lambda plan, cell: f"SBoRA-FA, index seed {cell.method}, r = 16"
    )
    with matplotlib.style.context(["default", STYLE]):
        figure = verdict_figure.forest_figure(plan, rows)
        figure.draw_without_rendering()
        (axis,) = figure.axes
    assert axis.get_window_extent().width > 1.5 * figure.dpi, "inches"


def test_a_table_whose_intervals_are_far_wider_has_a_panel_of_its_own():
    def row(table, *ends, metric=LOSS):
        planned = SimpleNamespace(table=table, model="m", margin=0.01, metric=metric)
        return SimpleNamespace(planned=planned, shown=ends)

    near, none, far = row("near", 0.0, -0.04, 0.03), row("none", None, None, None), row("far", 1.0, 0.5, 1.5)
    assert panels_of([near, near, none]) == [[near, near, none]], "a margin of 0.01 is seen beside 0.04"
    assert panels_of([near, far, near]) == [[near, near], [far]]
    share = row("near", 0.1, 0.0, 0.2, metric=SHARE)
    assert panels_of([near, share]) == [[near], [share]], "another unit"


def test_the_page_begins_with_the_verdicts_and_the_forest(made):
    plan, results = made
    collect(plan, results)
    tables(plan, results)
    figures(plan, results)
    audit.write_findings(list(audit.own_tables(results / "tables")), results)
    report(plan, results)
    text = (results / "report.html").read_text()
    answer = text[text.index('<section id="answer">') : text.index('<section id="tables">')]
    assert text.index("<nav") < text.index('<section id="answer">')
    assert answer.index('<li class="tone better"><span>SBoRA-FA r = 32 is better') < answer.index("<img")
    summary, first = answer.index('<p class="summary">1 of 2 planned'), answer.index('<div class="first')
    assert summary < first < answer.index('<details class="reading">'), "how to read a figure is folded away"
    assert "Better and worse: the interval leaves out 0" in answer
    assert answer.count("<img") == 2 and "The planned differences" in answer and "score against trainable" in answer
    assert '<td class="text"><span class="value tone better">better</span></td>' in text
    assert not [name for name in table_files(plan) + figure_files(plan) if not (results / name).is_file()]


def test_the_leaderboard_has_intervals_of_ranks_and_letters(made):
    plan, results = made
    board = leaderboard(Results(plan, results), TABLE)
    lines = [[cell.text for cell in row] for row in board.groups[0]]
    assert lines[0][1:5] == ["SBoRA-FA r = 32", "1", "1", "a"]
    assert [line[3:5] for line in lines[1:]] == [["2 to 3", "b"], ["2 to 3", "b"]]


def test_a_ranking_that_has_no_letters_is_shown_without(made, monkeypatch):
    plan, results = made
    monkeypatch.setattr("sbora_bench.analysis.ranking.ascii_lowercase", "a")
    board = leaderboard(Results(plan, results), TABLE)
    assert "Letters" not in board.header and "letter" not in board.notes[0]
    assert {len(row) for row in board.groups[0]} == {len(board.header)} == {7}


def test_without_comparisons_there_is_neither_table_nor_figure(tmp_path):
    plan = make_plan(tmp_path)
    assert not [name for name in table_files(plan) + figure_files(plan) if "verdicts" in name or "forest" in name]
