"""Is it the form of an answer that tuning taught, or the answer? From samples to the page's table."""

import pytest

from sbora_bench.analysis.answer_formats import answer_shares, tasks_asked_both_ways
from sbora_bench.report.render import markdown
from sbora_bench.report.views.format_table import FORMATS
from sbora_bench.results.read import Results
from tests.factories.made_results import ITEMS, catalog, experiment, make_experiment, make_plan, samples, score_again

ASKED = ["MultiArith", "AddSub"]


def with_choices(answer_by: str = "generation", metric: str = "gold_loss") -> tuple[dict, dict]:
    """An experiment and its catalog in which two of three tasks are choices."""
    entries, written = catalog(), experiment(seeds=(0,))
    for task in ASKED:
        entries["tasks"][task]["template"] = "choice"
    table = written["tables"]["arithmetic"] | {"metric": metric, "answer_by": answer_by}
    return written | {"tables": {"arithmetic": table}}, entries


@pytest.mark.parametrize(
    ("answer_by", "metric", "asked"),
    [("generation", "gold_loss", ASKED), ("generation", "score", []), ("likelihood", "gold_loss", [])],
)
def test_choices_that_are_generated_and_read_by_likelihood(tmp_path, answer_by, metric, asked):
    plan = make_plan(tmp_path, *with_choices(answer_by, metric))
    assert tasks_asked_both_ways(plan, "arithmetic") == asked
    assert list(FORMATS.subjects(plan)) == (["format-arithmetic"] if asked else [])


def test_a_base_that_knows_the_answers_and_not_the_format(tmp_path):
    """The base has 90 % right by likelihood, few in the format; tuning teaches the format and loses content."""
    plan, folder = make_experiment(tmp_path, *with_choices())
    for run in plan.runs:
        known = 36 if run.is_base else 30
        for task in ASKED:
            rows = samples(run, task)
            for place, row in enumerate(rows):
                row["likeliest"] = row["answer"] if place < known else "none"
                row["extracted"] = row["extracted"] or ("" if run.is_base else "wrong")
            score_again(folder, run, task, rows)
    results = Results(plan, folder)
    base, lora = (
        next(row for row in answer_shares(results, "arithmetic") if row.cell.method == m) for m in ("base", "lora")
    )
    assert (base.in_the_format, base.right_as_generated) == pytest.approx(((2 + 3) / (2 * ITEMS),) * 2)
    assert base.right_by_likelihood == pytest.approx(0.9)
    assert (lora.in_the_format, lora.right_by_likelihood) == pytest.approx((1.0, 0.75))
    (table,) = FORMATS.tables(results)
    shown = markdown(table)
    assert "| LLaMA-7B | LoRA r = 32 | 1 | 100.0<br>+93.8 | 75.0<br>−15.0 | 62.5<br>+56.2 |" in shown
    assert "items of MultiArith, AddSub, the mean" in shown and "GSM8K" not in shown


def test_runs_without_likelihoods_are_not_shown(tmp_path):
    plan, folder = make_experiment(tmp_path, *with_choices())
    assert FORMATS.tables(Results(plan, folder)) == []
