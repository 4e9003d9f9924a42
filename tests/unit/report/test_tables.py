"""The tables: their layout, what stands beside and below the scores, and their four spellings."""

import subprocess
import sys

import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.csv_files import read_scores
from sbora_bench.errors import UserError
from sbora_bench.files import write_text
from sbora_bench.plan.layouts import layouts
from sbora_bench.report.outputs import table_files
from sbora_bench.report.render import latex_text, markdown_text
from sbora_bench.report.tables import tables
from sbora_bench.report.views.method_table import method_table
from sbora_bench.report.views.paper_footprint_table import agreement, paper_footprint_table
from sbora_bench.report.views.score_table import items_scored
from sbora_bench.results.paper.reported import anomalies, anomaly_of, read_reported, reported_cell
from sbora_bench.results.read import Results
from sbora_bench.results.records import (
    ContaminationRecord,
    ScoresRecord,
    TooLong,
    TrainRecord,
    read_record,
    write_record,
)
from tests.factories.made_results import (
    GOLDEN,
    GOLDEN_FILES,
    RIGHT,
    catalog,
    experiment,
    make_experiment,
    make_plan,
    make_results,
    make_run,
    printed_tables,
)


@pytest.fixture
def made(tmp_path):
    return make_experiment(tmp_path)


def view(plan, results, name):
    collect(plan, results)
    return next(table for table in printed_tables(Results(plan, results)) if table.name == name)


def line(table, *start):
    return next(
        row for group in table.groups for row in group if [cell.text for cell in row][: len(start)] == list(start)
    )


def test_golden_and_exactly_the_files_listed(made):
    plan, results = made
    collect(plan, results)
    tables(plan, results)
    written = sorted(str(path.relative_to(results)) for path in (results / "tables").iterdir())
    assert written == sorted(table_files(plan))
    for name in GOLDEN_FILES:
        assert (results / name).read_text() == (GOLDEN / name).read_text(), name


def test_rows_are_model_rank_method_and_mmlu_is_one_table(made):
    arithmetic, mmlu = layouts(made[0])
    assert [(row.model, row.method, row.rank) for row in arithmetic.rows] == [
        ("llama-7b", "lora", 32),
        ("llama-7b", "dora", 32),
        ("llama-7b", "sbora-fa", 32),
        ("llama-7b", "sbora-fa", 64),
        ("llama-s", "lora", 32),
        ("llama-7b", "base", None),
        ("llama-s", "base", None),
    ]
    assert [column.title for column in arithmetic.columns] == ["MultiArith", "GSM8K", "AddSub"]
    assert (mmlu.name, [column.title for column in mmlu.columns], mmlu.averaged) == (
        "mmlu",
        ["Alpaca", "Flanv2"],
        False,
    )


def test_of_many_pairs_those_of_compared_methods_are_shown_and_counted(made, monkeypatch):
    plan, results = made
    collect(plan, results)
    whole = method_table(Results(plan, results), "arithmetic")
    assert not any("averages.csv, and the ranking" in note for note in whole.notes)
    monkeypatch.setattr("sbora_bench.report.views.method_table.MANY_PAIRS", 2)
    monkeypatch.setattr("sbora_bench.report.views.method_table.compared", lambda *_: ["lora", "dora"])
    few = method_table(Results(plan, results), "arithmetic")
    assert [[row[1].text, row[3].text] for group in few.groups for row in group] == [["LoRA r = 32", "DoRA r = 32"]]
    assert few.notes[0].startswith("1 of 5 pairs: ")
    monkeypatch.setattr("sbora_bench.report.views.method_table.compared", lambda *_: [])
    assert sum(map(len, method_table(Results(plan, results), "arithmetic").groups)) == 2, "the surest of all"


def test_items_of_a_run_are_told_from_those_of_the_base_that_has_all_seeds_own(made):
    plan, results = made
    collect(plan, results)
    frame = read_scores(results)
    scored = {"AddSub": frame[frame.task == "AddSub"].copy(), "GSM8K": frame[frame.task == "gsm8k"].copy()}
    assert items_scored(scored) == ["Items scored: AddSub 40, GSM8K 40."]
    for lines in scored.values():
        lines.loc[lines.method == "base", "n"] = 120
    assert items_scored(scored) == [
        "Items scored in each run: AddSub 40, GSM8K 40, of every seed its own. The untuned base, on all of them:"
        " AddSub 120, GSM8K 120."
    ]


def test_best_of_a_model_and_rank_is_bold_and_a_lone_row_is_not(made):
    table = view(*made, "arithmetic")
    bold = {(row[1].text, row[2].text) for group in table.groups for row in group if row[4].bold}
    assert bold == {("DoRA", "32")}
    assert not any(cell.bold for cell in line(table, "LLaMA-7B", "SBoRA-FA", "64"))


