"""The page: whole, offline, escaped, the answer first. And the four subcommands, one after another."""

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from markupsafe import escape

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.separation import separation
from sbora_bench.cli.main import cli
from sbora_bench.errors import UserError
from sbora_bench.report.outputs import audit_files, figure_captions, figure_files, table_files
from sbora_bench.report.page import page as drawn_page
from sbora_bench.report.page import report
from sbora_bench.report.page_answer import conclusions, highest_scores
from sbora_bench.report.page_runs import (
    LONGEST,
    MOST,
    chosen_samples,
    curve_drawing,
    run_sections,
    runs_shown,
    sample_shown,
    samples_shown,
    section,
)
from sbora_bench.report.page_shared import questions_of, without_shared_facts
from sbora_bench.report.views.contamination_table import contamination_table
from sbora_bench.report.views.footprint_table import footprint_table
from sbora_bench.report.views.run_table import run_table
from sbora_bench.results.read import Results
from sbora_bench.results.records import (
    Environment,
    FootprintRecord,
    Hardware,
    Training,
    TrainRecord,
    read_record,
    write_record,
)
from tests.factories.made_results import catalog, experiment, make_experiment, make_plan, make_run

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
    entries["methods"]["sbora-fa"]["peft_type"] = "SBORA"
    plan, results = make_experiment(folder, written, entries)
    make_run(plan, results, plan.run("arithmetic-llama-7b-dora-r32-s1"), failed=f"Reason {EVIL}")
    (results / "logs" / "run").mkdir(parents=True)
    (results / "logs" / "run" / "arithmetic-0.log").write_text(
        f"before {EVIL}\narithmetic-llama-7b-dora-r32-s1: failed: Reason\n"
    )
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
    assert checker.open == [] and checker.tags.count("script") == 1
    assert checker.tags.count("img") == len(figure_captions(plan)) == 4
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in checker.sources)
    assert not re.search(r"url\(|@import| style=| on[a-z]+=", re.sub("&lt;.*?&gt;", "", text))
    assert text.count("How to recompute this") == text.count('<figure class="table')
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {source[1:] for source in checker.sources if source.startswith("#")} <= set(ids)


def test_all_text_is_escaped(page):
    _, results, text = page
    for what in ("Title", "Description", "Table", "Model", "Method", "Task", "Reason"):
        assert f"{what} &lt;script&gt;" in text, what
    assert text.count("<script") == 1
    for path in (results / "tables").glob("*.html"):
        assert "<script" not in path.read_text()
    for path in (results / "tables").glob("*.md"):
        assert "<script" not in path.read_text()
    for path in (results / "figures").glob("*.svg"):
        assert "<script" not in path.read_text()


def test_failed_runs_stand_with_the_last_lines_of_their_logs(page):
    text = page[2]
    part = text[text.index('<section id="failures">') : text.index('<section id="runs">')]
    assert "arithmetic-llama-7b-dora-r32-s1" in part and f"Reason {escape(EVIL)}" in part
    assert f"<pre>before {escape(EVIL)}" in part and part.count("<h3>") == 1


def test_the_policy_lets_run_what_stands_in_the_page_alone(page):
    text = page[2]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'" and rules["img-src"] == "data:"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"


def test_the_answer_comes_first(page):
    plan, results, text = page
    order = (
        "answer",
        "ranked",
        "tables",
        "tests",
        "budget",
        "figures",
        "contamination",
        "footprint",
        "claims",
        "audit",
        "runs",
    )
    places = [text.index(f'<section id="{name}"') for name in order]
    assert places == sorted(places)
    sentences = conclusions(plan, separation(Results(plan, results)))
    assert len(sentences) == 3
    # SBoRA-FA against LoRA and DoRA: at rank 32 it has 21 of 120 less right than DoRA, at 64, of as many parameters, 3
    # more than LoRA
    assert sentences[0] == (
        "Exploratory, by the tables' own scores: SBoRA against other methods at equal rank or equal"
        " trainable parameters is better in 0, worse in 2 and no difference is shown in 2 of 4 pairs, taking items and"
        " seeds together; as measured it lies −17.5 to +2.5 points from them."
    )
    assert sentences[1].startswith("Not planned, so exploratory: of 5 pairs of methods at equal rank or parameters, ")
    assert "on 1 of 3 columns (one-sided, over seeds and items, 1 % of all columns together)" in sentences[2]
    assert "methods or ranks differ, as trained here, on 1 of the 3 columns" in sentences[2]
    highest = highest_scores(Results(plan, results))
    # DoRA's second seed failed, so its mean is of seeds 0 and 2: the same, and shared with SBoRA-FA at rank 64
    assert highest[0] == (
        f"Table {EVIL}: the highest average is 49.2 ± 3.5 (2 of 3 seeds) %, Method {EVIL} at rank 32 on LLaMA-7B"
        " and SBoRA-FA at rank 64 on LLaMA-7B (untuned: 5.0 %)."
    )
    assert highest[1] == "1 of 17 runs have no score: they failed or were not run."
    assert all(str(escape(sentence)) in text for sentence in sentences + highest)


