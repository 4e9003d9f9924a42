"""A part of `tiny` through the real DAG: results of its own, the whole's untouched, the same adapter."""

import csv
import shutil

from sbora_bench.files import read_json, sha256

PART = ("experiment=tiny", "only=table=arithmetic,method=sbora-fa", "seeds=1", "limit=2")
NAME = "tiny_table-arithmetic_method-sbora-fa_seed-1_limit-2"
RUN = "arithmetic-ladder-xs-sbora-fa-r4-s1"


def test_a_part_runs_into_a_folder_of_its_own(reproduction):
    whole, part = (reproduction.folder / "results" / name for name in ("tiny", NAME))
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    try:
        done = reproduction.snakemake("--config", *PART)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert f"Tables: results/{NAME}/tables/" in done.stdout + done.stderr
        assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before
        assert sorted(path.name for path in (part / "runs").iterdir()) == ["arithmetic-ladder-xs-base", RUN]
        adapters = [folder / "runs" / RUN / "adapter" / "adapter_model.safetensors" for folder in (whole, part)]
        assert sha256(adapters[0]) == sha256(adapters[1])
        scores = read_json(part / "runs" / RUN / "scores.json")
        assert scores["experiment"] == NAME and {task["n"] for task in scores["tasks"].values()} == {2}
        assert {row["seed"] for row in csv.DictReader((part / "scores.csv").open())} == {"", "1"}
        assert "method=sbora-fa" in (part / "report.html").read_text(encoding="utf-8")
        assert "SBoRA-FA" in (part / "tables" / "arithmetic.md").read_text(encoding="utf-8")
        again = reproduction.snakemake("--config", *PART)
        assert "Nothing to be done" in again.stdout + again.stderr
    finally:
        shutil.rmtree(part, ignore_errors=True)