def test_where_all_score_alike_none_is_bold(made, monkeypatch):
    plan, results = made
    monkeypatch.setattr("tests.factories.made_results.RIGHT", dict.fromkeys(RIGHT, RIGHT["lora", 32]))
    make_results(plan, results)
    table = view(plan, results, "arithmetic")
    assert not any(cell.bold for group in table.groups for row in group for cell in row)


def test_reported_numbers_stand_beside_the_papers_cells_alone(made):
    table = view(*made, "arithmetic")
    assert [cell.below for cell in line(table, "LLaMA-7B", "LoRA")] == [
        (),
        (),
        (),
        ("56.1M",),
        ("94.5 (−17.0)",),
        ("36.3 (−26.3)",),
        ("81.8 (−29.3)", "clean 48.6 ± 2.7 (3)"),
        ("59.3 (−12.6)", "clean 45.4 ± 2.6 (3)"),
    ]
    assert [cell.below for cell in line(table, "LLaMA-7B", "DoRA")][3] == ("57.4Mᵃ",)
    assert "ᵃ The reported 57.4M is LLaMA3-8B's count; DoRA at rank 32 has 56,975,360 parameters here." in table.notes
    assert [cell.below for cell in line(table, "LLaMA-7B", "Base, untuned")][5:] == [(), ("clean 5.4",), ("clean 4.3",)]
    assert [cell.below for cell in line(table, "Small <s>|&_%", "LoRA")][3:6] == [(), (), ()]
    mmlu = view(*made, "mmlu")
    assert [cell.below for cell in line(mmlu, "LLaMA-7B", "QLoRA")][3:] == [
        ("80.0Mᵃ",),
        ("37.9 (+27.1)", "micro 66.0 ± 2.5 (3)"),
        ("44.4 (+20.6)", "micro 66.0 ± 2.5 (3)"),
    ]
    (note,) = (note for note in mmlu.notes if note.startswith("ᵃ"))
    assert "half" in note


def test_the_clean_score_is_that_of_the_other_items(made):
    """Three of AddSub's items are in the training set; two columns have none, so nothing stands beside their scores."""
    table = view(*made, "arithmetic")
    header, row = table.csv[0], dict(zip(table.csv[0], table.csv[1], strict=True))
    assert (row["method"], row["AddSub"], row["AddSub seeds"]) == ("lora", pytest.approx(100 * 21 / 40), 3)
    assert row["AddSub clean"] == pytest.approx(100 * (21 - 3) / 37)
    assert row["Average clean"] == pytest.approx((100 * 31 / 40 + 100 * 4 / 40 + 100 * 18 / 37) / 3)
    assert row["AddSub difference"] == pytest.approx(row["AddSub"] - row["AddSub reported"])
    assert not {"MultiArith clean", "GSM8K clean"} & set(header)
    assert "clean: the score without the items whose question is in the training set." in table.notes


def test_other_items_are_not_the_papers(tmp_path):
    written = experiment()
    written["tables"]["arithmetic"]["items"] = "ladder"
    entries = catalog()
    for task in entries["tasks"].values():
        task["items"]["ladder"] = "items"
    plan = make_plan(tmp_path, written, entries)
    make_results(plan, tmp_path / "results")
    table = view(plan, tmp_path / "results", "arithmetic")
    assert not any(line[0].isdigit() for group in table.groups for row in group for cell in row for line in cell.below)
    assert "reported" not in " ".join(table.csv[0])


def test_a_lost_seed_is_said_and_leaves_the_average_of_the_others(made):
    plan, results = made
    make_run(plan, results, plan.run("arithmetic-llama-7b-lora-r32-s2"), failed="no memory | <b>")
    table = view(plan, results, "arithmetic")
    row = line(table, "LLaMA-7B", "LoRA")
    assert row[4].text == "76.2 ± 1.8 (2 of 3 seeds)"
    assert row[7].text == "45.4 ± 1.8 (2 of 3 seeds)"
    assert "Failed: arithmetic-llama-7b-lora-r32-s2 (no memory | <b>)." in table.notes
    tables(plan, results)
    assert "no memory \\| &lt;b&gt;" in (results / "tables/arithmetic.md").read_text()
    assert "<b>" not in (results / "tables/arithmetic.html").read_text()


def test_a_cell_that_failed_wholly_says_so(made):
    plan, results = made
    for seed in range(3):
        make_run(plan, results, plan.run(f"arithmetic-llama-7b-dora-r32-s{seed}"), failed="no memory")
    table = view(plan, results, "arithmetic")
    row = line(table, "LLaMA-7B", "DoRA")
    assert [cell.text for cell in row[4:]] == ["failed", "failed", "failed", "–"]
    assert table.csv[2][-1] == "MultiArith: failed; GSM8K: failed; AddSub: failed"
    assert line(table, "LLaMA-7B", "LoRA")[4].bold


