"""Results recomputed from samples, and every way of tampering that must be seen; then the commands that show runs."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from sbora_bench.analysis.collect import collect
from sbora_bench.cli.main import cli
from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, read_json, read_jsonl, sha256, write_json, write_jsonl, write_text
from sbora_bench.report import terminal
from sbora_bench.report.tables import tables
from sbora_bench.report.verify import from_samples, recomputed, verify
from sbora_bench.results import store
from sbora_bench.results.records import SEAL, ScoresRecord, TaskScore, read_record
from tests.factories.made_results import experiment, make_experiment, make_run

LORA = "arithmetic-llama-7b-lora-r32-s1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One seed less than others have it: quick. Scores by lm-eval's own standard error, all runs in the store."""
    folder = tmp_path_factory.mktemp("whole")
    plan, results = make_experiment(folder, experiment(seeds=(0, 1)))
    for run in plan.runs:
        path = results / "runs" / run.name / "scores.json"
        scores, _ = recomputed(path.parent, read_record(path, ScoresRecord))
        write_json(path, scores.model_dump(mode="json"))
        with store.new_entry(store.entry_folder(results, run.name, "evaluate", "0" * 64)) as made:
            shutil.copytree(path.parent / "samples", made / "samples")
            for name in ("scores.json", "train.json"):
                if (path.parent / name).exists():
                    shutil.copy(path.parent / name, made / name)
    collect(plan, results)
    tables(plan, results)
    return plan, results


@pytest.fixture
def made(whole, tmp_path):
    plan, results = whole
    shutil.copytree(results, tmp_path / "results")
    return plan, tmp_path / "results"


def run_verify(plan, results):
    return CliRunner().invoke(cli, ["verify", str(results), "--experiment", plan.path])


def test_what_was_made_is_verified(made):
    plan, results = made
    ran = run_verify(plan, results)
    assert ran.exit_code == 0, ran.output
    assert "18 runs; every table is what the samples give, byte for byte" in ran.output


def test_a_folder_with_a_part_of_the_runs_says_what_it_needs_in_one_line(made):
    plan, results = made
    for run in plan.runs[4:]:
        shutil.rmtree(results / "runs" / run.name)
    ran = run_verify(plan, results)
    assert isinstance(ran.exception, UserError) and "14 of the 18 runs of" in str(ran.exception)
    assert "--only" in str(ran.exception) and "\n" not in str(ran.exception)


def test_from_another_folder_the_experiment_stands_beside_its_results(made, tmp_path, monkeypatch):
    plan, results = made
    place = tmp_path / "away"
    shutil.copytree(results, place / "results" / "by-hand")
    shutil.copytree(Path(plan.path).parent, place / "experiments")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    ran = CliRunner().invoke(cli, ["verify", str(place / "results" / "by-hand")])
    assert ran.exit_code == 0, ran.output
    (place / "results" / "by-hand_method-lora").mkdir()
    part = CliRunner().invoke(cli, ["verify", str(place / "results" / "by-hand_method-lora")])
    assert isinstance(part.exception, UserError) and "say --experiment by-hand, and the --only" in str(part.exception)


def edit(path, change):
    """As by one who takes care: a record's own checksum, which would tell, is made to fit."""
    value = read_json(path)
    value.pop(SEAL, None)
    change(value)
    write_json(path, value | {SEAL: hash_of(value)})


def edit_sample(results):
    path = results / "runs" / LORA / "samples/AddSub.jsonl"
    rows = read_jsonl(path)
    rows[30]["correct"] = not rows[30]["correct"]
    write_jsonl(path, rows)


def edit_sample_and_its_hash(results):
    edit_sample(results)
    folder = results / "runs" / LORA
    digest = sha256(folder / "samples/AddSub.jsonl")
    edit(folder / "scores.json", lambda value: value["tasks"]["AddSub"].update(samples_sha256=digest))


