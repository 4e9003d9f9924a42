"""What the Snakefile is given: requests checked, jobs, the files of a run and of an experiment, report entries."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import settings_hash, training_hash
from sbora_bench.report.snakemake_report import report_entries
from sbora_bench.results.folders import look_file, round_file
from sbora_bench.results.records import write_record
from sbora_bench.results.stages import LookRecord, RoundRecord, looks_hash, rates_hash
from sbora_bench.workflow import keys, request
from sbora_bench.workflow.decided import required_files, scores_of_rates, scores_of_seeds
from sbora_bench.workflow.files import CARD, Files
from sbora_bench.workflow.jobs import PICKING, jobs, priority, tokens_of_a_run, tuned
from tests.factories.shipped import ROOT
from tests.factories.workplace import EXPERIMENT, GRID, TABLE, workplace  # noqa: F401


@pytest.fixture
def small(workplace):  # noqa: F811
    """Files of a small experiment: one table of sums, two methods, two seeds, one base."""
    return Files(load_plan(workplace.experiment()))


def test_a_request_names_the_part_and_its_options(workplace):  # noqa: F811
    path = workplace.experiment()
    whole = request.requested({"experiment": path})
    assert whole.words == ["--experiment", path] and not whole.retry_failed
    part = request.requested({"experiment": path, "only": "method=lora", "seeds": 0, "retry_failed": "True"})
    assert part.words == ["--experiment", path, "--only", "method=lora,seed=0"] and part.retry_failed
    assert {run.method for run in part.plan.runs} == {"base", "lora"} and part.plan.name != whole.plan.name


@pytest.mark.parametrize(
    ("config", "in_storage", "says"),
    [
        ({"experimen": "tiny"}, False, "--config: unknown key 'experimen'"),
        ({"retry_failed": "maybe"}, False, "--config: retry_failed: found 'maybe', allowed true or false"),
        ({"retry_failed": True}, True, "--config: retry_failed: failed runs in a storage are not looked for"),
        ({"experiment": "nothing-of-this-name"}, False, "nothing-of-this-name"),
    ],
)
def test_a_request_that_cannot_be_is_refused(workplace, config, in_storage, says):  # noqa: F811
    path = workplace.experiment()
    before = workplace.files()
    with pytest.raises(UserError) as refused:
        request.requested({"experiment": path, **config}, in_storage)
    assert says in str(refused.value) and workplace.files() == before


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            (GRID, {"models": ["ladder-xs"], "methods": ["lora"], "ranks": [65]}),
            "small.yaml: tables.sums.grids.0.ranks",
        ),
        (((*TABLE, "seed"), [0]), "small.yaml: tables.sums.seed: unknown key"),
        (((*TABLE, "limit"), {"svamp": 1}), "small.yaml: tables.sums.limit: unknown task"),
        ((("tables",), {"../up": EXPERIMENT["tables"]["sums"]}), "small.yaml: tables.../up"),
        ((("tables",), {"separation": EXPERIMENT["tables"]["sums"]}), "tables.separation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_spoiled_experiment_is_refused_in_one_line(workplace, edit, says):  # noqa: F811
    path = workplace.experiment(edit)
    before = workplace.files()
    with pytest.raises(UserError) as refused:
        request.requested({"experiment": path})
    assert says in str(refused.value) and "\n" not in str(refused.value) and workplace.files() == before


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"only": "methd=lora"}, "unknown key 'methd', did you mean 'method'"),
        ({"only": "table=mmlu,method=lora"}, "no run is left with table=mmlu, method=lora"),
        ({"seeds": 7}, "unknown seed '7'"),
    ],
)
def test_a_part_that_is_not_there_is_refused_in_one_line(workplace, setting, says):  # noqa: F811
    shutil.copy(ROOT / "experiments" / "tiny.yaml", workplace.folder / "experiments")
    before = workplace.files()
    with pytest.raises(UserError) as refused:
        request.requested({"experiment": "tiny", **setting})
    assert says in str(refused.value) and "\n" not in str(refused.value) and workplace.files() == before


def test_a_dry_run_does_not_look_whether_results_can_be_written(workplace, monkeypatch):  # noqa: F811
    path, looked = workplace.experiment(), []
    monkeypatch.setattr(request, "check_writable", looked.append)
    request.requested({"experiment": path}, dry=True)
    assert looked == []
    request.requested({"experiment": path})
    assert looked == ["results/small"]


def test_jobs_hold_every_run_once_and_bases_are_not_trained(workplace):  # noqa: F811
    plan = load_plan(workplace.experiment((("runs_per_job",), 2)))
    carried = list(jobs(plan, "sums"))
    assert [len(job) for job in carried] == [2, 2, 1]
    assert sorted(run.name for job in carried for run in job) == sorted(run.name for run in plan.runs)
    files = Files(plan)
    left = [path for job in carried for path in files.made(job)]
    assert sorted(left) == sorted([*files.trained(plan.runs), *files.scored(plan.runs)])
    base = plan.runs[0]
    assert base.is_base and files.made([base]) == files.scored([base])


def test_jobs_do_not_mix_models(workplace):  # noqa: F811
    grids = [{"models": ["ladder-xs", "ladder-s"], "methods": ["lora"], "ranks": [4]}]
    plan = load_plan(workplace.experiment((("tables", "sums", "grids"), grids), (("runs_per_job",), 9)))
    assert [{run.model for run in job} for job in jobs(plan, "sums")] == [{"ladder-xs"}, {"ladder-s"}]


def test_every_file_is_named_once_and_a_base_has_no_adapter(small):
    assert len(small.all) == len(set(small.all)) and {path.partition("/")[0] for path in small.all} == {"results"}
    base = next(run for run in small.plan.runs if run.is_base)
    assert base.is_base and small.trained([base]) == []
    of_base = [path for path in small.runs if f"/{base.name}/" in path]
    assert {path.rpartition(f"{base.name}/")[2] for path in of_base} == {
        "scores.json",
        "footprint.json",
        *(f"samples/{task}.jsonl" for task in small.plan.scored("sums")),
    }
    assert len(small.cards) == len(small.train_records) == len(tuned(small.plan.runs))
    assert set(small.records) == {path for path in small.runs if path.endswith(".json") and "/adapter/" not in path}


def test_a_table_that_picks_its_rate_is_scored_on_held_out_rows_too(workplace):  # noqa: F811
    plain = Files(load_plan(workplace.experiment()))
    picking = Files(load_plan(workplace.experiment((("tables", "sums", "learning_rates"), [1e-3, 1e-2]))))
    assert not [path for path in plain.all if "/validation/" in path]
    held_out = [path for path in picking.scored(picking.plan.runs[:1]) if "/validation/" in path]
    assert held_out[0].endswith("/validation/scores.json")
    assert len(held_out) == 1 + len(picking.plan.tasks("sums"))
    assert set(held_out) <= {*picking.score_records, *picking.samples}


def test_what_is_counted_at_the_papers_scale_is_left_out_where_it_is_not_wanted(workplace):  # noqa: F811
    without = Files(load_plan(workplace.experiment()))
    counted = Files(load_plan(workplace.experiment((("paper_footprint",), True))))
    assert set(map(tuple, without.paper.values())) == {()}
    assert counted.paper["audit"] == ["results/small/paper_audit.json"] and set(counted.paper["memory"]) < set(
        counted.all
    )


def test_keys_follow_settings_and_code(small, monkeypatch):
    before = small.data_settings(SimpleNamespace(table="sums"))
    assert "ladder-math" in before and "ladder-xs" not in before
    assert '"kind":"pretrain"' in small.model_settings(SimpleNamespace(model="ladder-xs"))
    assert len(small.cell_settings("sums")) == 2
    assert keys.code("train.finetune") != keys.code("score.evaluate")
    both = keys.code("report.audit", "cost.footprint")
    monkeypatch.setattr(keys.code_hash, "code_hash", lambda module, without: f"edited {module}")
    assert keys.code("report.audit", "cost.footprint") != both


def test_models_are_pretrained_or_fetched(small):
    pretrained, fetched = (set(small.models(value).split("|")) for value in (True, False))
    assert "ladder-xs" in pretrained and "llama-7b" in fetched
    assert pretrained | fetched == set(small.plan.catalog.models) and not pretrained & fetched


@pytest.mark.parametrize(
    ("name", "begins", "category", "labels"),
    [
        ("tables/sums.html", "Score, mean ± standard deviation", "Tables", {"kind": "score", "of": "sums"}),
        ("figures/score-sums.svg", "", "Figures", {"kind": "score", "of": "sums"}),
        ("report.html", "Everything on one page", "Page", {"kind": "page", "of": "report"}),
        ("audit.html", "The averages of these tables", "Audit", {"kind": "audit", "of": "audit"}),
    ],
)
def test_tables_figures_and_pages_stand_in_snakemakes_report(small, tmp_path, name, begins, category, labels):
    entry = report_entries(small.plan, small.root)[f"{small.root}/{name}"]
    assert entry.caption.startswith(begins) and (entry.category, entry.labels) == (category, labels)
    assert Path(entry.write(tmp_path)).read_text() == entry.caption + "\n"


def test_other_files_do_not(small):
    names = set(report_entries(small.plan, small.root))
    assert names == {name for name in [*small.tables, *small.figures, *small.audit, small.page] if name in names}
    assert not any(name.endswith((".csv", ".png", ".json", ".md")) for name in names)


def test_names_of_rules():
    assert keys.rule_name("run", "mmlu-ladder.x", 0) == "run_mmlu_ladder_x_0"


def test_changing_any_input_changes_exactly_the_keys_of_what_depends_on_it(workplace):  # noqa: F811
    """The keys are Snakemake's parameters: a job runs again where one of its own is another."""
    rows = '{"instruction": "1 + 1?", "output": "2"}\n'
    template = "output_type: generate_until\ndoc_to_text: prompt\ndoc_to_target: answer\n"
    inputs = {name: Path(name) for name in ("train.jsonl", "items.jsonl", "template.yaml", "model/config.json")}
    inputs["model/config.json"].parent.mkdir()
    inputs["train.jsonl"].write_text(rows)
    inputs["items.jsonl"].write_text(rows)
    inputs["template.yaml"].write_text(template)
    inputs["model/config.json"].write_text('{"n_positions": 1024}')
    workplace.catalog(
        models={"own": {"title": "Own", "source": {"kind": "folder", "path": "model"}}},
        data={"own": {"path": "train.jsonl"}, "items": {"path": "items.jsonl"}},
        tasks={"own": {"title": "T", "template": "template.yaml", "answer": {}, "items": {"ladder": "items"}}},
        suites={"own": {"title": "Own", "tasks": ["own"]}},
    )
    grid = [{"models": ["own"], "methods": ["lora"], "ranks": [4]}]
    table = ["tables", "sums"]
    path = workplace.experiment(([*table, "suite"], "own"), ([*table, "train"], "own"), ([*table, "grids"], grid))

    def keys() -> dict[str, object]:
        load_catalog.cache_clear()
        files = Files(load_plan(path))
        run = files.plan.runs[-1]
        return {
            "prepare_table": files.data_settings(SimpleNamespace(table="sums")),
            "prepare_model": files.model_settings(SimpleNamespace(model="own")),
            "finetune": training_hash(files.plan, run),
            "evaluate": settings_hash(files.plan, run),
            "footprint": files.cell_settings("sums"),
        }

    before = keys()
    for name, changed in (
        ("train.jsonl", {"prepare_table"}),  # whose folder training and scoring have as an input
        ("items.jsonl", {"prepare_table"}),
        ("template.yaml", {"evaluate"}),
        ("model/config.json", {"prepare_model"}),  # likewise
    ):
        content, stamp = inputs[name].read_bytes(), inputs[name].stat().st_mtime_ns
        inputs[name].write_bytes(content.replace(b"1", b"2") if b"1" in content else content + b"# more\n")
        os.utime(inputs[name], ns=(stamp, stamp))
        after = keys()
        assert {key for key in before if before[key] != after[key]} == changed, name
        inputs[name].write_bytes(content)
        assert keys() == before


