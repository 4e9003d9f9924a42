"""Recompute what can be recomputed of the reported numbers and claims: `sbora-bench audit [--json]`.

Every average from its cells, every parameter count from the true architecture, the rank behind the 4-bit counts, who
leads at equal rank, the gains claimed in words. No expected value stands here: what is claimed is data
(`paper/reported.csv`, `paper/claims.yaml`), what is true is computed.
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_text
from sbora_bench.report.render import PrintedTable, Text, write_table
from sbora_bench.results.paper.reported import SUITE_OF, UNSTATED_RANK, Reported, claims

AVERAGES = ("Average", "Mean")
SLACK = 1e-9
DIGITS = 9  # kept of a sum: one that ends in 5 would be printed by its last bit, and Python 3.12 adds up otherwise
Line = tuple[str, str, str, int | None]  # table, model, method, rank
Count = Callable[[str, str, str, int], int]  # (table, model, method, rank) -> trained parameters


class Agreement(StrEnum):
    """Of a claim with what was recomputed, worst first."""

    DISAGREES = "disagrees"
    HALVED = "halved"  # the printed count is half of the true one
    OPEN = "open"  # can't be checked
    ROUNDING = "rounding"  # only rounding can excuse it
    AGREES = "agrees"


NOT_AGREEING = tuple(Agreement)[:-1]


@dataclass(frozen=True)
class Finding:
    """One claim, what came out, how, and whether it agrees."""

    about: str
    claim: str
    recomputed: str
    how: str
    verdict: Agreement


def audit(rows: Sequence[Reported], count: Count, memory: Callable[[dict], float] | None) -> list[Finding]:
    """All findings. `count` gives true parameter counts; `memory` the ratio of a memory claim, None: not traced."""
    groups: list[Iterable[Finding]] = [averages(rows), parameters(rows, count), ranks(rows, count)]
    groups += [claim_findings(claim, rows, count, memory) for claim in claims()]
    return list(itertools.chain.from_iterable(groups))


def half_unit(text: str) -> float:
    """Half of the last printed decimal: how far rounding can take a number."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def printed_lines(rows: Sequence[Reported]) -> dict[Line, list[Reported]]:
    """The rows of each printed line, by (table, model, method, rank)."""
    lines: dict[Line, list[Reported]] = {}
    for row in rows:
        lines.setdefault((row.table, row.model, row.method, row.rank), []).append(row)
    return lines


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), DIGITS)


def averages(rows: Sequence[Reported]) -> Iterable[Finding]:
    """Each printed average against the mean of its line. A table has one precision, trailing zeros or not."""
    unit: dict[str, float] = {}
    for row in rows:
        unit[row.table] = min(unit.get(row.table, 1.0), half_unit(row.printed))
    for line in printed_lines(rows).values():
        parts = [row for row in line if row.metric not in AVERAGES]
        for row in (row for row in line if row.metric in AVERAGES):
            mean = _mean([part.value for part in parts])
            off = abs(row.value - mean)
            half = unit[row.table]
            verdict = (
                Agreement.AGREES
                if off <= half + SLACK
                else Agreement.ROUNDING
                if off <= 2 * half + SLACK
                else Agreement.DISAGREES
            )
            how = f"mean of the {len(parts)} printed cells"
            yield Finding(f"{row.name}: {row.metric}", row.printed, f"{mean:.4f}".rstrip("0").rstrip("."), how, verdict)


def parameters(rows: Sequence[Reported], count: Count) -> Iterable[Finding]:
    """Each printed number of trained parameters against the count, and against half of it."""
    lines = printed_lines(rows)
    true = {}
    for key, line in lines.items():
        if key[0] in SUITE_OF and line[0].millions:
            true[key] = count(*key[:3], key[3] or UNSTATED_RANK)
    for key, counted in true.items():
        row = lines[key][0]
        slack = half_unit(row.millions) + SLACK
        fits = {divisor: abs(counted / divisor / 1e6 - float(row.millions)) <= slack for divisor in (1, 2)}
        verdict = Agreement.AGREES if fits[1] else Agreement.HALVED if fits[2] else Agreement.DISAGREES
        how = "built on the true architecture"
        others = [other for other, n in true.items() if abs(n / 1e6 - float(row.millions)) <= slack]
        if verdict == Agreement.DISAGREES and others:
            how += f"; the printed count is that of {' '.join(map(str, others[0]))}"
        if verdict == Agreement.HALVED:
            how += f" at r={key[3] or UNSTATED_RANK}; the printed count is half of it"
        yield Finding(f"{row.name}: parameters", f"{row.millions}M", f"{counted:,}", how, verdict)