def test_a_task_that_nobody_has_is_left_out_of_the_average(made):
    plan, results = made
    for run in plan.runs_of("arithmetic"):
        make_run(plan, results, run, missing=("gsm8k",))
    table = view(plan, results, "arithmetic")
    row = line(table, "LLaMA-7B", "LoRA")
    assert row[5].text == "not available"
    assert row[7].text == "65.0 ± 2.5"  # of 77.5 and 52.5
    assert row[4].below and row[7].below == ("clean 63.1 ± 2.6",), "the paper's average is over all of its tasks"
    assert "The average is over the tasks that could be had, without GSM8K." in table.notes


def test_a_failed_run_leaves_it_out_too(made):
    """A run that failed has no score of any task; of one whose file is not at hand nobody has."""
    plan, results = made
    path = results / "data" / "arithmetic" / "contamination.json"
    record = read_record(path, ContaminationRecord)
    absent = record.tasks["gsm8k"].model_copy(update={"status": "not available", "reason": "no file"})
    write_record(path, record.model_copy(update={"tasks": record.tasks | {"gsm8k": absent}}))
    for run in plan.runs_of("arithmetic"):
        failed = run.method == "lora" and run.seed == 0
        make_run(plan, results, run, missing=("gsm8k",), failed="no memory" if failed else "")
    table = view(plan, results, "arithmetic")
    row = line(table, "LLaMA-7B", "LoRA")
    assert row[5].text == "not available" and row[7].text == "66.3 ± 1.8 (2 of 3 seeds)"
    assert "The average is over the tasks that could be had, without GSM8K." in table.notes


def test_one_seed_has_no_spread(tmp_path):
    plan = make_plan(tmp_path, experiment(seeds=(0,)))
    make_results(plan, tmp_path / "results")
    table = view(plan, tmp_path / "results", "arithmetic")
    assert line(table, "LLaMA-7B", "LoRA")[4].text == "75.0 (1)"
    assert table.notes[0].startswith("Score in per cent: one seed, so no spread;")


def test_tables_before_collect_is_an_error(made):
    with pytest.raises(UserError, match="sbora-bench collect"):
        tables(*made)


def test_a_reserved_name_is_an_error(tmp_path):
    written = experiment()
    written["tables"]["separation"] = written["tables"].pop("arithmetic")
    with pytest.raises(UserError, match="tables.separation: this name is taken"):
        table_files(make_plan(tmp_path, written))


def test_outputs_are_listed_without_heavy_imports():
    code = "import sys, sbora_bench.report.outputs, sbora_bench.report.page_tables, sbora_bench.cli.main; "
    code += "print({'pandas', 'matplotlib', 'scipy', 'statsmodels'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_escapes():
    assert markdown_text("a|b <i>&amp; *x* _y_ `z` [u](v)\nw") == (
        "a\\|b &lt;i&gt;&amp;amp; \\*x\\* \\_y\\_ \\`z\\` \\[u\\](v) w"
    )
    assert latex_text("50% & $x_1$ {a}\\b #~^") == (
        r"50\% \& \$x\_1\$ \{a\}\textbackslash{}b \#\textasciitilde{}\textasciicircum{}"
    )
    # what begins a row: after the end of the one above, [ and * would be read as that one's argument
    assert [latex_text(text) for text in ("[4] a", "*a", "a [4]*")] == ["{}[4] a", "{}*a", "a [4]*"]


# --- the reported numbers -------------------------------------------------------------------------------------------


def test_reported_averages_are_means_but_for_the_one_noted():
    rows: dict = {}
    for number in read_reported():
        rows.setdefault((number.table, number.model, number.method, number.rank), {})[number.metric] = number.value
    assert sum(map(len, rows.values())) == len(read_reported()) == 310
    wrong = set()
    for name, row in rows.items():
        average = row.pop("Average", row.pop("Mean", None))
        # one decimal for per cents, four for similarities; ties may be rounded either way
        slack = 0.0501 if average and average > 1 else 0.0000501
        if average is not None and abs(sum(row.values()) / len(row) - average) > slack:
            wrong.add(name)
    assert wrong == {("commonsense", "LLaMA-7B", "SBoRA-FB", 32)}
    noted = [note for note in anomalies() if note["metric"] == "Average"]
    assert [(note["table"], note["model"], note["method"], note["rank"]) for note in noted] == list(wrong)