LOOKS = (
    (("tables", "sums", "seeds"), {"looks": [4, 6], "from": 0}),
    (("tables", "sums", "learning_rates"), {"pick": [1e-3, 1e-2], "seeds": [100]}),
    (("tables", "sums", "comparisons"), [{"a": "sbora-fa-r4", "b": "lora-r4", "equal": "rank", "margin": 0.02}]),
    (("runs_per_job",), 3),
)


def test_a_job_has_only_runs_that_are_needed_together(workplace):  # noqa: F811
    plan = load_plan(workplace.experiment(*LOOKS))
    carried = list(jobs(plan, "sums"))
    assert sorted(run.name for job in carried for run in job) == sorted(run.name for run in plan.all_runs)
    seeds = [tuple(run.seed for run in job) for job in carried]
    first, last, picking = seeds[:3], seeds[3:5], seeds[5:]
    assert first == [(None, 0, 1), (2, 3, 0), (1, 2, 3)]  # all are needed: the base and the cells share them
    assert last == [(4, 5), (4, 5)] and all(len({run.cell for run in job}) == 1 for job in carried[3:5])
    assert picking == [(100, 100), (100, 100)]  # not three and one: two cores end at once
    priorities = [priority(plan, job, tokens_of_a_run(plan, "sums")) for job in carried]
    assert min(priorities[5:]) > PICKING > max(priorities[:5])  # the others wait for these
    without = load_plan(workplace.experiment(LOOKS[0], *LOOKS[2:]))
    assert [[run.name for run in job] for job in jobs(without, "sums")] == [
        [run.name for run in job] for job in carried[:5]
    ]