def test_a_run_has_scores_curve_settings_provenance_and_samples(page):
    plan, results, _ = page
    run = plan.run("arithmetic-llama-7b-lora-r32-s1")
    shown = section(Results(plan, results), run, 10**6)
    assert shown.scores[0] == ["MultiArith", "77.5", "[62.5, 87.7]", "6.6", "40", "acc"]
    assert shown.loss["label"] == "Loss from 3.100 at update 1 to 0.400 at update 10"
    points = [float(number) for point in shown.loss["lines"]["training"].split() for number in point.split(",")]
    due = [34, 8, 34 + 284 * 4 / 9, 96 - 88 * 0.7 / 3.1, 318, 96 - 88 * 0.4 / 3.1]  # x, y of updates 1, 5 and 10
    assert points == pytest.approx(due, abs=0.05)
    assert ("learning_rate", "0.001") in shown.facts["Settings"]
    assert shown.facts["Provenance"] == [("hardware.gpu", "A card"), ("versions.torch", "2")]
    assert (len(shown.samples), shown.answered) == (3 * MOST, 3 * 40)
    assert {sample["mark"] for sample in shown.samples} == {"right", "wrong"}


def test_samples_are_the_same_items_in_every_run_and_fewer_where_room_is_scarce(page):
    plan, results, _ = page
    runs = [plan.run(f"arithmetic-llama-7b-{cell}-s0") for cell in ("lora-r32", "sbora-fa-r64")]
    one, other = (
        [sample["id"] for sample in chosen_samples(Results(plan, results), run, ["gsm8k"], 10**6)] for run in runs
    )
    assert one == other != list(range(MOST))
    few = chosen_samples(Results(plan, results), runs[0], ["MultiArith", "gsm8k"], 1200)
    assert [sample["task"] for sample in few] == ["MultiArith", "MultiArith", "GSM8K", "GSM8K"]
    assert chosen_samples(Results(plan, results), runs[0], ["gsm8k"], 10) == []


def test_of_many_runs_the_first_of_each_cell_and_the_failed_have_a_section(page, monkeypatch):
    plan, results, _ = page
    read = Results(plan, results)
    assert runs_shown(read) == plan.runs and not samples_shown(run_sections(read), len(plan.runs)).startswith("Of ")
    monkeypatch.setattr("sbora_bench.report.page_runs.MANY", 5)
    shown = [run.name for run in runs_shown(read)]
    assert [name for name in shown if not name.endswith(("-s0", "-base"))] == ["arithmetic-llama-7b-dora-r32-s1"]
    assert len(shown) == len({run.cell for run in plan.runs}) + 1
    assert samples_shown(run_sections(read), len(plan.runs)).startswith("Of 17 runs these are 8, the first seed's of ")


def test_what_runs_have_in_common_stands_once_and_nothing_is_lost(page):
    plan, results, text = page
    sections = run_sections(Results(plan, results))
    own, shared = without_shared_facts(sections)
    for before, after in zip(sections, own, strict=True):
        for title, pairs in before.facts.items():
            common = shared[before.table].get(title, [])
            assert sorted(after.facts.get(title, []) + [pair for pair in common if pair in pairs]) == sorted(pairs)
    tuned = [section.facts["Settings"] for section in sections if len(section.facts.get("Settings", ())) > 1]
    assert ("learning_rate", "0.001") in shared["arithmetic"]["Settings"] and len(tuned) > 10
    assert all(pair in pairs for pairs in tuned for pair in shared["arithmetic"]["Settings"])
    assert text.count("<dt>learning_rate</dt>") == 1 and text.count("<dt>settings_sha256</dt>") == len(sections)
    named, questions = questions_of(sections)
    prompts = [sample["prompt"] for section in sections for sample in section.samples]
    items = {(sample["task"], sample["id"]) for section in sections for sample in section.samples}
    assert len(questions) == len(items) < len(prompts)
    by_anchor = {question["anchor"]: question["prompt"] for question in questions}
    assert [by_anchor[sample["question"]] for section in named for sample in section.samples] == prompts


