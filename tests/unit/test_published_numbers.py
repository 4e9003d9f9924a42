"""What README and docs say of the published results in prose is what the published files say."""

import csv
import re

import pytest

from tests.factories.shipped import ROOT

PUBLISHED = ROOT / "results" / "published"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
# section of docs/results.md -> the experiments whose planned differences it quotes
QUOTED = {
    "The ladder": ["ladder", "ladder-effects"],
    "The whole field at equal size": [path.name for path in sorted(PUBLISHED.glob("field*"))],
    "Real weights on a CPU": ["smollm2", "smollm2-index"],
}
DIFFERENCE = r"[+−]\d+\.\d{3}(?: \\\[[^\]]*\\\])?"  # with its interval, where that is quoted too
# of README: what it says -> the verdicts that it rests on: table, first, second
CLAIMED = {
    "SBoRA-FA r = 32 is better than LoRA r = 16 on commonsense and arithmetic": [
        ("better", "commonsense", "sbora-fa-r32", "lora-r16"),
        ("better", "arithmetic", "sbora-fa-r32", "lora-r16"),
    ],
    "FA and FB r = 16 are equivalent to LoRA r = 8 on commonsense": [
        ("equivalent", "commonsense", "sbora-fa-r16", "lora-r8"),
        ("equivalent", "commonsense", "sbora-fb-r16", "lora-r8"),
    ],
    "FB is worse on arithmetic, FA is worse on MMLU.": [
        ("worse", "arithmetic", "sbora-fb-r16", "lora-r8"),
        ("worse", "mmlu", "sbora-fa-r16", "lora-r8"),
    ],
    "At equal rank FB is worse on arithmetic and FA on MMLU; on commonsense FB is better by this loss": [
        ("worse", "arithmetic", "sbora-fb-r16", "lora-r16"),
        ("worse", "mmlu", "sbora-fa-r16", "lora-r16"),
        ("better", "commonsense", "sbora-fb-r16", "lora-r16"),
    ],
}


def rows(experiment: str, table: str) -> list[dict[str, str]]:
    with open(PUBLISHED / experiment / "tables" / f"{table}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plain(text: str) -> str:
    """On one line, without copied tables."""
    return " ".join(re.sub(r"<!-- published: .*?<!-- end -->", "", text, flags=re.S).replace("**", "").split())


@pytest.mark.parametrize("section", QUOTED)
def test_every_difference_in_prose_is_a_published_one(section):
    (text,) = [part for part in re.split(r"^## ", RESULTS, flags=re.M) if part.startswith(f"{section}\n")]
    tables = [PUBLISHED / name / "tables" / "verdicts.md" for name in QUOTED[section]]
    published = "\n".join(path.read_text(encoding="utf-8") for path in tables if path.is_file())
    quoted = re.findall(DIFFERENCE, plain(text))
    assert quoted and [number for number in quoted if number not in published] == []


def test_counts_of_verdicts_are_the_published_ones():
    judged = rows("ladder", "verdicts")
    verdicts = [row["verdict"] for row in judged]
    better, equivalent, worse = (verdicts.count(word) for word in ("better", "equivalent", "worse"))
    decided, apart = better + equivalent + worse, better + worse
    beyond = [row for row in judged if abs(float(row["difference"])) > float(row["margin"]) and clear(row)]
    assert (
        f"{decided} of {len(judged)} comparisons are decided, {better} better, {equivalent} equivalent, {worse} worse"
        in (plain(RESULTS))
    )
    assert f"Of the {apart} better or worse, {len(beyond)} exceed the margin" in plain(RESULTS)
    assert {row["verdict"] for row in beyond} == {"worse"} and len(beyond) == 4
    planned = f"in {len(judged)} comparisons that were planned before the run (twelve seeds). {decided} are decided:"
    assert planned in plain(README)
    assert f"Of those {apart} differences four, all of them worse, are shown to exceed the margin" in plain(README)


def clear(row: dict[str, str]) -> bool:
    """Whether the whole interval lies beyond the margin."""
    low, high, margin = (float(row[key]) for key in ("low", "high", "margin"))
    return low > margin or high < -margin


@pytest.mark.parametrize("experiment", QUOTED["The ladder"])
def test_no_picked_rate_ends_its_grid_as_is_said(experiment):
    files = sorted((PUBLISHED / experiment / "tables").glob("rates-*.md"))
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    cells = [line for line in lines if line.startswith("| Ladder S |")]
    assert cells and not [line for line in cells if line.endswith("est tried |")]
    assert f"Of {len(cells)} picked rates none ends its grid" in plain(RESULTS)


@pytest.mark.parametrize("said", CLAIMED)
def test_what_readme_says_of_methods_is_a_published_verdict(said):
    assert said in plain(README)
    published = {(row["verdict"], row["table"], row["a"], row["b"]) for row in rows("ladder", "verdicts")}
    assert set(CLAIMED[said]) <= published


def test_pairs_by_right_answers_are_counted_as_published():
    """On the average of a table's tasks, or on its one task; pairs of SBoRA and another method, seen from SBoRA."""
    pairs = [row for row in rows("ladder", "averages") if row["equal"] != "method"]
    pairs += [row for row in rows("ladder", "differences") if row["equal"] != "method" and row["table"] == "mmlu"]
    turned = {"better": "worse", "worse": "better"}
    words = []
    for row in pairs:
        first, second = ("sbora" in row[key] for key in ("method_a", "method_b"))
        if first != second:
            words.append(row["word"] if first else turned.get(row["word"], row["word"]))
    worse, better = words.count("worse"), words.count("better")
    said = (
        f"SBoRA is worse than another method in {worse} of {len(words)} pairs at equal rank or parameters, and better"
    )
    assert f"{said} in {better} (" in plain(README)
