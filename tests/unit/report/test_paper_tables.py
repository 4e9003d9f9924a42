"""The paper's three tables, drawn from made-up scores of every run of `paper`: layout, numbers, spellings."""

import csv
import io
import re
import shutil
import statistics
import subprocess
from itertools import accumulate, groupby

import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.plan.layouts import layouts
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import settings_hash
from sbora_bench.report.render import csv as spell_csv
from sbora_bench.report.render import html, latex, markdown
from sbora_bench.results.paper.reported import plain, read_reported, reported_cell
from sbora_bench.results.read import Results
from sbora_bench.results.records import (
    ContaminationRecord,
    FootprintRecord,
    ScoresRecord,
    TaskData,
    TaskScore,
    write_record,
)
from tests.factories.made_results import printed_tables
from tests.factories.shipped import ROOT

TABLES = {"commonsense": "commonsense", "arithmetic": "arithmetic", "mmlu": "qsbora_mmlu"}
LEAKS = {"AddSub": 327, "MultiArith": 452, "SingleEq": 416}  # of 395, 600 and 508, protocol section 6
N = {"AddSub": 395, "MultiArith": 600, "SingleEq": 508}
TABULAR = r"\\begin\{tabular\}\{([lr]+)\}\n([\s\S]*)\\end\{tabular\}"
KNOWN = "usepackage begin end centering scriptsize setlength tabcolsep caption label par toprule midrule bottomrule"
KNOWN += " textbf shortstack textsuperscript pm providecommand resizebox linewidth"
SPREAD = (-0.01, 0.0, 0.02)  # by seed, added to what the paper reports


def printed(table: str) -> list[tuple[str, str, int | None]]:
    """Rows of a reported table in its order: model, method, rank."""
    rows = [(row.model, row.method, row.rank) for row in read_reported() if row.table == table]
    return [row for row, _ in groupby(rows)]