def test_a_published_page_is_the_same_wherever_it_is_drawn_and_has_no_times(page, tmp_path):
    plan, results, text = page
    moved = tmp_path / "moved"
    shutil.copytree(results, moved)
    for record in moved.glob("runs/*/train.json"):  # as another machine would leave it
        trained = read_record(record, TrainRecord)
        happened = trained.happened.model_copy(update={"seconds": 98765.4, "tokens_per_second": 54321.0})
        write_record(
            record, trained.model_copy(update={"happened": happened, "on": Environment(hardware=Hardware(gpu="B"))})
        )
    collect(plan, moved)
    published = drawn_page(plan, results, published=True)
    assert published == drawn_page(plan, moved, published=True) and len(published) < len(text)
    assert "Published without" in published and "A card" not in published and "before &lt;" not in published
    checker = Checker()
    checker.feed(published)
    assert checker.open == [] and checker.tags.count("img") == 3
    ids = set(re.findall(r'\bid="([^"]+)"', published))
    assert {source[1:] for source in checker.sources if source.startswith("#")} <= ids


def test_long_texts_are_cut_and_say_so():
    row = {
        "id": 1,
        "prompt": "p" * 2000 + "?",
        "response": "r" * 2000,
        "extracted": "",
        "answer": "7",
        "correct": False,
    }
    shown = sample_shown("GSM8K", row)
    assert shown["prompt"].startswith("[501 signs left out] p") and shown["prompt"].endswith("p?")
    assert shown["response"] == "r" * LONGEST + " [500 signs left out]" and shown["extracted"] == "none"


def test_no_curve_of_a_single_point(page):
    plan, results, _ = page
    record = Results(plan, results).training(plan.run("arithmetic-llama-7b-lora-r32-s0"))
    one = record.model_copy(update={"happened": Training(loss_curve=record.happened.loss_curve[:1])})
    assert curve_drawing(one) is None and curve_drawing(None) is None


def test_runs_and_contamination(page):
    plan, results, _ = page
    groups = run_table(Results(plan, results)).groups
    runs = {row[0].text: [cell.text for cell in row[1:]] for group in groups for row in group}
    assert runs["arithmetic-llama-7b-dora-r32-s1"] == [f"failed (Reason {EVIL})"] + ["–"] * 6
    assert runs["arithmetic-llama-7b-lora-r32-s0"] == ["ok", "44.2", "10", "0.300", "1.5", "427", "954"]
    assert runs["arithmetic-llama-7b-base"] == ["ok", "5.0"] + ["–"] * 5
    contamination = [[cell.text for cell in row] for row in contamination_table(Results(plan, results)).groups[0]]
    assert contamination[2] == ["arithmetic", "math-10k", f"Task {EVIL}", "3", "40", "40"]
    footprint = footprint_table(Results(plan, results))
    assert "Optimizer, bytes" not in footprint.header  # not known of any cell
    assert [cell.text for cell in footprint.groups[0][0]][:5] == ["arithmetic", "LLaMA-7B", "Base, untuned", "–", "0"]


def test_a_missing_figure_is_an_error(tmp_path):
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    collect(plan, results)
    with pytest.raises(UserError, match=r"score-arithmetic\.png: no such file; run `sbora-bench figures` first"):
        report(plan, results)
    assert not (results / "report.html").exists()


def test_a_method_without_a_size_has_no_rank_in_a_sentence(tmp_path):
    entries = catalog()
    entries["methods"]["dora"]["arguments"] = {"r": 16}
    plan, results = make_experiment(tmp_path, experiment(), entries)
    collect(plan, results)
    (of_table, *_) = highest_scores(Results(plan, results))
    assert "%, DoRA on LLaMA-7B and SBoRA-FA at rank 64 on LLaMA-7B (" in of_table


def test_nothing_run_says_so(tmp_path):
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    collect(plan, results)
    assert len(conclusions(plan, separation(Results(plan, results)))) == 1
    sentences = highest_scores(Results(plan, results))
    assert sentences[0] == "Arithmetic, by hand: no tuned run has a score (average)."
    assert sentences[-1] == f"{len(plan.runs)} of {len(plan.runs)} runs have no score: they failed or were not run."


def test_a_cell_that_could_not_be_traced_says_so_with_its_reason(tmp_path):
    plan, results = make_experiment(tmp_path, experiment(seeds=(0,)))
    path = results / "runs" / "arithmetic-llama-7b-dora-r32-s0" / "footprint.json"
    record = read_record(path, FootprintRecord)
    write_record(path, record.model_copy(update={"status": "not traced", "reason": "an operation without a shape"}))
    collect(plan, results)
    table = footprint_table(Results(plan, results))
    place = table.header.index("Peak, bytes, estimated")
    texts = {row[2].text: row[place].text for row in table.groups[0]}
    assert texts["DoRA"] == "not traced" and texts["LoRA"] == "–"
    assert "Not traced: arithmetic-llama-7b-dora-r32 (an operation without a shape)." in table.notes