def test_the_job_of_the_most_tokens_goes_first():
    plan = load_plan("ladder")
    by_table = {
        table: [job for job in jobs(plan, table) if job[0].seed == 40 or job[0].is_base]
        for table in plan.experiment.tables
    }
    longest = {table: priority(plan, of_table[0], tokens_of_a_run(plan, table)) for table, of_table in by_table.items()}
    assert longest["mmlu"] > longest["commonsense"] > longest["arithmetic"]  # rows of 45, 24 and 31 tokens, padded


def test_a_picked_rate_is_an_input_of_the_runs_that_are_trained_at_it(workplace):  # noqa: F811
    files = Files(load_plan(workplace.experiment(*LOOKS)))
    plan = files.plan
    of_seeds = [run for run in plan.runs if not run.is_base]
    assert {run.name.rpartition("r4")[2] for run in of_seeds} == {f"-s{seed}" for seed in range(6)}
    assert files.rates_of(of_seeds) == ["results/small/rates/sums.json"]
    assert files.rates_of(plan.picking_runs("sums")) == [] == files.rates_of([plan.runs[0]])
    of_run = files.settings(of_seeds[:1])
    assert len(of_run) == len(set(of_run)) == 2  # it may be trained at either rate


class Waiting(Exception):
    """In the place of Snakemake's, of a checkpoint that has not run."""