def ranks(rows: Sequence[Reported], count: Count) -> Iterable[Finding]:
    """Which rank, and which divisor of the count, fits the lines that are printed without one."""
    stated = sorted({row.rank for row in rows if row.rank is not None})
    unstated = {key: line[0] for key, line in printed_lines(rows).items() if key[3] is None and line[0].millions}
    if not unstated:
        return
    lines_fitted = {}
    for rank, divisor in itertools.product(stated, (1, 2)):
        lines_fitted[rank, divisor] = sum(
            abs(count(*key[:3], rank) / divisor / 1e6 - float(row.millions)) <= half_unit(row.millions) + SLACK
            for key, row in unstated.items()
        )
    (rank, divisor), most = max(lines_fitted.items(), key=lambda item: item[1])
    counts = ", ".join(f"r={r}{' halved' if d == 2 else ''}: {n}" for (r, d), n in lines_fitted.items())
    how = f"of {len(unstated)} printed counts fit {counts}"
    result = f"r={rank}{', counts halved' if divisor == 2 else ''}"
    verdict = Agreement.OPEN if most < len(unstated) else Agreement.HALVED if divisor == 2 else Agreement.AGREES
    yield Finding("rank of the 4-bit table", "not stated", result, how, verdict)


def claim_findings(
    claim: dict[str, Any], rows: Sequence[Reported], count: Count, memory: Callable[[dict], float] | None
) -> Iterable[Finding]:
    """Findings about one claim in words."""
    if claim["kind"] == "open":
        return [Finding(claim["id"], claim["text"], "–", claim["why"], Agreement.OPEN)]
    if claim["kind"] == "memory":
        if memory is None:
            return [Finding(claim["id"], claim["text"], "–", "not traced", Agreement.OPEN)]
        ratio = memory(claim)
        verdict = Agreement.AGREES if ratio <= claim["claimed"] else Agreement.DISAGREES
        how = "peak of a training step, traced, as a part of the other's"
        return [Finding(claim["id"], claim["text"], f"{ratio:.3f}", how, verdict)]
    return {"gain": gain, "ratio": ratios, "leads": leads}[claim["kind"]](claim, rows, count)


def line_value(rows: Sequence[Reported], key: Line, metric: str) -> float:
    """A line's number in `metric`; an average is recomputed."""
    line = printed_lines(rows).get(key, [])
    parts = [row for row in line if (row.metric not in AVERAGES if metric in AVERAGES else row.metric == metric)]
    return _mean([part.value for part in parts])


def gain(claim: dict[str, Any], rows: Sequence[Reported], count: Count) -> Iterable[Finding]:
    """The pair of lines whose difference is nearest to a claimed gain; and, if it isn't it, a pair that gives it."""
    lines = [k for k in printed_lines(rows) if k[0] == claim["table"] and claim.get("model", k[1]) == k[1]]
    pairs = [
        (round(line_value(rows, of, claim["metric"]) - line_value(rows, over, claim["metric"]), DIGITS), of, over)
        for of, over in itertools.product(lines, lines)
        if of[2] == claim["of"] and over[2] != of[2] and of[1] == over[1]
    ]

    def pair_text(pair: tuple[float, Line, Line]) -> str:
        points, of, over = pair
        ranks_ = ["" if key[3] is None else f" r={key[3]}" for key in (of, over)]
        return f"{points:+.2f} ({of[1]}, {of[2]}{ranks_[0]} over {over[2]}{ranks_[1]})"

    over_pairs = [pair for pair in pairs if pair[2][2] == claim["over"]]
    nearest = min(over_pairs, key=lambda pair: abs(pair[0] - claim["claimed"]))
    off = abs(nearest[0] - claim["claimed"])
    verdict = Agreement.AGREES if off <= 0.05 + SLACK else Agreement.DISAGREES
    how = f"{len(over_pairs)} pairs of printed lines"
    elsewhere = min(pairs, key=lambda pair: abs(pair[0] - claim["claimed"]))
    if verdict == Agreement.DISAGREES and abs(elsewhere[0] - claim["claimed"]) <= 0.05 + SLACK:
        how += f"; what gives it: {pair_text(elsewhere)}"
    yield Finding(claim["id"], claim["text"], pair_text(nearest), how, verdict)