def metrics(table: str) -> list[str]:
    first = printed(table)[0]
    return [row.metric for row in read_reported() if (row.table, row.model, row.method, row.rank) == (table, *first)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(plan, views by name)."""
    results = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        plan = load_plan("paper")
    for table, entry in plan.experiment.tables.items():
        leaks = {task: LEAKS.get(task, 0) if entry.train == "math-10k" else 0 for task in plan.tasks(table)}
        tasks = {
            task: TaskData(available=N.get(task, 1000), n=N.get(task, 1000), contaminated=list(range(count)))
            for task, count in leaks.items()
        }
        record = ContaminationRecord(
            experiment="paper",
            table=table,
            train=entry.train,
            train_rows=1,
            train_sha256="",
            policy="keep",
            tasks=tasks,
        )
        write_record(results / "data" / table / "contamination.json", record)
    for run in plan.runs:
        write_run(plan, results, run)
    collect(plan, results)
    return plan, {table.name: table for table in printed_tables(Results(plan, results))}


def write_run(plan, results, run) -> None:
    """Scores of a run: what the paper reports, shifted by seed; clean items 0.2 worse, micro 0.01 better."""
    entry, titles = plan.experiment.tables[run.table], plan.catalog
    numbers = {}
    if not run.is_base:
        numbers = {
            plain(row.metric): row.value / 100 + SPREAD[run.seed]
            for row in reported_cell(
                entry.suite, titles.models[run.model].title, titles.methods[run.method].title, run.rank
            )
        }
        assert numbers, run
    scores = {}
    for task in plan.tasks(run.table):
        value = next(
            (numbers[name] for name in (plain(titles.tasks[task].title), plain(entry.train)) if name in numbers), 0.1
        )
        extra = {"micro": value + 0.01, "macro": value} if entry.suite == "mmlu" else {}
        if entry.train == "math-10k" and task in LEAKS:
            extra = {"clean": value - 0.2 if numbers else 0.0, "clean_n": N[task] - LEAKS[task]}
        over = "subjects" if entry.suite == "mmlu" else "items"
        scores[task] = TaskScore(metric="acc", mean_over=over, value=value, n=N.get(task, 1000), extra=extra)
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    record = ScoresRecord(
        **names,
        experiment=plan.name,
        run=run.name,
        suite=entry.suite,
        train=entry.train,
        protocol=entry.protocol,
        settings_sha256=settings_hash(plan, run),
        tasks=scores,
    )
    folder = results / "runs" / run.name
    write_record(folder / "scores.json", record)
    if not run.is_base:
        counted = FootprintRecord(
            model=run.model,
            method=run.method,
            rank=run.rank,
            trainable_parameters=123_456_789,
            total_parameters=10**10,
            adapter_bytes=None,
        )
        write_record(folder / "footprint.json", counted)


def test_three_tables_though_the_file_has_four(drawn):
    plan, views = drawn
    assert list(plan.experiment.tables) == ["commonsense", "arithmetic", "mmlu-alpaca", "mmlu-flanv2"]
    assert [layout.name for layout in layouts(plan)] == list(views) == list(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_rows_and_columns_are_the_papers_in_its_order(drawn, name):
    view = drawn[1][name]
    rows = [row for group in view.groups for row in group]
    tuned = [row for row in rows if row[1].text != "Base, untuned"]
    ours = [(plain(row[0].text), row[1].text, int(row[2].text)) for row in tuned]
    assert ours == [(plain(model), method, rank or 64) for model, method, rank in printed(TABLES[name])]
    assert len(ours) == {"commonsense": 16, "arithmetic": 16, "mmlu": 12}[name]
    assert rows[: len(tuned)] == tuned  # what the paper has not stands last
    assert view.header == ["Model", "Method", "Rank", "Trainable parameters", *metrics(TABLES[name])]


@pytest.mark.parametrize("name", TABLES)
def test_every_reported_cell_has_ours_with_spread_and_n_and_the_difference(drawn, name):
    view = drawn[1][name]
    spread = statistics.stdev(100 * shift for shift in SPREAD)
    reported = {
        (plain(row.model), row.method, row.rank or 64, row.metric): row
        for row in read_reported()
        if row.table == TABLES[name]
    }
    seen = 0
    for row in (row for group in view.groups for row in group if row[1].text != "Base, untuned"):
        for title, cell in zip(view.header[4:], row[4:], strict=True):
            number = reported[plain(row[0].text), row[1].text, int(row[2].text), title]
            mean, sd, n = re.fullmatch(r"([\d.]+) ± ([\d.]+) \((\d)\)", cell.text).groups()
            value, mark, difference = re.fullmatch(r"([\d.]+)([ᵃᵇᶜ]?) \(([+−][\d.]+)\)", cell.below[0]).groups()
            assert float(value) == number.value and int(n) == 3
            if title != "Average":
                assert float(sd) == pytest.approx(spread, abs=0.05)
                assert float(mean) == pytest.approx(number.value + 1 / 3, abs=0.051)
            assert float(difference.replace("−", "-")) == pytest.approx(float(mean) - number.value, abs=0.101)
            wrong = (TABLES[name], number.model, number.method, number.rank, title)
            assert bool(mark) == (wrong == ("commonsense", "LLaMA-7B", "SBoRA-FB", 32, "Average"))
            seen += 1
        assert row[3].text == "123,456,789"
        assert re.fullmatch(r"[\d.]+M[ᵃᵇ]?", row[3].below[0])
        assert float(row[3].below[0].rstrip("ᵃᵇ")[:-1]) == number.params_millions
    assert seen == len(reported)


def test_the_three_anomalies_are_marked_where_they_stand_and_footnoted(drawn):
    def marked(name):
        view = drawn[1][name]
        return [
            (row[0].text, row[1].text, row[2].text, view.header[place], line)
            for group in view.groups
            for row in group
            for place, cell in enumerate(row)
            for line in cell.below
            if "ᵃ" in line
        ]

    def footnotes(name):
        return [note for note in drawn[1][name].notes if note[0] in "ᵃᵇᶜᵈᵉᶠ"]

    ((*where, line),) = marked("commonsense")
    assert where == ["LLaMA-7B", "SBoRA-FB", "32", "Average"] and line.startswith("64.9ᵃ (+4.")
    assert len(footnotes("commonsense")) == 1 and "69.05" in footnotes("commonsense")[0]
    assert marked("arithmetic") == [("LLaMA-7B", "DoRA", "32", "Trainable parameters", "57.4Mᵃ")]
    assert len(footnotes("arithmetic")) == 1 and "56,975,360" in footnotes("arithmetic")[0]
    assert len(marked("mmlu")) == 12 and {where[3] for where in marked("mmlu")} == {"Trainable parameters"}
    assert len(footnotes("mmlu")) == 1 and "half of the true ones" in footnotes("mmlu")[0]


@pytest.mark.parametrize("name", TABLES)
def test_the_best_of_a_model_and_rank_is_bold(drawn, name):
    for group in drawn[1][name].groups:
        for place in range(4, len(group[0])):
            means = [float(row[place].text.split(" ")[0]) for row in group]
            best = [mean == max(means) and len(set(means)) > 1 for mean in means]
            base = group[0][1].text == "Base, untuned"
            assert [row[place].bold for row in group] == ([False] * len(group) if base else best)


def test_clean_scores_stand_beside_the_three_tasks_that_math_10k_leaks_into(drawn):
    view = drawn[1]["arithmetic"]
    for row in (row for group in view.groups for row in group):
        shown = {
            title: [line for line in cell.below if line.startswith("clean ")]
            for title, cell in zip(view.header, row, strict=True)
        }
        assert [title for title, lines in shown.items() if lines] == ["MultiArith", "AddSub", "SingleEq", "Average"]
    lora = dict(zip(view.header, view.groups[0][0], strict=True))
    assert lora["AddSub"].below == ("81.8 (+0.3)", "clean 62.1 ± 1.5 (3)")
    assert any("AddSub 327 of 395" in note and "SingleEq 416 of 508" in note for note in view.notes)
    for other in ("commonsense", "mmlu"):
        assert not any(
            "clean" in line for group in drawn[1][other].groups for row in group for c in row for line in c.below
        )


def test_micro_stands_beside_macro(drawn):
    view = drawn[1]["mmlu"]
    assert view.groups[0][0][4].below == ("37.9 (+0.3)", "micro 39.2 ± 1.5 (3)")
    assert any("mean over subjects" in note for note in view.notes)


@pytest.mark.parametrize("name", TABLES)
def test_four_spellings_say_the_same(drawn, name):
    view = drawn[1][name]
    rows = [row for group in view.groups for row in group]
    lines = list(csv.DictReader(io.StringIO(spell_csv(view.csv))))
    assert len(lines) == len(rows)
    texts = {"md": markdown(view), "tex": latex(view), "html": html(view)}
    for line, row in zip(lines, rows, strict=True):
        for title, cell in zip(view.header[4:], row[4:], strict=True):
            if line["method"] != "base":
                shown = [float(part) for part in re.findall(r"[\d.]+", cell.text)]
                numbers = [float(line[title + part]) for part in ("", " sd", " seeds")]
                assert shown == pytest.approx(numbers, abs=0.0501)
                less = numbers[0] - float(line[f"{title} reported"])
                assert float(line[f"{title} difference"]) == pytest.approx(less, abs=2e-6)
            for kind, text in texts.items():
                assert cell.text.replace("±", r"$\pm$" if kind == "tex" else "±") in text
    assert texts["md"].count("\n| ") == len(rows) + 2
    assert texts["html"].count("<tr") == len(rows) + 1


@pytest.mark.parametrize("name", TABLES)
def test_latex_has_a_cell_for_every_column(drawn, name):
    """Environments and braces close, and every row has as many cells as the tabular has columns."""
    text = latex(drawn[1][name])
    (specification, body), header = re.search(TABULAR, text).groups(), drawn[1][name].header
    assert len(specification) == len(header)
    lines = [line for line in body.splitlines() if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert len(lines) == 1 + sum(map(len, drawn[1][name].groups))
    for line in lines:
        assert line.endswith(r" \\")
        cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        assert len(cells) == len(header)
        for cell in cells:
            depths = list(accumulate((char == "{") - (char == "}") for char in re.sub(r"\\[{}]", "", cell)))
            assert min(depths) >= 0 and depths[-1] == 0
            assert cell.count("$") % 2 == 0
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]
    used = set(re.findall(r"\\([a-zA-Z]+)", text))
    assert used <= set(KNOWN.split())  # LaTeX itself and booktabs, no other package


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles_with_booktabs(drawn, tmp_path):
    """All tables in one document; pdflatex ends at the first error."""
    packages = "".join(rf"\usepackage{{{name}}}" for name in ("booktabs", "graphicx"))
    tables = "\n".join(latex(drawn[1][name]) for name in TABLES)
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 0
