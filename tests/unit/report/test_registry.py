"""A view is one object in a list: file lists, stages, page, Snakemake's own report and publishing follow from it."""

import re
import shutil

import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.errors import UserError
from sbora_bench.plan.layouts import RESERVED, layouts
from sbora_bench.report import audit
from sbora_bench.report.figures import FIGURES, figures
from sbora_bench.report.outputs import published_files, table_files
from sbora_bench.report.page import report
from sbora_bench.report.page_tables import all_tables
from sbora_bench.report.publish import LARGEST, publish
from sbora_bench.report.snakemake_report import report_entries
from sbora_bench.report.tables import TABLES, tables
from sbora_bench.report.view import TableView
from sbora_bench.results.read import Results
from tests.factories.made_results import catalog, experiment, make_experiment, make_plan, printed_tables, with_table
from tests.factories.shipped import ROOT


def table_of_the_docs() -> TableView:
    """The worked example of docs/own.md."""
    (script,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "own.md").read_text(encoding="utf-8"), re.M | re.S
    )
    names: dict = {}
    exec(script, names)
    return names["RUN_COUNTS"]


def test_the_names_that_no_table_may_have_are_those_of_the_views_beside(tmp_path):
    plan = make_plan(tmp_path, experiment())
    names = {file.rpartition("/")[2].partition(".")[0] for file in table_files(plan)}
    assert names - {layout.name for layout in layouts(plan)} - {"paper_footprint"} == RESERVED


def test_a_table_is_added_as_one_object(tmp_path):
    written = experiment(seeds=(0,))
    written["tables"] = {"arithmetic": written["tables"]["arithmetic"]}
    plan, results = make_experiment(tmp_path, written)
    run_counts = table_of_the_docs()
    TABLES.append(run_counts)
    try:
        files = [f"tables/runs-arithmetic.{suffix}" for suffix in ("md", "csv", "tex", "html")]
        assert set(files) <= set(table_files(plan)) and set(files[:2]) <= set(published_files(plan))
        collect(plan, results)
        tables(plan, results)
        figures(plan, results)
        audit.write_findings(list(audit.own_tables(results / "tables")), results)
        report(plan, results)
        assert (results / "tables/runs-arithmetic.csv").read_text() == "runs\n7\n"
        page = (results / "report.html").read_text()
        assert '<figure class="table" id="table-runs-arithmetic">' in page and "Runs of arithmetic" in page
        assert f"less {results}/tables/runs-arithmetic.csv" in page
        publish(plan, results, tmp_path / "published")
        assert (tmp_path / "published/tables/runs-arithmetic.md").is_file()
        assert "Published without" in (tmp_path / "published/report.html").read_text()
        entries = report_entries(plan, "results/by-hand")
        assert entries["results/by-hand/tables/runs-arithmetic.html"].caption == "How many runs there are."
    finally:
        TABLES.remove(run_counts)


def test_every_view_says_what_it_is():
    keys = [view.key for view in all_tables()]
    assert len(keys) == len(set(keys)) and len({view.key for view in FIGURES}) == len(FIGURES)
    assert [view.key for view in TABLES if "html" in view.formats and not view.caption] == []


def test_two_files_of_one_name_are_an_error(tmp_path):
    written = experiment()
    written["tables"]["cells"] = written["tables"].pop("arithmetic")
    with pytest.raises(UserError, match="tables.cells: this name is taken"):
        table_files(make_plan(tmp_path, written))


def test_nothing_is_published_of_an_unfinished_experiment(tmp_path):
    plan = make_plan(tmp_path)
    with pytest.raises(UserError, match="scores.csv: no such file; run the experiment to its end"):
        publish(plan, tmp_path / "results", tmp_path / "published")
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seeds": [0]}, "scores.csv: not what .* and the records give now"),
        ({"title": "Sums"}, ""),
        ({"overrides": {"learning_rate": 0.5}}, "scores.json: settings_sha256"),
    ],
)
def test_nothing_is_published_of_another_experiment_than_that_of_now(tmp_path, monkeypatch, changes, reason):
    monkeypatch.setattr("sbora_bench.report.publish.page", lambda *_, **__: "")  # no figures are drawn here
    plan, results = make_experiment(tmp_path / "a")
    collect(plan, results)
    for name in published_files(plan):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).touch()
    shutil.move(results / "runs" / "arithmetic-llama-7b-lora-r32-s0", tmp_path / "away")
    collect(plan, results)
    with pytest.raises(UserError, match="1 runs have no results yet, arithmetic-llama-7b-lora-r32-s0 say"):
        publish(plan, results, tmp_path / "published")
    shutil.move(tmp_path / "away", results / "runs" / "arithmetic-llama-7b-lora-r32-s0")
    collect(plan, results)
    edited = make_plan(tmp_path / "b", with_table(experiment(), **changes))
    if reason:
        with pytest.raises(UserError, match=reason):
            publish(edited, results, tmp_path / "published")
    assert not publish(plan if reason else edited, results, tmp_path / "published").left_out


def test_a_file_too_large_for_a_repository_is_left_out_of_what_is_published(tmp_path, monkeypatch):
    monkeypatch.setattr("sbora_bench.report.publish.page", lambda *_, **__: "")
    plan, results = make_experiment(tmp_path / "a")
    collect(plan, results)
    for name in published_files(plan):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).touch()
    (results / "tables" / "differences.csv").write_bytes(b"," * (LARGEST + 1))
    older = tmp_path / "published" / "tables" / "differences.csv"
    older.parent.mkdir(parents=True)
    older.touch()
    published = publish(plan, results, tmp_path / "published")
    assert published.left_out == ["tables/differences.csv"] and not older.exists()
    assert "tables/averages.csv" in published.files and (tmp_path / "published" / "tables" / "averages.csv").is_file()


def test_entries_of_one_title_differ_by_their_ids(tmp_path):
    """Two models and two methods of one title: rows, panels and legends have them apart."""
    entries = catalog()
    entries["models"]["llama-s"]["title"] = entries["models"]["llama-7b"]["title"]
    entries["methods"]["dora"]["title"] = entries["methods"]["lora"]["title"]
    plan, results = make_experiment(tmp_path, experiment(seeds=(0,)), entries)
    collect(plan, results)
    table = printed_tables(Results(plan, results))[0]
    rows = [tuple(cell.text for cell in row[:3]) for group in table.groups for row in group]
    assert len(rows) == len(set(rows)) == 7
    assert ("LLaMA-7B (llama-7b)", "LoRA (dora)", "32") in rows and ("LLaMA-7B (llama-s)", "LoRA (lora)", "32") in rows
    for view in FIGURES:
        if view.key == "score":
            figure = view.draw(Results(plan, results), layouts(plan)[0])
            titles = [axis.get_title() for axis in figure.axes]
            labels = [text.get_text() for text in figure.legends[0].get_texts()]
            assert titles == ["LLaMA-7B (llama-7b): Average", "LLaMA-7B (llama-s): Average"]
            assert {"LoRA (lora)", "LoRA (dora)"} < set(labels) and len(labels) == len(set(labels))