def ratios(claim: dict[str, Any], rows: Sequence[Reported], count: Count) -> Iterable[Finding]:
    """The ratio of trained parameters in every model where both methods stand."""
    lines = printed_lines(rows)
    both = [{key[:2] for key in lines if key[2] == claim[side]} for side in ("of", "over")]
    models = {model: table for table, model in sorted(both[0] & both[1])}
    rank = UNSTATED_RANK // max(claim["ranks"])
    by_model = {
        model: count(table, model, claim["of"], rank * claim["ranks"][0])
        / count(table, model, claim["over"], rank * claim["ranks"][1])
        for model, table in models.items()
    }
    for model, ratio in by_model.items():
        verdict = Agreement.AGREES if abs(ratio - claim["claimed"]) <= claim["within"] + SLACK else Agreement.DISAGREES
        yield Finding(f"{claim['id']}: {model}", claim["text"], f"{ratio:.3f}", "ratio of counts", verdict)


def leads(claim: dict[str, Any], rows: Sequence[Reported], count: Count) -> Iterable[Finding]:
    """Equal-rank comparisons of the averages, recomputed from the cells; who is best of the group, too."""
    lines = printed_lines(rows)
    for key in lines:
        other = (key[0], key[1], claim["over"], key[3])
        if key[2] != claim["of"] or other not in lines or not any(r.metric in AVERAGES for r in lines[key]):
            continue
        group = {
            k[2]: line_value(rows, k, AVERAGES[0]) for k in lines if (k[0], k[1], k[3]) == (key[0], key[1], key[3])
        }
        ahead = round(group[claim["of"]] - group[claim["over"]], DIGITS)
        best = max(group, key=group.__getitem__)
        how = f"averages recomputed; best of the group: {best} {group[best]:.2f}"
        verdict = Agreement.AGREES if ahead > 0 else Agreement.DISAGREES
        yield Finding(f"{claim['id']}: {lines[key][0].name}", claim["text"], f"{ahead:+.2f}", how, verdict)


def own_tables(folder: Path) -> Iterable[Finding]:
    """Our own printed averages (`tables/*.csv`) against the mean of their cells, where all seeds have all of them."""
    for path in sorted(Path(folder).glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        titles = [name.removesuffix(" seeds") for name in (lines[0] if lines else {}) if name.endswith(" seeds")]
        tasks = [title for title in titles if title not in AVERAGES]
        if len(tasks) == len(titles):
            continue
        for line in lines:
            about_ = f"{path.name}: {' '.join(line[k] for k in ('model', 'method', 'rank') if line.get(k))}"
            scored = [task for task in tasks if line[task]]
            if not line["Average"] or len({line[f"{task} seeds"] for task in [*scored, "Average"]}) != 1:
                continue
            mean = _mean([float(line[task]) for task in scored])
            slack = half_unit(line["Average"]) + max(half_unit(line[task]) for task in scored)
            verdict = Agreement.AGREES if abs(mean - float(line["Average"])) <= slack + SLACK else Agreement.DISAGREES
            yield Finding(about_, line["Average"], f"{mean:.6f}", f"mean of {len(scored)} columns", verdict)


def as_json(findings: list[Finding]) -> str:
    """All findings as a list of objects, as `read_findings` takes them."""
    return json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False)


