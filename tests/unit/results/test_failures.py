"""Runs that failed are named, and forgotten to be run again; what did not fail stays."""

import shutil

import pytest

from sbora_bench.results import store
from sbora_bench.results.failures import LAST, Failure, failed_runs, failures_with_logs, forget
from tests.factories.made_results import make_plan, make_results, make_run


@pytest.fixture
def house(tmp_path):
    """(plan, results folder, a run that failed and stands in the store, a run that did not)."""
    plan, results = make_plan(tmp_path), tmp_path / "results" / "made"
    make_results(plan, results)
    bad, good = [run for run in plan.runs if not run.is_base][:2]
    make_run(plan, results, bad, failed="loss nan at step 3")
    for run in (bad, good):
        with store.new_entry(store.entry_folder(results, run.name, "finetune", "a" * 64)) as made:
            shutil.copy2(results / "runs" / run.name / "train.json", made)
    return plan, results, bad.name, good.name


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_failed_runs_are_named_with_the_reason(house):
    plan, results, bad, _ = house
    assert failed_runs(plan, results) == {bad: "loss nan at step 3"}
    (results / "runs" / bad / "train.json").write_text("{")
    assert failed_runs(plan, results) == {bad: "loss nan at step 3"}, "its scores tell too"


def test_the_last_lines_of_the_log_stand_beside_the_reason(house):
    plan, results, bad, _ = house
    log = results / "logs" / "run" / "made-0.log"
    assert failures_with_logs(plan, results) == [Failure(bad, "loss nan at step 3", "")]
    log.parent.mkdir(parents=True)
    before = [f"line {number}" for number in range(60)]
    trace_line = '  File "/home/someone/secret/.venv/lib/python3.11/site-packages/torch/nn.py", line 7, in forward'
    log.write_text("\n".join([*before, trace_line, f"{bad}: failed: loss nan at step 3", "another run began"]))
    (failure,) = failures_with_logs(plan, results)
    lines = failure.log.splitlines()
    assert len(lines) == LAST and lines[-3:] == [
        "line 59",
        '  File "torch/nn.py", line 7, in forward',
        f"{bad}: failed: loss nan at step 3",
    ]


def test_forgetting_takes_the_failed_records_alone(house):
    plan, results, bad, good = house
    checkpoint = (
        store.entry_folder(results, bad, "finetune", "a" * 64).with_name("finetune-aa.checkpoints") / "checkpoint-2"
    )
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("good ones")
    before = files(results)
    assert forget(plan, results) == [bad]
    gone = {f"runs/{bad}/train.json", f"runs/{bad}/scores.json"}
    gone |= {f"store/{bad}/finetune-{'a' * 16}/{name}" for name in ("train.json", store.DONE)}
    assert before - files(results) == gone
    assert failed_runs(plan, results) == {} and forget(plan, results) == []
    assert store.is_whole(store.entry_folder(results, good, "finetune", "a" * 64))


def test_the_command_ends_with_status_1_where_runs_failed(house, monkeypatch, capsys):
    from sbora_bench.cli import main as cli

    plan, results, bad, _ = house

    def status() -> int:
        monkeypatch.setattr("sys.argv", ["sbora-bench", "failures", "-e", plan.path, "--results", str(results)])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code or 0
        return 0

    assert status() == 1
    output = capsys.readouterr().out
    assert f"{bad}: failed: loss nan at step 3\n1 of {len(plan.runs)} runs failed\n" in output
    assert "retry_failed=true" in output
    forget(plan, results)
    assert status() == 0
