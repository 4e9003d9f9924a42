"""What README and docs say of the published results in prose is what the published files say."""

import csv
import json
import re

import pytest

from tests.factories.shipped import ROOT

PUBLISHED = ROOT / "results" / "published"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
# section of docs/results.md -> the experiments whose planned differences it quotes
QUOTED = {
    "The ladder": ["ladder", "ladder-small", "ladder-effects"],
    "The whole field at equal size": ["field"],
    "Real weights on a CPU": ["smollm2", "smollm2-index"],
}
DIFFERENCE = r"[+−]\d+\.\d{3}(?: \\\[[^\]]*\\\])?"  # with its interval, where that is quoted too
# document -> what it says of methods -> the verdicts that it rests on: experiment, verdict, table, first, second
CLAIMED = {
    "README.md": {
        "SBoRA-FA r = 32 is better than LoRA r = 16 on commonsense and arithmetic": [
            ("ladder", "better", "commonsense", "sbora-fa-r32", "lora-r16"),
            ("ladder", "better", "arithmetic", "sbora-fa-r32", "lora-r16"),
        ],
        "FA and FB r = 16 are equivalent to LoRA r = 8 on commonsense": [
            ("ladder", "equivalent", "commonsense", "sbora-fa-r16", "lora-r8"),
            ("ladder", "equivalent", "commonsense", "sbora-fb-r16", "lora-r8"),
        ],
        "FB is worse on arithmetic, FA is worse on MMLU.": [
            ("ladder", "worse", "arithmetic", "sbora-fb-r16", "lora-r8"),
            ("ladder", "worse", "mmlu", "sbora-fa-r16", "lora-r8"),
        ],
        "At equal rank FB is worse on arithmetic and FA on MMLU; on commonsense FB is better by this loss": [
            ("ladder", "worse", "arithmetic", "sbora-fb-r16", "lora-r16"),
            ("ladder", "worse", "mmlu", "sbora-fa-r16", "lora-r16"),
            ("ladder", "better", "commonsense", "sbora-fb-r16", "lora-r16"),
        ],
        "On real weights (SmolLM2-135M) SBoRA is worse than LoRA on arithmetic: FA at equal rank, FB at": [
            ("smollm2", "worse", "arithmetic", "sbora-fa-r16", "lora-r16"),
            ("smollm2", "worse", "arithmetic", "sbora-fb-r29", "lora-r16"),
        ],
        "FA at equal trainable parameters is undecided. After ARC-Easy FA is equivalent to LoRA": [
            ("smollm2", "undecided", "arithmetic", "sbora-fa-r36", "lora-r16"),
            ("smollm2", "equivalent", "arc-easy", "sbora-fa-r16", "lora-r16"),
            ("smollm2", "equivalent", "arc-easy", "sbora-fa-r36", "lora-r16"),
        ],
    },
    "docs/choose.md": {
        "It was better than LoRA r = 16 on Ladder S": [
            ("ladder", "better", "commonsense", "sbora-fa-r32", "lora-r16"),
            ("ladder", "better", "arithmetic", "sbora-fa-r32", "lora-r16"),
        ],
        "on real weights (SmolLM2-135M) it was equivalent on ARC-Easy, and undecided on arithmetic": [
            ("smollm2", "equivalent", "arc-easy", "sbora-fa-r36", "lora-r16"),
            ("smollm2", "undecided", "arithmetic", "sbora-fa-r36", "lora-r16"),
        ],
        "On SmolLM2-135M FA is worse on arithmetic and equivalent on ARC-Easy": [
            ("smollm2", "worse", "arithmetic", "sbora-fa-r16", "lora-r16"),
            ("smollm2", "equivalent", "arc-easy", "sbora-fa-r16", "lora-r16"),
        ],
        "r = 16 is worse than LoRA r = 8 on arithmetic": [
            ("ladder", "worse", "arithmetic", "sbora-fb-r16", "lora-r8"),
        ],
        "on Ladder S: FB is better on commonsense and worse on arithmetic, FA is worse on MMLU (r = 16).": [
            ("ladder", "better", "commonsense", "sbora-fb-r16", "lora-r16"),
            ("ladder", "worse", "arithmetic", "sbora-fb-r16", "lora-r16"),
            ("ladder", "worse", "mmlu", "sbora-fa-r16", "lora-r16"),
        ],
        "DoRA is equivalent to LoRA where it was decided": [
            ("ladder", "equivalent", "commonsense", "dora-r16", "lora-r16"),
            ("ladder", "equivalent", "commonsense", "qdora-r16", "qlora-r16"),
            ("smollm2", "equivalent", "arithmetic", "dora-r16", "lora-r16"),
        ],
    },
}
# what a row of docs/choose.md calls a model and a table -> the experiments and the table that hold its comparisons
MEASURED_ON = {
    "Ladder S, commonsense": (["ladder", "ladder-small"], "commonsense"),
    "Ladder S, arithmetic": (["ladder", "ladder-small"], "arithmetic"),
    "Ladder S, MMLU": (["ladder", "ladder-small"], "mmlu"),
    "SmolLM2-135M, arithmetic": (["smollm2"], "arithmetic"),
    "SmolLM2-135M, ARC-Easy": (["smollm2"], "arc-easy"),
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


@pytest.mark.parametrize(
    ("experiment", "decided", "apart", "clear_ones"), [("ladder", 16, 11, 4), ("ladder-small", 8, 7, 4)]
)
def test_counts_of_verdicts_are_the_published_ones(experiment, decided, apart, clear_ones):
    judged = rows(experiment, "verdicts")
    verdicts = [row["verdict"] for row in judged]
    better, equivalent, worse = (verdicts.count(word) for word in ("better", "equivalent", "worse"))
    beyond = [row for row in judged if clear(row)]
    assert (better + equivalent + worse, better + worse, len(beyond)) == (decided, apart, clear_ones)
    assert {row["verdict"] for row in beyond} == {"worse"}
    counts = f"{better} better, {equivalent} equivalent, {worse} worse"
    assert f"{decided} of {len(judged)} comparisons are decided, {counts}" in plain(RESULTS)
    assert f"Of the {apart} better or worse, {clear_ones} exceed the margin" in plain(RESULTS)


def test_readme_counts_the_verdicts_of_the_ladder_and_of_small_regions():
    readme = plain(README)
    assert "in 25 comparisons that were planned before the run (twelve seeds). 16 are decided:" in readme
    assert "Of the 11 differences among the 25 four, all of them worse, are shown to exceed the margin" in readme
    small = rows("ladder-small", "verdicts")
    assert "12 more comparisons" in readme and len(small) == 12
    assert "none better" in readme and "better" not in {row["verdict"] for row in small}
    assert "(r = 4) SBoRA is worse on arithmetic, at equal rank and at equal trainable parameters" in readme
    assert {row["verdict"] for row in small if row["table"] == "arithmetic"} == {"worse"}


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


@pytest.mark.parametrize(("document", "said"), [(name, said) for name, claims in CLAIMED.items() for said in claims])
def test_what_a_document_says_of_methods_is_a_published_verdict(document, said):
    assert said in plain((ROOT / document).read_text(encoding="utf-8"))
    for experiment, *verdict in CLAIMED[document][said]:
        published = [[row[key] for key in ("verdict", "table", "a", "b")] for row in rows(experiment, "verdicts")]
        assert verdict in published


# what defines the words, or is held to the published files by a test of its own
OTHERWISE_HELD = [
    "none better",
    "(r = 4) SBoRA is worse on arithmetic, at equal rank and at equal trainable parameters",
    "Of the 11 differences among the 25 four, all of them worse, are shown to exceed the margin",
    "Better and worse mean that a difference is shown",
    "Better and worse say that there is a difference",
    "of Ladder S's 11 at r = 16 and more four exceed the margin of 0.01 nats a token, all of them worse",
    "SBoRA is worse than another method in 27 of 55 pairs at equal rank or parameters, and better in 1",
    "in no comparison here is it better than LoRA",
]


@pytest.mark.parametrize("document", CLAIMED)
def test_no_document_says_better_worse_or_equivalent_of_what_is_not_held_to_a_verdict(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    text = plain("\n".join(line for line in text.splitlines() if line[:1] not in ("|", "#")))
    for said in [*CLAIMED[document], *OTHERWISE_HELD]:
        text = re.sub(re.escape(said), "", text, flags=re.I)
    assert re.findall(r".{0,60}\b(?:better|worse|equivalent)\b.{0,60}", text, flags=re.I) == []


def test_chosen_regions_are_compared_with_drawn_ones_as_is_said():
    document = (ROOT / "docs" / "sbora.md").read_text(encoding="utf-8")
    section = document[document.index("### Is a chosen region better") :]
    lines = [re.findall(r"[+-]\d\.\d{3} \[[^\]]*\]|better|equivalent", line) for line in section.splitlines()]
    quoted = sorted(word for line in lines[:25] if len(line) > 1 for word in line)
    judged = rows("ladder-index", "verdicts")
    published = [f"{float(r['difference']):+.3f} [{float(r['low']):.3f}, {float(r['high']):.3f}]" for r in judged]
    decided = [row["verdict"] for row in judged if row["verdict"] != "undecided"]
    assert quoted == sorted(published + decided)
    assert "four of twelve planned comparisons say so" in plain(document)
    assert [decided.count(word) for word in ("better", "worse", "equivalent")] == [4, 0, 3]


def test_dora_is_nowhere_better_than_lora_as_is_said():
    judged = [row for experiment in VERDICTS for row in rows(experiment, "verdicts") if "dora" in row["a"]]
    assert judged and all("lora" in row["b"] and row["verdict"] != "better" for row in judged)


def test_the_table_to_choose_by_has_every_comparison_with_lora_at_equal_parameters():
    document = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in document.splitlines() if ", " in line and line.startswith("| ")]
    printed, size = {}, ""
    for line in lines:
        if line[-3] not in MEASURED_ON:
            continue
        size = line[0] if len(line) == 4 else size
        for method, cell in zip(("sbora-fa", "sbora-fb"), line[-2:], strict=True):
            printed[size, line[-3], method] = cell.strip("*")
    published: dict[tuple[str, str, str], set[str]] = {}
    for on, (experiments, table) in MEASURED_ON.items():
        for row in (row for experiment in experiments for row in rows(experiment, "verdicts")):
            a, b = (row[side].rpartition("-r") for side in ("a", "b"))
            if (row["table"], row["equal"], b[0]) == (table, "parameters", "lora"):
                published.setdefault((f"LoRA r = {b[2]}", on, a[0]), set()).add(row["verdict"])
    assert {key: {cell} for key, cell in printed.items() if cell != "–"} == published


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


VERDICTS = sorted(path.parents[1].name for path in PUBLISHED.glob("*/tables/verdicts.csv"))


def lines_of(experiment: str, table: str) -> list[str]:
    """The rows of a published Markdown table."""
    text = (PUBLISHED / experiment / "tables" / f"{table}.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("experiment", VERDICTS)
def test_a_verdict_says_which_rates_were_picked_at_an_end_of_those_tried(experiment):
    tried: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for path in (PUBLISHED / experiment / "tables").glob("rates-*.csv"):
        for row in rows(experiment, path.stem):
            tried.setdefault((row["table"], row["model"], f"{row['method']}-r{row['rank']}"), []).append(row)
    ends = {}
    for cell, of_cell in tried.items():
        rates = [float(row["learning_rate"]) for row in of_cell]
        (best,) = [float(row["learning_rate"]) for row in of_cell if row["picked"] == "yes"]
        ends[cell] = "lowest" if best == min(rates) else "highest" if best == max(rates) else ""
    judged = rows(experiment, "verdicts")
    for row, line in zip(judged, lines_of(experiment, "verdicts"), strict=True):
        at_ends = [ends[row["table"], row["model"], row[side]] for side in ("a", "b")]
        assert re.findall(r"<br>(\w+) learning rate tried", line) == [end for end in at_ends if end], line


@pytest.mark.parametrize("table", ["verdicts", "rates-*"])
def test_what_stands_below_a_kind_of_table_is_the_same_in_all_that_are_published(table):
    texts = [path.read_text(encoding="utf-8") for path in sorted(PUBLISHED.glob(f"*/tables/{table}.md"))]
    notes = {
        re.sub(r"of \d+ training rows|\(\d+\)| Empty: .*", "", line)
        for text in texts
        for line in text.splitlines()
        if line and line[0] not in "|#"
    }
    assert len(texts) > 3 and len(notes) == (2 if table == "verdicts" else 1), notes


# rows of docs/results.md: how each begins -> the table of the field's leaderboard, and the first method there
LEADERS = {
    "| arithmetic, r = 8 | full fine-tuning, 71.8 %": ("arithmetic", "full"),
    "| arithmetic, r = 2 | full fine-tuning, 70.9 %": ("arithmetic-small", "full"),
    "| commonsense, r = 8 | QAdaLoRA, 59.3 %": ("commonsense", "qadalora"),
    "| commonsense, r = 2 | C3A, 60.4 %": ("commonsense-small", "c3a"),
}


@pytest.mark.parametrize("line", LEADERS)
def test_places_in_the_field_are_as_published(line):
    table, method = LEADERS[line]
    places = [row for row in rows("field", "leaderboard") if row["table"] == table]
    assert places[0]["method"] == method and line.endswith(f", {100 * float(places[0]['mean']):.1f} %")
    (printed,) = [text for text in RESULTS.splitlines() if text.startswith(line)]
    for name, cell in zip(("sbora-fa", "lora"), printed.strip("| ").split(" | ")[-2:], strict=True):
        (row,) = [row for row in places if row["method"] == name]
        place, score = re.match(r"(\d+)[a-z]+\b.*, ([\d.]+)$", cell).groups()
        assert (place, score) == (row["place"], f"{100 * float(row['mean']):.1f}")


def test_spreads_of_draw_and_order_are_the_published_ones():
    brought = {(row["table"], row["source"]): row for row in rows("ladder-effects", "draws")}
    for table in ("draw-fa", "draw-fb"):
        order = brought[table, "order"]
        mean, low, high = (float(order[key]) ** 0.5 for key in ("variance", "low", "high"))
        assert rf"{mean:.1f} \[{low:.1f}, {high:.1f}\]" in plain(RESULTS)
        assert rf"\[0, {float(brought[table, 'draw']['high']) ** 0.5:.1f}\]" in plain(RESULTS)


def test_simulated_errors_of_looks_are_the_published_ones():
    errors = json.loads((PUBLISHED / "errors-cpu.json").read_text(encoding="utf-8"))
    looks, statistics = errors["looks"], (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    shown = [100 * (one["better"] + one["worse"]) for one in looks]
    printed = {
        "shown": [f"{shown[0]:.1f} %", *(f"{share:.0f} %" for share in shown[1:])],
        "interval covers": [f"{100 * one['covered']:.1f} %" for one in looks],
        "seeds, mean": [f"{one['seeds']:.1f}" for one in looks],
    }
    for name, values in printed.items():
        assert f"| {name} | {' | '.join(values)} |" in statistics
    at_low = [100 * one["the same at 0.004"] for one in errors["tests"]]
    assert f"At a stated 0.4 % it errs {min(at_low):.0f} to {max(at_low):.1f} %" in " ".join(statistics.split())