def as_text(findings: list[Finding]) -> str:
    """What doesn't agree, worst first, and how many do."""
    lines = []
    for verdict in NOT_AGREEING:
        chosen = [finding for finding in findings if finding.verdict == verdict]
        if chosen:
            lines.append(f"{verdict} ({len(chosen)})")
        lines += [f"  {f.about}: claimed {f.claim}; found {f.recomputed}; {f.how}" for f in chosen]
    agreeing = sum(finding.verdict == Agreement.AGREES for finding in findings)
    return "\n".join([*lines, f"agrees: {agreeing} of {len(findings)}"])


def finding_table(findings: list[Finding]) -> PrintedTable:
    """What doesn't agree as a table, worst first."""
    header = ["About", "Claimed", "Recomputed", "How", "Verdict"]
    groups = [
        [[Text(str(value)) for value in asdict(f).values()] for f in findings if f.verdict == verdict]
        for verdict in NOT_AGREEING
    ]
    agreeing = sum(finding.verdict == Agreement.AGREES for finding in findings)
    notes = [f"{agreeing} of {len(findings)} claims agree and are not shown; all are in audit.json."]
    numbers = [[name.lower() for name in header], *(list(asdict(f).values()) for f in findings)]
    return PrintedTable("audit", "Recomputed", header, [g for g in groups if g], notes, numbers, text_columns=5)


def summary_table(findings: list[Finding]) -> PrintedTable:
    """One line a claim: how often it was checked, how often it holds, and where it doesn't."""
    by_claim: dict[str, list[Finding]] = {}
    for finding in findings:
        where, _, kind = finding.about.rpartition(": ")
        title = "Averages" if kind in AVERAGES else "Trained parameters" if kind == "parameters" else finding.claim
        by_claim.setdefault(f"{finding.about}: {title}" if title == "not stated" else title, []).append(finding)
    rows = []
    for title, same_claim in by_claim.items():
        notes = [
            _disagreement(f, printed=title in ("Averages", "Trained parameters"))
            for f in same_claim
            if f.verdict == Agreement.DISAGREES
        ]
        notes += [f.how for f in same_claim if f.verdict == Agreement.OPEN]
        halved = [f for f in same_claim if f.verdict == Agreement.HALVED]
        notes += [f"{len(halved)} are half of the count"] if len(halved) > 1 else [f.recomputed for f in halved]
        agreeing = sum(f.verdict in (Agreement.AGREES, Agreement.ROUNDING) for f in same_claim)
        numbers = [str(len(same_claim)), "–" if same_claim[0].verdict == Agreement.OPEN else str(agreeing)]
        first, *below = notes or [""]
        rows.append([Text(title), Text(first, below=tuple(below)), *map(Text, numbers)])
    header = ["Claim", "What does not agree", "Checked", "Agree"]
    return PrintedTable("summary", "The reported numbers, recomputed", header, [rows], [], text_columns=2)


def _disagreement(finding: Finding, printed: bool) -> str:
    """Where it disagrees and what was found; beside what is claimed where that is a printed number."""
    if printed:
        return f"{finding.about.rpartition(': ')[0]}: {finding.claim}, found {finding.recomputed}"
    where = finding.about.partition(": ")[2]
    return f"{where}: {finding.recomputed}" if where else finding.recomputed


def write_findings(findings: list[Finding], folder: Path) -> None:
    """`audit.json`, and what doesn't agree as `audit.{md,csv,tex,html}`."""
    write_table(finding_table(findings), Path(folder))
    write_text(Path(folder) / "audit.json", as_json(findings) + "\n")


def read_findings(path: Path) -> list[Finding]:
    """The findings of an `audit.json`. Raises UserError if it's missing or damaged."""
    if not path.exists():
        command = f"sbora-bench audit --own --tables {path.parent / 'tables'} --output {path.parent}"
        raise UserError(f"{path}: no such file; make it with: {command}")
    return [Finding(**finding | {"verdict": Agreement(finding["verdict"])}) for finding in read_json(path)]
