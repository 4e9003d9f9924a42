"""The page: whole, offline, escaped, the answer first. And the four subcommands, one after another."""

import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from made_results import catalog, experiment, make_plan, make_results, make_run

from sbora_bench.cli import cli
from sbora_bench.collect import collect
from sbora_bench.errors import UserError
from sbora_bench.outputs import audit_files, figure_captions, figure_files, table_files
from sbora_bench.report import answer, contamination_view, footprint_view, report, runs_view
from sbora_bench.separation import separation

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Collects tags and sources; complains of a tag closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of an experiment full of hostile names, made by the subcommands."""
    folder = tmp_path_factory.mktemp("page")
    written, entries = experiment(), catalog()
    written |= {"title": f"Title {EVIL}", "description": f"Description {EVIL}"}
    written["tables"] = {"arithmetic": written["tables"]["arithmetic"] | {"title": f"Table {EVIL}"}}
    entries["models"]["llama-s"]["title"] = f"Model {EVIL}"
    entries["methods"]["dora"]["title"] = f"Method {EVIL}"
    entries["tasks"]["AddSub"]["title"] = f"Task {EVIL}"
    plan, results = make_plan(folder, written, entries), folder / "results"
    make_results(plan, results)
    make_run(plan, results, plan.run("arithmetic-llama-7b-dora-r32-s1"), failed=f"Reason {EVIL}")
    for command in ("collect", "tables", "figures", "audit", "report"):
        if command == "audit":
            ran = CliRunner().invoke(cli, ["audit", "--own", "--tables", f"{results}/tables", "--output", str(results)])
            assert (ran.exit_code, ran.exception) == (0, None) and "disagrees" not in ran.output
            continue
        ran = CliRunner().invoke(cli, [command, "--experiment", plan.path, "--results", str(results)])
        assert (ran.exit_code, ran.output, ran.exception) == (0, "", None)
    return plan, results, (results / "report.html").read_text()


def test_the_subcommands_leave_every_file(page):
    plan, results, _ = page
    names = table_files(plan) + figure_files(plan) + audit_files()
    missing = [name for name in names if not (results / name).stat().st_size]
    assert missing == []


def test_whole_and_offline(page):
    plan, _, text = page
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and "script" not in checker.tags
    assert checker.tags.count("img") == len(figure_captions(plan)) == 4
    assert all(source.startswith(("#", "data:image/svg+xml;base64,")) for source in checker.sources)
    assert not re.search(r"url\(|@import", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {source[1:] for source in checker.sources if source.startswith("#")} <= set(ids)


def test_all_text_is_escaped(page):
    _, results, text = page
    for what in ("Title", "Description", "Table", "Model", "Method", "Task", "Reason"):
        assert f"{what} &lt;script&gt;" in text, what
    assert "<script" not in text
    for path in (results / "tables").glob("*.html"):
        assert "<script" not in path.read_text()
    for path in (results / "tables").glob("*.md"):
        assert "<script" not in path.read_text()
    for path in (results / "figures").glob("*.svg"):
        assert "<script" not in path.read_text()


def test_the_answer_comes_first(page):
    plan, results, text = page
    assert text.index('id="answer"') < text.index('id="tables"') < text.index('id="figures"') < text.index('id="runs"')
    sentences = answer(plan, results, separation(plan, results))
    # DoRA's second seed failed, so its mean is of seeds 0 and 2: the same, and shared with SBoRA-FA at rank 64
    assert sentences[0] == (
        f"Table {EVIL}: the highest average is 49.2 ± 3.5 (2 of 3 seeds) %, Method {EVIL} at rank 32 on LLaMA-7B"
        " and SBoRA-FA at rank 64 on LLaMA-7B (untuned: 5.0 %)."
    )
    assert "on 2 of 3 columns; methods or ranks differ on 1 of the 3 columns" in sentences[1]
    assert sentences[2].startswith("Of 5 pairs of methods at equal rank or parameters, ")
    assert sentences[3] == "1 of 17 runs have no score: they failed or were not run."


def test_runs_and_contamination(page):
    plan, results, _ = page
    runs = {row[0].text: [cell.text for cell in row[1:]] for group in runs_view(plan, results).groups for row in group}
    assert runs["arithmetic-llama-7b-dora-r32-s1"] == [f"failed (Reason {EVIL})"] + ["–"] * 6
    assert runs["arithmetic-llama-7b-lora-r32-s0"] == ["ok", "44.2", "10", "0.300", "1.5", "427", "954"]
    assert runs["arithmetic-llama-7b-base"] == ["ok", "5.0"] + ["–"] * 5
    contamination = [[cell.text for cell in row] for row in contamination_view(plan, results).groups[0]]
    assert contamination[2] == ["arithmetic", "math-10k", f"Task {EVIL}", "3", "40", "40"]
    footprint = footprint_view(plan, results)
    assert "Optimizer, bytes" not in footprint.header  # not known of any cell
    assert [cell.text for cell in footprint.groups[0][0]][:5] == ["arithmetic", "LLaMA-7B", "Base, untuned", "–", "0"]


def test_a_missing_figure_is_an_error(tmp_path):
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    collect(plan, results)
    with pytest.raises(UserError, match=r"score-arithmetic\.svg: no such file; run `sbora-bench figures` first"):
        report(plan, results)
    assert not (results / "report.html").exists()


def test_nothing_run_says_so(tmp_path):
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    collect(plan, results)
    sentences = answer(plan, results, separation(plan, results))
    assert sentences[0] == "Arithmetic, by hand: no tuned run has a score (average)."
    assert sentences[-1] == f"{len(plan.runs)} of {len(plan.runs)} runs have no score: they failed or were not run."
