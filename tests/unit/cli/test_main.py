"""`sbora-bench`: exit statuses, one line for the user's mistakes, and no heavy import for what needs none."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy
import yaml
from click.testing import CliRunner

from sbora_bench.cli.main import cli
from sbora_bench.cli.options import results_folder
from sbora_bench.files import git_blob_id
from sbora_bench.results.records import VERSION
from tests import forked
from tests.factories.shipped import ROOT
from tests.factories.workplace import EXPERIMENT, LOADED, edited, workplace  # noqa: F401

HEAVY = {"torch", "transformers", "pandas", "lm_eval", "peft", "datasets", "matplotlib", "scipy", "numpy", "snakemake"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "tiny"], ["plan", "tiny", "--json"], ["plan", "smollm2"], ["schema"]],
    ids=" ".join,
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "click" in loaded and not loaded & HEAVY


def test_plan_as_json_is_every_run_with_what_it_resolves_to(workplace):  # noqa: F811
    workplace.experiment()
    status, out, err = workplace.run("plan", "small", "--json")
    runs = json.loads(out)
    assert (status, err) == (0, "") and len(runs) == 5
    assert runs[1]["run"] == "sums-ladder-xs-lora-r4-s0" and runs[1]["protocol"]["steps"] == 10


# command line, and what the line names
WRONG = {
    "an unknown command": (["finetun"], ["finetun"]),
    "an unknown option": (["plan", "--jsn"], ["sbora-bench plan", "--jsn"]),
    "an option like a name": (["finetune", "-e", "small", "--x"], ["--x"]),
    "a missing option": (["prepare", "-e", "small", "--table", "sums"], ["--output"]),
    "a missing argument": (["finetune", "-e", "small"], ["RUNS"]),
    "too many arguments": (["plan", "small", "smaller"], ["smaller"]),
    "two experiments": (["plan", "small", "-e", "tiny"], ["plan: found small and --experiment tiny; give one of them"]),
    "no experiment": (["sizes"], ["EXPERIMENT"]),
    "no file": (["validate"], ["FILES"]),
    "a rank that is no number": (["footprint", "--model", "llama-7b", "--rank", "four"], ["--rank", "four"]),
    "threads that are no number": (["pretrain", "m", "--output", "o", "--threads", "x"], ["--threads"]),
    "an unknown run": (["finetune", "-e", "small", "sums-ladder-xs-lora-r4-s7"], ["did you mean", "r4-s0"]),
    "an unknown run of a job": (["run", "-e", "small", "sums-ladder-xs-lora-r4-s7"], ["did you mean", "r4-s0"]),
    "a run with shell characters": (["evaluate", "-e", "small", "$(id); rm -rf /"], ["unknown run '$(id); rm -rf /'"]),
    "a run that leaves the folder": (["evaluate", "-e", "small", "../../etc"], ["unknown run '../../etc'"]),
    "a run with a newline": (["evaluate", "-e", "small", "a\nb"], ["unknown run"]),
    "a base to train": (
        ["finetune", "-e", "small", "sums-ladder-xs-base"],
        ["sums-ladder-xs-base", "nothing to train"],
    ),
    "an unknown table to prepare": (["prepare", "-e", "small", "--table", "sum", "--output", "o"], ["did you mean"]),
    "an unknown model to prepare": (["prepare", "-e", "small", "--model", "m", "--output", "o"], ["unknown model 'm'"]),
    "an unknown model to train": (["pretrain", "-e", "small", "ladder-x", "--output", "o"], ["did you mean"]),
    "a model that is not trained here": (["pretrain", "-e", "small", "llama-7b", "--output", "o"], ["llama-7b", "hub"]),
    "a model that is trained here": (
        ["prepare", "-e", "small", "--model", "ladder-xs", "--output", "o"],
        ["sbora-bench pretrain --experiment experiments/small.yaml ladder-xs --output o"],
    ),
    "both table and model": (["prepare", "--table", "a", "--model", "b", "--output", "o"], ["either"]),
    "neither table nor model": (["prepare", "--output", "o"], ["either"]),
    "an unknown table to count": (["footprint", "-e", "small", "--table", "sum"], ["did you mean"]),
    "an unknown model to count": (["footprint", "--model", "lama-7b"], ["lama-7b"]),
    "an unknown method to count": (["footprint", "--model", "llama-7b", "--method", "lroa", "--rank", "4"], ["lora"]),
    "no method to count": (["footprint"], ["footprint", "--model"]),
    "a missing experiment": (["plan", "smal"], ["did you mean 'small'"]),
    "a missing file": (["validate", "no/such.yaml"], ["no/such.yaml: no such file"]),
    "data that were not prepared": (["finetune", "-e", "small", "sums-ladder-xs-lora-r4-s0"], ["sbora-bench prepare"]),
    "no adapter to score": (["evaluate", "-e", "small", "sums-ladder-xs-lora-r4-s0"], ["sbora-bench prepare"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_status_2(workplace, case):  # noqa: F811
    arguments, parts = WRONG[case]
    workplace.experiment()
    message = workplace.refused(*arguments)
    for part in parts:
        assert part in message, message


def test_nothing_asked_shows_the_help(workplace):  # noqa: F811
    status, out, err = workplace.run()
    assert status == 2 and "Usage: sbora-bench" in out + err and "finetune" in out + err


# --- data files -----------------------------------------------------------------------------------------------------

ROWS = [
    {"instruction": f"What is {i} plus 1?", "input": "", "output": str(i + 1), "answer": str(i + 1)} for i in range(9)
]
GOOD = json.dumps(ROWS).encode()


def own_data(place, content: bytes | None, blob: str = git_blob_id(GOOD), rows: int = 9) -> None:
    """A training set in a file below SBORA_DATA_ROOT; `content` None leaves it out."""
    (place.folder / "root").mkdir()
    place.monkeypatch.setenv("SBORA_DATA_ROOT", str(place.folder / "root"))
    if content is not None:
        (place.folder / "root" / "mine.json").write_bytes(content)
    entry = {"kind": "file", "path": "mine.json", "url": "http://127.0.0.1:9/mine.json", "blob": blob, "rows": rows}
    place.catalog(data={"mine": entry})
    place.experiment((("tables", "sums", "train"), "mine"))


PREPARE = ("prepare", "-e", "small", "--table", "sums", "--output", "out/sums")


@pytest.mark.parametrize(
    ("content", "changes", "parts"),
    [
        (None, {}, ["mine.json: no such file", "http://127.0.0.1:9/mine.json"]),
        (GOOD[:-40], {}, ["mine.json: git blob id", git_blob_id(GOOD)]),
        (GOOD.replace(b"plus", b"minus"), {}, ["mine.json: git blob id", git_blob_id(GOOD)]),
        (b"", {}, ["mine.json: git blob id", git_blob_id(GOOD)]),
        (GOOD, {"rows": 10}, ["mine.json: found 9 rows, expected 10"]),
        (b"[{", {"blob": git_blob_id(b"[{")}, ["mine.json, line 1: not JSON"]),
        (b'[{"q": 1}]', {"blob": git_blob_id(b'[{"q": 1}]'), "rows": 1}, ["mine.json: row 0: found q; allowed"]),
    ],
    ids=["missing", "truncated", "another blob id", "empty", "rows", "no JSON", "other keys"],
)
def test_a_data_file_that_is_not_what_the_catalog_says(workplace, content, changes, parts):  # noqa: F811
    own_data(workplace, content, **changes)
    message = workplace.refused(*PREPARE)
    for part in parts:
        assert part in message, message


def test_the_good_data_file_is_taken(workplace):  # noqa: F811
    own_data(workplace, GOOD)
    status, _, err = workplace.run(*PREPARE)
    assert status == 0, err
    assert len((workplace.folder / "out" / "sums" / "train.jsonl").read_text().splitlines()) == 9


# --- results and disk -----------------------------------------------------------------------------------------------


def prepared(place) -> None:
    place.experiment()
    status, _, err = place.run("prepare", "-e", "small", "--table", "sums", "--output", "results/small/data/sums")
    assert status == 0, err


def test_results_of_another_version(workplace):  # noqa: F811
    prepared(workplace)
    path = workplace.folder / "results" / "small" / "data" / "sums" / "contamination.json"
    path.write_text(path.read_text().replace(f'"version": {VERSION}', '"version": 99'))
    message = workplace.refused("evaluate", "-e", "small", "sums-ladder-xs-base")
    assert "results/small/data/sums/contamination.json: version: found 99, allowed 1" in message


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")


def test_no_disk_space_is_one_line_and_nothing_is_left(workplace):  # noqa: F811
    workplace.experiment()
    workplace.monkeypatch.setattr("pathlib.Path.write_text", no_room)
    message = workplace.refused(*PREPARE)
    assert "out/sums/train.jsonl: no space left on the disk" in message and "bytes free" in message
    assert not list((workplace.folder / "out").iterdir())


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk takes root on Linux")
def test_a_disk_that_is_really_full(workplace):  # noqa: F811
    workplace.experiment()
    small = workplace.folder / "disk"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        message = workplace.refused(*PREPARE[:-1], "disk/sums")
        assert "disk/sums/train.jsonl: no space left on the disk" in message and not list(small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True)
    shutil.rmtree(small)


@pytest.mark.parametrize("place", ["experiments/small.yaml", "experiments/small.yaml/below"])
def test_output_where_a_file_is(workplace, place):  # noqa: F811
    workplace.experiment()
    assert place in workplace.refused(*PREPARE[:-1], place)


def test_an_interrupt_is_one_line(workplace):  # noqa: F811
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    workplace.experiment()
    workplace.monkeypatch.setattr("sbora_bench.inputs.prepare.prepare_table", interrupted)
    status, _, err = workplace.run(*PREPARE)
    assert status == 130 and len(err.strip().splitlines()) == 1 and "the same command goes on" in err


def test_a_fault_of_ours_is_no_mistake_of_the_user(workplace):  # noqa: F811
    def broken(*_, **__):
        raise ZeroDivisionError

    workplace.experiment()
    workplace.monkeypatch.setattr("sbora_bench.inputs.prepare.prepare_table", broken)
    with pytest.raises(ZeroDivisionError):
        workplace.run(*PREPARE)


def test_the_command_itself_ends_with_the_status(tmp_path):
    shutil.copytree(ROOT / "experiments" / "catalog", tmp_path / "experiments" / "catalog")
    spoiled = edited(EXPERIMENT, (("tables", "sums", "grids", 0, "ranks"), [0]))
    (tmp_path / "experiments" / "small.yaml").write_text(yaml.safe_dump(spoiled))
    done = subprocess.run(
        [sys.executable, "-m", "sbora_bench.cli", "plan", "small"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1


def test_export_says_what_it_needs(tmp_path):
    arguments = ("export", str(tmp_path), "--to", "lora", "--output", str(tmp_path / "out"))
    done = forked.python("-m", "sbora_bench.cli", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"sbora-bench: {tmp_path}/adapter_config.json: no such file; an adapter is ")
    assert not (tmp_path / "out").exists()


EXPORTED = {"peft_type": "SBORA", "variant": "fa", "r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    ("config", "weights", "expected"),
    [
        ([], b"", "adapter_config.json: peft_type: unknown PEFT method 'None'"),
        (EXPORTED | {"peft_type": "SBORAA"}, b"", "unknown PEFT method 'SBORAA', did you mean 'SBORA'"),
        (EXPORTED, None, "adapter_model.safetensors: no such file"),
        (EXPORTED, b"broken off", "adapter_model.safetensors: not a whole safetensors file"),
        (EXPORTED, safetensors.numpy.save({}), "export: base /nowhere/model can't be read: .*; give its folder, or a"),
    ],
)
def test_export_of_what_cannot_be_read_is_one_line(workplace, config, weights, expected):  # noqa: F811
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text(json.dumps(config))
    if weights is not None:
        Path("adapter/adapter_model.safetensors").write_bytes(weights)
    message = workplace.refused("export", "adapter", "--to", "lora", "--output", "out", "--base", "/nowhere/model")
    assert re.search(expected, message), message
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["small", "qwen2.5"])
def test_an_experiment_by_name_and_by_path_has_one_results_folder(name):
    by_name, by_path = (results_folder(experiment, None) for experiment in (name, f"experiments/{name}.yaml"))
    assert by_name == by_path == Path("results") / name
    assert results_folder(name, Path("elsewhere")) == Path("elsewhere")


NO_EXPERIMENT = {"init", "score", "export", "audit", "protocols", "schema", "publish-traces"}


@pytest.mark.parametrize("name", sorted(cli.commands.keys() - NO_EXPERIMENT - {"cell-footprint", "paper-footprint"}))
def test_every_command_on_an_experiment_takes_it_behind_e(name):
    (option,) = [param for param in cli.commands[name].params if "-e" in param.opts]
    assert "--experiment" in option.opts
    for allowed in ("A name in experiments/", "YAML file"):
        assert allowed.lower() in option.help.lower()


@pytest.mark.parametrize(
    "arguments",
    [["plan"], ["status"], ["compare-published", "--published", "none.yaml"], ["sizes"], ["validate"]],
    ids=lambda arguments: arguments[0],
)
def test_an_experiment_by_option_and_by_argument_is_one(workplace, arguments):  # noqa: F811
    workplace.experiment()
    (workplace.folder / "none.yaml").write_text("[]")
    ways = [["small"], ["experiments/small.yaml"], ["-e", "small"], ["--experiment", "experiments/small.yaml"]]
    outcomes = [workplace.run(*arguments, *way) for way in ways]
    assert outcomes[0] == outcomes[1] == outcomes[2] == outcomes[3]
    if arguments != ["validate"]:  # which takes several
        assert workplace.run(*arguments, "small", "-e", "experiments/small.yaml") == outcomes[0]


def test_validate_takes_files_and_names(workplace):  # noqa: F811
    workplace.experiment()
    assert workplace.run("validate", "small", "-e", "experiments/small.yaml")[1].count("small.yaml: good") == 2


def test_the_command_line_starts_without_what_reads_experiments():
    code = "import sys, sbora_bench.cli.main; print({'pydantic', 'sbora_bench.plan.experiment'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_help_shows_every_command_once_under_a_heading():
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert "Others" not in shown
    for command in cli.commands:
        assert len(re.findall(rf"^  {command} ", shown, flags=re.M)) == 1, command


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_has_an_example_that_it_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("my-adapter/x", "my.jsonl", "results/tiny/tables/x", "docs/protocol.md", "experiments/tiny.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    command = cli.commands[name]
    shown = CliRunner().invoke(cli, [name, "--help"]).output
    example = re.search(r"^ *Example: sbora-bench (.+)$", shown, flags=re.M)
    assert example is not None, shown
    first, *arguments = shlex.split(example[1])
    assert first == name
    assert command.make_context(name, arguments).command is command


def test_the_shell_is_told_how_to_complete():
    environment = os.environ | {"_SBORA_BENCH_COMPLETE": "bash_source"}
    code = "from sbora_bench.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "_sbora_bench_completion" in done.stdout


def test_a_rate_that_is_still_to_be_picked_is_named_by_who_needs_it(workplace):  # noqa: F811
    workplace.experiment((("tables", "sums", "learning_rates"), {"pick": [1e-3, 1e-2], "seeds": [100]}))
    status, out, err = workplace.run("plan", "small", "--json")
    assert status == 0, err
    tried = {
        f"sums-ladder-xs-{method}-r4-lr{rate}-s100" for method in ("lora", "sbora-fa") for rate in ("1e-3", "1e-2")
    }
    assert {settings["run"] for settings in json.loads(out)} == {"sums-ladder-xs-base", *tried}
    status, out, _ = workplace.run("plan", "small")
    assert "sums-ladder-xs-lora-r4-s{0,1}" in out and "4 runs before, -lr{1e-3,1e-2}-s{100}" in out
    assert out.endswith("9 runs in 1 table; results/small/\n")
    for command in ("run", "finetune"):
        refused = workplace.refused(command, "-e", "small", "sums-ladder-xs-lora-r4-s0")
        assert "its learning rate isn't picked yet; pick it with: sbora-bench pick" in refused


def test_runs_beyond_a_grid_are_counted_as_at_most(workplace):  # noqa: F811
    rates = {"pick": [1e-3, 1e-2], "seeds": [100, 101], "extend": 2}
    workplace.experiment((("tables", "sums", "learning_rates"), rates))
    _, out, _ = workplace.run("plan", "small")
    assert "  8 runs before, -lr{1e-3,1e-2}-s{100,101}, to pick each cell's rate\n" in out
    assert "  of a cell that is best at the highest: at most -lr{1e-1,1e0}-s{100,101} too\n" in out
    assert out.endswith("13 runs, at most 21, in 1 table; results/small/\n")  # at one end of a cell's grid, never both
    known = workplace.refused("evaluate", "-e", "small", "sums-ladder-xs-lora-r4-lr1e-1-s100")
    assert "unknown run" not in known and "results/small/data/sums" in known
    line = workplace.refused("extend", "-e", "small", "--table", "sums", "--round", "3")
    assert "found round 3, allowed 1 to 2" in line
    workplace.experiment()
    line = workplace.refused("extend", "-e", "small", "--table", "sums", "--round", "1")
    assert "tables.sums.learning_rates: found round 1, allowed none" in line


@pytest.mark.parametrize("name", ["field", "peft-metamath", "smollm2", "paper-one-gpu", "ladder"])
def test_the_power_of_a_shipped_experiment(name):
    """Of several looks, of many comparisons, of few seeds: none ends in scipy's not-a-number."""
    from sbora_bench.cli.plan import _smallest_differences
    from sbora_bench.plan.load import load_plan

    plan = load_plan(str(ROOT / "experiments" / f"{name}.yaml"))
    lines = _smallest_differences(plan, 0.01, 8)
    assert len(lines) == 2 + sum(len(plan.comparisons(table)) for table in plan.experiment.tables)
    assert "[" in lines[0] and "nan" not in "".join(lines)
    assert lines[-1].startswith("In brackets: the same for a spread of 0.006612 and of 0.02035")


def test_power_belongs_to_a_spread(workplace):  # noqa: F811
    workplace.experiment()
    for arguments, expected in (
        (["--pilot", "8"], "plan: --pilot belongs to --power; say plan --power SD --pilot"),
        (["--power", "0.1", "--json"], "plan: --power prints lines, not JSON; leave out --power or --json"),
        (["--power", "0.1"], "no comparison is planned"),
        (["--cost", "--price", "nan"], "plan: --price: found nan, allowed the price of an hour"),
    ):
        status, out, err = workplace.run("plan", "small", *arguments)
        assert (status, out) == (2, "") and expected in err