def test_anomalies_are_noted_where_they_stand():
    row = {number.metric: number for number in reported_cell("commonsense", "LLaMA-7B", "SBoRA-FB", 32)}
    assert "69.05" in anomaly_of(row["Average"], "Average")
    assert anomaly_of(row["Average"], "parameters") == anomaly_of(row["BoolQ"], "BoolQ") == ""
    dora = reported_cell("arithmetic", "LLaMA-7B", "DoRA", 32)
    assert all("56,975,360" in anomaly_of(number, "parameters") for number in dora) and len(dora) == 7
    quantised = reported_cell("mmlu", "Llama-3-8B", "QSBoRA-FA", 64)
    assert [number.value for number in quantised] == [56.5, 56.4] and "half" in anomaly_of(quantised[0], "parameters")
    assert reported_cell("mmlu", "LLaMA-7B", "QLoRA", 32) == []


def test_the_papers_footprint(tmp_path):
    written = experiment() | {"paper_footprint": True}
    plan = make_plan(tmp_path, written)
    header = "table,model,method,rank,trainable_parameters,total_parameters,adapter_bytes,reported_millions\n"
    rows = [
        "arithmetic,llama-7b,lora,32,56098816,6794514432,112197632,56.1\n",
        "arithmetic,llama-7b,dora,32,56975360,6795390976,,57.4\n",
        "qsbora_mmlu,llama-7b,qlora,64,159907840,6898323456,,80.0\n",
        "qsbora_mmlu,llama-7b,sbora-fa,64,,,,43.5\n",
    ]
    write_text(tmp_path / "results/paper_footprint.csv", header + "".join(rows))
    table = paper_footprint_table(Results(plan, tmp_path / "results"))
    assert [row[-1].text for group in table.groups for row in group] == ["yes", "other", "half", "–"]
    assert line(table, "arithmetic", "LLaMA-7B", "LoRA")[4].text == "56,098,816"
    assert line(table, "qsbora_mmlu", "LLaMA-7B", "SBoRA-FA")[4].text == "not available"
    assert "tables/paper_footprint.md" in table_files(plan)
    with pytest.raises(UserError, match="paper_footprint.csv: no such file"):
        paper_footprint_table(Results(plan, tmp_path))


def test_agreement_is_rounding_either_way():
    assert agreement(56_049_999, 56.1) == "other" and agreement(56_050_000, 56.1) == "yes"
    assert agreement(56_150_000, 56.1) == "yes" and agreement(2 * 43_516_000, 43.5) == "half"


def test_prompts_that_were_cut_are_a_note(tmp_path):
    plan, results = make_experiment(tmp_path)
    assert "Prompts that were cut" not in " ".join(view(plan, results, "arithmetic").notes)
    for run, cut in (("lora-r32-s0", 2), ("lora-r32-s1", 3)):
        path = results / "runs" / f"arithmetic-llama-7b-{run}" / "scores.json"
        record = read_record(path, ScoresRecord)
        score = record.tasks["gsm8k"].model_copy(update={"extra": {"cut": cut}})
        write_record(path, record.model_copy(update={"tasks": record.tasks | {"gsm8k": score}}))
    notes = " ".join(view(plan, results, "arithmetic").notes)
    assert "Prompts that were cut, for more tokens don't go through the model: GSM8K 3 of 40 (LLaMA-7B)." in notes


def test_rows_that_were_too_long_to_train_on_are_a_note(tmp_path):
    plan, results = make_experiment(tmp_path)
    path = results / "runs" / "arithmetic-llama-7b-lora-r32-s0" / "train.json"
    record = read_record(path, TrainRecord)
    too_long = TooLong(rows=1200, cut=1000, dropped=200)
    write_record(
        path, record.model_copy(update={"happened": record.happened.model_copy(update={"too_long": too_long})})
    )
    notes = " ".join(view(plan, results, "arithmetic").notes)
    assert "more than 64 tokens to LLaMA-7B: 1,200, of which 1,000 were cut and 200 left out of training." in notes


def test_pairs_say_that_they_are_of_items_where_the_scores_are_means_over_subjects(tmp_path):
    written = experiment()
    grids = written["tables"]["mmlu-alpaca"]["grids"]
    written["tables"]["mmlu-alpaca"]["grids"] = [
        *grids,
        {"models": ["llama-7b"], "methods": ["sbora-fa"], "ranks": [64]},
    ]
    plan, results = make_experiment(tmp_path, written)
    collect(plan, results)
    of_mmlu, of_arithmetic = (method_table(Results(plan, results), table) for table in ("mmlu-alpaca", "arithmetic"))
    note = "Every item counts alike here; the table of scores has the mean over subjects."
    assert note in of_mmlu.notes and note not in of_arithmetic.notes
