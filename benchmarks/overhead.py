"""How much of a reproduction's processor time is inside the loops of pre-training, training and scoring.

    python benchmarks/overhead.py --experiment tiny              in a fresh folder
    python benchmarks/overhead.py --experiment ladder -- make reproduce    here, whatever the command is

The whole is seen from outside, as the system counts it for the command and all its children; the loops from the lines
that each job leaves in its log. Set-up is counted apart where the command is run here: run it after `make .venv/ready`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from sbora_bench import progress
from sbora_bench.files import write_json

ROOT = Path(__file__).parents[1]
AIM = 0.60


def spent(command: list[str], folder: Path) -> tuple[float, float, int]:
    """Processor seconds of a command and its children, seconds, exit status; its output goes to the screen."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, stdout=sys.stderr)
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, process.returncode


def loops(logs: list[Path], since: datetime) -> tuple[Counter, Counter]:
    """Stage -> processor seconds in its loops that ended after `since`; and of its jobs before their first loop.

    A loop without an end, of a job that was killed, counts for nothing.
    """
    inside, before = Counter(), Counter()
    for log in logs:
        begun: dict[str, float] = {}
        lines = [line for line in progress.read(log) if datetime.fromisoformat(line["time"]) >= since]
        if lines:
            before[lines[0]["stage"]] += lines[0]["cpu"]
        for line in lines:
            if line["event"] == "begin":
                begun[line["run"]] = line["cpu"]
            elif line["event"] == "end" and line["run"] in begun:
                inside[line["stage"]] += line["cpu"] - begun.pop(line["run"])
    return inside, before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="tiny")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/overhead.json"))
    parser.add_argument("command", nargs="*", help="to be run here  [default: snakemake, in a fresh folder]")
    arguments = parser.parse_args()
    since = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as fresh:
        folder, command = Path.cwd(), arguments.command
        if not command:
            folder = Path(fresh)
            for name in ("Snakefile", "environment.yml", "workflow", "experiments", "profiles"):
                source = ROOT / name
                shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy2(source, folder / name)
            command = [sys.executable, "-m", "snakemake", "--cores", "all", "--config"]
            command += [f"experiment={arguments.experiment}"]
        total, seconds, code = spent(command, folder)
        if code:
            sys.exit(f"{' '.join(command)}: exit status {code}")
        results = folder / "results" / arguments.experiment
        logs = [*results.glob("logs/*/*.log"), *folder.glob("resources/logs/*.log")]
        inside, before = loops(logs, since)
    help_seconds, _, _ = spent([sys.executable, "-m", "sbora_bench.cli.main", "--help"], ROOT)
    share = sum(inside.values()) / total
    record = {
        "experiment": arguments.experiment,
        "command": " ".join(arguments.command) or "snakemake in a fresh folder",
        "cpu_seconds": round(total, 1),
        "seconds": round(seconds, 1),
        "loops_cpu_seconds": {stage: round(value, 1) for stage, value in inside.items()},
        "before_loops_cpu_seconds": {stage: round(value, 1) for stage, value in before.items()},
        "share_in_loops": round(share, 3),
        "help_cpu_seconds": round(help_seconds, 2),
    }
    write_json(arguments.output, record)
    print(
        f"{record['experiment']}: {total:.0f} s of processor time, {share:.0%} of it in loops (aim {AIM:.0%} or more)"
    )
    for stage, value in inside.most_common():
        print(f"  {stage}: {value:.1f} s in its loop, {before[stage]:.1f} s before the first (imports, loading)")
    print(f"  all else: {total - sum(inside.values()) - sum(before.values()):.1f} s")
    print(f"sbora-bench --help: {help_seconds:.2f} s of processor time")


if __name__ == "__main__":
    main()