def checkpoints(there: set[str]):
    def get(**wildcards) -> None:
        name = "-".join(map(str, wildcards.values()))
        if name not in there:
            raise Waiting(name)

    return SimpleNamespace(extend=SimpleNamespace(get=get), look=SimpleNamespace(get=get))


def test_what_is_needed_waits_for_what_decides_it(workplace):  # noqa: F811
    fixed = Files(load_plan(workplace.experiment()))
    assert required_files(fixed, None, "records") == fixed.records
    staged = Files(load_plan(workplace.experiment(*LOOKS)))
    (records,) = required_files(staged, checkpoints(set()), "records")
    with pytest.raises(Waiting, match="^sums-1$"):
        records(SimpleNamespace())
    first = scores_of_seeds(staged, checkpoints(set()))(SimpleNamespace(table="sums", look="1"))
    assert (
        "results/small/rates/sums.json" in first and "results/small/runs/sums-ladder-xs-lora-r4-s3/scores.json" in first
    )
    beside = Files(load_plan(workplace.experiment(*LOOKS, (("tables", "more"), EXPERIMENT["tables"]["sums"]))))
    of_fixed = required_files(beside, checkpoints(set()), "runs")[1](SimpleNamespace())
    assert "results/small/every-card" in of_fixed and not [path for path in of_fixed if path.endswith(CARD)]
    picking = Files(load_plan(workplace.experiment(LOOKS[1])))
    assert required_files(picking, None, "records") == picking.records  # which runs are made is known
    assert "results/small/rates/sums.json" in picking.records
    assert len(staged.picking("sums")) == 2 * 2
    assert staged.footprints("sums") == [f"results/small/footprints/{c.name}.json" for c in staged.plan.cells("sums")]
    assert (
        staged.depth(staged.scored(staged.plan.picking_runs("sums")))
        == 4
        == staged.depth(fixed.scored(fixed.plan.runs)) + 1
    )


def test_looks_follow_the_records_of_those_before(workplace):  # noqa: F811
    files = Files(load_plan(workplace.experiment(LOOKS[0], *LOOKS[2:])))
    plan = files.plan
    look = scores_of_seeds(files, checkpoints({"sums-1"}))

    def seeds(paths: list[str]) -> set[str]:
        return {path.split("/")[3].rpartition("-")[2] for path in paths if "base" not in path}

    assert seeds(look(SimpleNamespace(table="sums", look="1"))) == {"s0", "s1", "s2", "s3"}
    cells = [cell.name for cell in plan.tuned_cells("sums")]
    record = LookRecord(
        experiment="small", table="sums", look=1, looks=[4, 6], alpha=0.05, settings_sha256=looks_hash(plan, "sums"),
        comparisons=[], more=cells[:1],
    )  # fmt: skip
    write_record(look_file(files.root, "sums", 1), record)
    more = look(SimpleNamespace(table="sums", look="2"))
    assert seeds([path for path in more if cells[0] in path]) == {"s0", "s1", "s2", "s3", "s4", "s5"}
    assert seeds([path for path in more if cells[1] in path]) == {"s0", "s1", "s2", "s3"}
    (records,) = required_files(files, checkpoints({"sums-1"}), "score_records")
    with pytest.raises(Waiting, match="^sums-2$"):
        records(SimpleNamespace())
    write_record(look_file(files.root, "sums", 1), record.model_copy(update={"more": []}))
    assert seeds(records(SimpleNamespace())) == {"s0", "s1", "s2", "s3"}


