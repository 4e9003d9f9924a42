"""Published runs beside results made by hand: inside, outside, not run, of another loss, not here."""

import pytest
from click.testing import CliRunner

from sbora_bench.analysis.published import BANDS, Place, PublishedRun, beside_published, read_bands
from sbora_bench.cli.main import cli
from sbora_bench.errors import UserError
from sbora_bench.results.read import Results
from tests.factories import made_results, shipped

LORA = {"model": "llama-7b", "method": "lora", "rank": 32, "suite": "arithmetic", "task": "gsm8k", "wider": 0.5}
LORA |= {"source": "someone", "loss_on": "answer", "values": [10.0], "because": "a reason"}
BAD = [("wider: -1", "wider"), ("rank: 0", "rank"), ("loss_on: some", "loss_on"), ("values: [101]", "values")]


def published(**changes):
    return PublishedRun(**(LORA | changes))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return Results(*made_results.make_experiment(root))


def one(results, **changes):
    (row,) = beside_published(results, [published(**changes)])
    return row


def test_the_mean_over_seeds_is_compared_with_the_band(results):
    # LoRA has 3, 4 and 5 of 40 items right in its three seeds
    row = one(results)
    assert (row.verdict, row.value, row.seeds, row.table) == ("inside", pytest.approx(10.0), 3, "arithmetic")
    assert one(results, values=[9.5]).verdict == "inside"
    assert one(results, values=[9.4]).verdict == "outside"
    assert one(results, values=[8.0, 12.0], wider=0).verdict == "inside"


def test_an_average_is_over_all_tasks_of_the_suite(results):
    # MultiArith 31, gsm8k 4, AddSub 21 of 40, on average over the seeds
    assert one(results, task="average").value == pytest.approx(100 * (31 + 4 + 21) / 120)


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({"loss_on": "all"}, "not compared: loss on answer here, on all there"),
        ({"task": "AQuA"}, "not compared: AQuA is not scored"),
        ({"rank": 64}, Place.ELSEWHERE.value),
        ({"model": "llama-13b"}, Place.ELSEWHERE.value),
        ({"suite": "commonsense"}, Place.ELSEWHERE.value),
    ],
)
def test_what_cannot_be_compared_says_why(results, changes, verdict):
    row = one(results, **changes)
    assert row.verdict_text == verdict and row.value is None


def test_an_experiment_without_results_was_not_run(results, tmp_path):
    assert one(Results(results.plan, tmp_path)).verdict is Place.NOT_RUN


def test_the_shipped_bands_name_entries_of_the_catalog_and_hold_their_own_numbers():
    catalog, runs = shipped.catalog(), read_bands()
    for run in runs:
        assert run.model in catalog.models and run.method in catalog.methods
        assert run.task in [*catalog.suites[run.suite].tasks, "average"]
        low, high = run.band
        assert all(low <= value <= high for value in run.values)
    assert len({(run.model, run.method, run.rank, run.suite, run.task) for run in runs}) == len(runs) > 20


@pytest.mark.parametrize("line, key", BAD)
def test_a_band_that_is_none_is_refused_by_its_key(tmp_path, line, key):
    path, field = tmp_path / "bands.yaml", line.partition(":")[0]
    lines = [f"    {name}: {value}" for name, value in LORA.items() if name != field]
    path.write_text("runs:\n  -\n" + "\n".join([*lines, f"    {line}"]))
    with pytest.raises(UserError, match=rf"bands.yaml: runs.0.{key}"):
        read_bands(path)


def test_the_command_prints_each_reported_number_and_exits_0_whatever_comes_out(results, tmp_path):
    bands = tmp_path / "bands.yaml"
    lines = "\n".join(f"    {name}: {value}" for name, value in (LORA | {"values": [50.0]}).items())
    bands.write_text(f"runs:\n  -\n{lines}\n")
    command = ["compare-published", results.plan.path, "--results", str(results.folder), "--published", str(bands)]
    run = CliRunner().invoke(cli, command)
    assert run.exit_code == 0
    assert "outside [arithmetic]: llama-7b lora r 32, arithmetic/gsm8k: reported 50.0; band 49.5 to 50.5" in run.output
    assert "ours 10.0 (3 seeds); someone: a reason" in run.output
    assert "0 inside, 1 outside, 0 not run, 0 not compared" in run.output
    bands.write_text(bands.read_text().replace("llama-7b", "llama-13b"))
    others = CliRunner().invoke(cli, command)
    assert others.exit_code == 0 and others.output.count("\n") == 1
    assert (
        "none of the 1 published results is of a cell of this experiment; they are of llama-13b (docs/" in others.output
    )
    missing = CliRunner().invoke(cli, [*command[:-1], str(tmp_path / "none.yaml")])
    assert isinstance(missing.exception, UserError) and BANDS.is_file()