def other_packages(results):
    edit(results / "runs" / LORA / "train.json", lambda value: value["on"].update(versions={"torch": "1"}))


def edit_table(results):
    path = results / "tables/arithmetic.md"
    write_text(path, path.read_text().replace("LoRA", "LORA", 1))


def count_otherwise(results):
    edit(results / "runs" / LORA / "footprint.json", lambda value: value.update(trainable_parameters=7))


def end_as_another_method(results):
    same = {"adapter_model.safetensors": "a" * 64}
    for name in (LORA, LORA.replace("lora", "sbora-fa")):
        edit(results / "runs" / name / "train.json", lambda value: value["happened"].update(adapter_sha256=same))


SPOILT = {
    "other parameters than training's": (
        count_otherwise,
        [f"runs/{LORA}/footprint.json: trainable_parameters: found 7, training had "],
    ),
    "two methods with one adapter": (end_as_another_method, [f"its adapter is that of {LORA}, byte for byte"]),
    "a score edited": (
        lambda r: edit(r / "runs" / LORA / "scores.json", lambda value: value["tasks"]["AddSub"].update(value=0.9)),
        [f"runs/{LORA}/scores.json: AddSub: value: found 0.9, the samples give 0.525", "scores.json: changed since"],
    ),
    "a sample edited": (
        edit_sample,
        ["AddSub.jsonl: not the samples that scores.json was made of", "value: found 0.525", "scores.csv: line "],
    ),
    "a sample and its hash": (edit_sample_and_its_hash, ["AddSub.jsonl: changed since", "scores.json: changed since"]),
    "a table edited": (edit_table, ["tables/arithmetic.md: line 5: not what the samples give"]),
    "a table cut short": (lambda r: write_text(r / "tables/cells.csv", "table"), ["tables/cells.csv: line 1: not"]),
    "a table missing": (lambda r: (r / "tables/gains.csv").unlink(), ["tables/gains.csv: missing"]),
    "other packages": (other_packages, ["mixed version: torch (training): 2 (", f"1 (1 runs, {LORA} say)"]),
    "another task": (
        lambda r: edit(r / "runs" / LORA / "scores.json", lambda value: value["tasks"]["AddSub"].update(task_hash="b")),
        [f"runs/{LORA}/scores.json: changed since"],
    ),
    "a record edited without care": (
        lambda r: write_text(
            r / "runs" / LORA / "train.json", (r / "runs" / LORA / "train.json").read_text().replace("ok", "OK", 1)
        ),
        [f"runs/{LORA}/train.json: record_sha256: differs from the contents"],
    ),
    "a missing seed": (
        lambda r: (r / "runs" / LORA / "scores.json").unlink(),
        [f"runs/{LORA}/scores.json: missing: seed 1 of arithmetic-llama-7b-lora-r32 (seeds that are there: 0)"],
    ),
    "a record of another version": (
        lambda r: edit(r / "runs" / LORA / "scores.json", lambda value: value.update(version=9)),
        ["version: found 9, allowed 1"],
    ),
    "other settings": (
        lambda r: edit(r / "runs" / LORA / "scores.json", lambda value: value.update(settings_sha256="0" * 64)),
        ["settings_sha256: found 000000000000", "made under other settings"],
    ),
    "no samples": (
        lambda r: (r / "runs" / LORA / "samples/gsm8k.jsonl").unlink(),
        ["gsm8k.jsonl: no such file"],
    ),
    "damaged samples": (
        lambda r: write_text(r / "runs" / LORA / "samples/gsm8k.jsonl", "[1]\n"),
        ["gsm8k.jsonl: not samples of a scored task"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_tampering_is_told_in_lines_and_exit_status_2(made, what):
    plan, results = made
    spoil, parts = SPOILT[what]
    spoil(results)
    ran = run_verify(plan, results)
    assert ran.exit_code == 2 and ran.exception.code == 2, ran.output
    for part in parts:
        assert part in ran.output, ran.output
    assert len(ran.stdout.splitlines()) == int(ran.stderr.split()[-2])  # the count; a line a finding
    assert str(results) not in ran.stdout


def test_without_a_store_it_says_so(made):
    plan, results = made
    shutil.rmtree(results / "store" / LORA)
    assert verify(plan, results) == ([], [f"not checked against the store, which has no entry of 1 runs, {LORA} say"])


def test_a_failed_run_is_no_finding(made):
    plan, results = made
    shutil.rmtree(results / "store" / LORA)
    make_run(plan, results, plan.run(LORA), failed="no memory")
    shutil.rmtree(results / "runs" / LORA / "samples")
    collect(plan, results)
    tables(plan, results)
    assert verify(plan, results)[0] == []


def test_not_a_results_folder(made, tmp_path):
    with pytest.raises(UserError, match="no runs/ here"):
        verify(made[0], tmp_path / "experiments")


def test_macro_averages_are_of_the_subjects(tmp_path):
    recorded = TaskScore(metric="acc", mean_over="subjects", value=0.9, n=3)
    rows = [
        {"correct": correct, "contaminated": False, "subject": subject}
        for correct, subject in [(True, "a"), (True, "a"), (False, "b"), (True, "b"), (False, "b"), (False, "b")]
    ]
    counted = from_samples(tmp_path, recorded, rows)
    assert (counted.value, counted.n, counted.extra) == (0.625, 6, {"micro": 0.5, "macro": 0.625})
    assert counted.stderr == pytest.approx((0.25**2 + 0) ** 0.5 / 2)
    with pytest.raises(UserError, match="subject: missing"):
        from_samples(tmp_path, recorded, [{"correct": True, "contaminated": False}])


def invoked(results, *arguments):
    return CliRunner().invoke(cli, [*arguments, "--results", str(results)])


def test_compare_pairs_two_runs(made):
    _, results = made
    ran = invoked(results, "compare", LORA, "arithmetic-llama-7b-sbora-fa-r32-s1")
    assert ran.exit_code == 0, ran.output
    lines = {line.split()[0]: line for line in ran.output.splitlines()}
    assert lines["MultiArith"].split() == ["MultiArith", "77.5", "32.5", "+45.0", "40", "18", "0", "2.3e-05", "better"]
    assert lines["AddSub"].endswith("no difference shown")
    assert lines["average"].split()[:5] == ["average", "46.7", "31.7", "+15.0", "better;"]
    folder = str(results / "runs" / LORA)
    assert "+0.0" in invoked(results, "compare", folder, folder).output


def test_compare_refuses_what_cannot_be_paired(made):
    _, results = made
    with pytest.raises(UserError, match="no task in common"):
        terminal.compare(results / "runs" / LORA, results / "runs/mmlu-alpaca-llama-7b-base")
    path = results / "runs/arithmetic-llama-7b-base/samples/gsm8k.jsonl"
    write_jsonl(path, [row | {"answer": "other"} for row in read_jsonl(path)])
    with pytest.raises(UserError, match="gsm8k.jsonl: item 0: another right answer"):
        terminal.compare(results / "runs" / LORA, path.parent.parent)
    with pytest.raises(UserError, match=f"did you mean '{LORA}'"):
        terminal.run_at(LORA[:-1], results)


def test_show_is_one_screen(made):
    plan, results = made
    text = invoked(results, "show", LORA).output
    assert len(text.splitlines()) < 24 and max(map(len, text.splitlines()[:-1])) < 100
    assert "lora on llama-7b, rank 32, seed 1" in text and "loss 3.100 -> 0.400" in text
    assert "52.5 %  [37.5, 67.1]  n 40" in text
    make_run(plan, results, plan.run(LORA), failed="no memory")
    text = invoked(results, "show", LORA).output
    assert f"{LORA}: failed (no memory)" in text and "training: failed no memory" in text
    assert "trained on" not in invoked(results, "show", "arithmetic-llama-7b-base").output