EXTENDED = (("tables", "sums", "learning_rates"), {"pick": [1e-3, 1e-2], "seeds": [100, 101], "extend": 2})


def test_a_rate_beyond_the_grid_is_a_job_of_its_own(workplace):  # noqa: F811
    plan, within = (
        load_plan(workplace.experiment(edit, (("runs_per_job",), 4)))
        for edit in (EXTENDED, (EXTENDED[0], EXTENDED[1] | {"extend": 0}))
    )
    carried = list(jobs(plan, "sums"))
    assert sorted(run.name for job in carried for run in job) == sorted(run.name for run in plan.all_runs)
    further = [job for job in carried if job[0].learning_rate in (1e-4, 1e-5, 0.1, 1.0)]
    assert len(further) == 2 * 4 and {len({(run.cell, run.learning_rate) for run in job}) for job in further} == {1}
    assert [job for job in carried if job not in further] == list(jobs(within, "sums"))
    (first, *_) = (run for run in plan.runs if not run.is_base)
    assert len(set(Files(plan).settings([first]))) == 2 + 2 * 2  # it may be trained at any


def test_rounds_follow_the_records_of_those_before(workplace):  # noqa: F811
    files = Files(load_plan(workplace.experiment(EXTENDED)))
    plan, table = files.plan, {"table": "sums"}
    cells = [cell.name for cell in plan.tuned_cells("sums")]

    def tried(there: set[str], **wildcards) -> set[str]:
        """What is read, without the folders' common part."""
        paths = scores_of_rates(files, checkpoints(there))(SimpleNamespace(**table, **wildcards))
        return {path.removeprefix("results/small/").removesuffix("/validation/scores.json") for path in paths}

    def asks(number: int, more: dict[str, float]) -> None:
        record = RoundRecord(
            experiment="small", table="sums", round=number, settings_sha256=rates_hash(plan, "sums"), more=more
        )
        write_record(round_file(files.root, "sums", number), record)

    def runs(cell: str, *rates: str) -> set[str]:
        return {f"runs/{cell}-lr{rate}-s{seed}" for rate in rates for seed in (100, 101)}

    grid = {name for cell in cells for name in runs(cell, "1e-3", "1e-2")}
    assert tried(set(), round="1") == grid
    for wait in (lambda: tried(set(), round="2"), lambda: tried(set())):
        with pytest.raises(Waiting, match="^sums-1$"):
            wait()
    asks(1, {cells[0]: 0.1})
    further = grid | runs(cells[0], "1e-1") | {"rounds/sums-1.json"}
    assert tried({"sums-1"}, round="2") == further
    with pytest.raises(Waiting, match="^sums-2$"):
        tried({"sums-1"})
    asks(2, {})
    assert tried({"sums-1", "sums-2"}) == further | {"rounds/sums-2.json"}
    asks(1, {})
    assert tried({"sums-1"}) == grid | {"rounds/sums-1.json"}, "a round after one that asks for nothing is not read"
    (records,) = required_files(files, checkpoints({"sums-1"}), "score_records")
    read = {path.split("/")[3] for path in records(SimpleNamespace()) if "-lr" in path}
    assert read == {name.removeprefix("runs/") for name in grid}
    with pytest.raises(Waiting):
        required_files(files, checkpoints(set()), "score_records")[0](SimpleNamespace())
    assert files.extending_tables == "sums" and files.cards == ["results/small/every-card"]
    assert files.footprints("sums") == [f"results/small/footprints/{cell.name}.json" for cell in plan.cells("sums")]


@pytest.mark.parametrize("edits", [LOOKS, [EXTENDED]])
def test_results_in_a_storage_cannot_be_looked_at(workplace, edits):  # noqa: F811
    path = workplace.experiment(*edits)
    with pytest.raises(UserError, match="results in a storage are not"):
        request.requested({"experiment": path}, in_storage=True, dry=True, data=False)
