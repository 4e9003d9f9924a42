"""Every rule on hand-made texts, and the two AQuA rules on the rationales that ship with its test file."""

import json
import os
import re
from pathlib import Path

import pytest

from sbora_bench.inputs.extraction import RULES, extract, number, response
from tests.factories.shipped import catalog


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("last-number", "3 + 4 = 7.", "7."),
        ("last-number", "The total is 1,250", "1250"),
        ("last-number", "1,2 and 3", "3"),
        ("last-number", "it is 12, or 12,5", "125"),  # every comma goes, as in the authors' code
        ("last-number", "the answer is 5. That took 2 steps", "2"),
        ("last-number", "3/4", "4"),
        ("last-number", "2-1", "-1"),
        ("last-number", "5.0</s>", "5.0"),
        ("last-number", "no idea", ""),
        ("stated-number", "The answer is 5. That took 2 steps", "5"),
        ("stated-number", "The answer is: $1,250.50 in all", "1250.50"),
        ("stated-number", "#### 42", "42"),
        ("stated-number", "The answer is 3/4", "3/4"),
        ("stated-number", "2-1", "1"),
        ("stated-number", "it fell to -3 degrees", "-3"),
        ("stated-number", "at 12, 5 more came", "5"),
        ("stated-number", "The answer is 1. No: the answer is 2", "2"),
        ("stated-number", "no idea", ""),
        ("stated-number", "The answer is -$293.", "-293"),
        ("stated-number", "he owes $ -1,234.50 now", "-1234.50"),
        ("stated-number", "The answer is −5.", "−5"),
        ("stated-number", "10−4", "4"),
        ("stated-number", "$5-$3", "3"),
        ("stated-number", "the answer is .5", ".5"),
        ("stated-number", "it is -.25 of them", "-.25"),
        ("stated-number", "It is done.5", ""),
        ("stated-number", "version 1.2.3", "1.2"),
        ("stated-number", "1 234 apples", "1234"),
        ("first-capital", "Because x = 2. The answer is (D).", "B"),
        ("first-capital", "The answer is (D).", "D"),
        ("first-capital", "none", ""),
        ("stated-option", "Because x = 2. The answer is (D).", "D"),
        ("stated-option", "the answer is ( B ) .", "B"),
        ("stated-option", "The Answer is: C", "C"),
        ("stated-option", "(A) is too small, so (E)", "E"),
        ("stated-option", "(A) is too small. The answer is B, not (C).", "B"),
        ("stated-option", " D. ", "D"),
        ("stated-option", "A train leaves Boston", ""),
        ("stated-option", "the answer is Ended", ""),
    ],
)
def test_rules(rule, text, answer):
    assert extract(text, RULES[rule]) == answer


# What SmolLM2-135M-Instruct wrote, before and after tuning, with what each rule reads there: (text, official, strict).
WRITTEN_NUMBERS = [
    ("1. The answer is 43. The total amount of money Tommy raises is 43 * 23 = 100.<|im_end|>", "100.", "43"),
    (
        "1. The answer is 100.\n                Gerald worked for an entire week and spent a total of $100. He has"
        " 100 - 10 = 90 left.<|im_end|>",
        "90",
        "100",
    ),
    ("1. The answer is 1. 2. 3. 4. 5. 6. 7. 8. 9. 10. 11. 12. 13. 14. 15. 16. 17. 18. 19. 20.", "20.", "1"),
    ("8. The answer is 33. 9. The answer is 33. 10. The answer is", "10.", "33"),
    ("2020-01-01 2020-01-01 2020-01-01 2020-01-", "-01", "01"),
    ("2022-01-23 12:32:53.113 12:32:53.113 2022-01-23 ", "-23", "23"),
    (
        "\nA: The family has 6 adults and 4 kids. Each adult gets a slice that is twice as big as that of each kid. So,"
        " each adult gets 2 * 2 = 4 slices. The answer is 4/6 = 0.8.<|im_end|>",
        "0.8",
        "4/6",
    ),
]
WRITTEN_OPTIONS = [
    (" Yes, it is C.<|im_end|>", "C", ""),
    (" Yes, Charles received $54,000.<|im_end|>", "C", ""),
    (" Choices: (A) 0.22 (B) 0.26 (C) 0.37 (D) 0.46 (E) 0.63\n\nA:<|im_end|>", "C", "E"),
    ("\nA: P(A/B) = P(A) / P(B) = 0.2 / 0.8 = 0.3333. The answer is (D).<|im_end|>", "A", "D"),
    ("\nA: My brother is 2 years old. That means I am 2 years old + 2 = 4 years old. The answer is (C).", "A", "C"),
    (
        "\nA: Rahul is 2 years younger than Denis. So, 2 - 2 = 0 years. The remainder is 18, so the answer is (C).",
        "A",
        "C",
    ),
    ("\nA: There are 8% of 8% of 4/5 of 10% of 10% of 20% of 10%", "A", ""),
]


@pytest.mark.parametrize(
    ("text", "rules", "answers"),
    [(text, ("last-number", "stated-number"), answers) for text, *answers in WRITTEN_NUMBERS]
    + [(text, ("first-capital", "stated-option"), answers) for text, *answers in WRITTEN_OPTIONS],
)
def test_what_a_model_wrote(text, rules, answers):
    assert [extract(response(text, "first"), RULES[rule]) for rule in rules] == answers


def shipped(task: str) -> list[dict]:
    path = Path(os.environ.get("SBORA_DATA_ROOT", "")) / "dataset" / task / "test.json"
    if not path.is_file():
        pytest.skip(f"{task}'s test file is not here: set SBORA_DATA_ROOT")
    return json.loads(path.read_text())


@pytest.mark.parametrize("extraction", ["official", "strict"])
@pytest.mark.parametrize(("task", "count"), [("boolq", 3270), ("ARC-Easy", 2376), ("winogrande", 1267)])
def test_every_shipped_answer_is_read_off_its_sentence(task, count, extraction):
    """The targets that the models are trained on: `the correct answer is <label>`."""
    expression = catalog().tasks[task].answer[extraction]
    items = shipped(task)
    assert len(items) == count
    assert [re.findall(expression, item["output"]) for item in items] == [[item["answer"]] for item in items]


@pytest.mark.parametrize(
    ("task", "official", "strict", "count"),
    [("AddSub", 370, 370, 395), ("MultiArith", 560, 559, 600), ("gsm8k", 771, 767, 1319)],
)
def test_shipped_rationales_of_the_number_tasks(task, official, strict, count):
    """A GPT wrote them, and they often contradict `answer`; the authors' rule is spelt again here."""
    items = shipped(task)
    right = {"last-number": 0, "stated-number": 0}
    for item in items:
        for rule in right:
            right[rule] += abs(float(item["answer"]) - number(extract(item["output"], RULES[rule]))) <= 0.001
        numbers = re.findall(r"-?\d+\.?\d*", item["output"].replace(",", ""))
        assert extract(item["output"], RULES["last-number"]) == (numbers[-1] if numbers else "")
    assert (right["last-number"], right["stated-number"], len(items)) == (official, strict, count)


@pytest.mark.parametrize(
    ("text", "value"),
    [("7.", 7), ("-2.5", -2.5), ("−5", -5), (".5", 0.5), ("3/4", 0.75), ("", float("inf")), ("x", float("inf"))],
)
def test_numbers(text, value):
    assert number(text) == value


def test_the_response_ends_or_begins_at_the_header():
    text = " the answer is 3\n\n ### Instruction:\n x\n\n ### Response:\n 4 "
    assert response(text, "first") == "the answer is 3\n\n ### Instruction:\n x"
    assert response(text, "last") == "4"
    assert response(" 3 ", "first") == response(" 3 ", "last") == "3"


@pytest.mark.parametrize(("rule", "percent"), [("first-capital", 42.9), ("stated-option", 48.4)])
def test_aqua_rationales(rule, percent):
    """Protocol section 3: the authors' rule and a strict one disagree on the shipped rationales."""
    items = shipped("AQuA")
    right = [extract(item["output"].strip(), RULES[rule]) == item["answer"] for item in items]
    assert len(items) == 254
    assert round(100 * sum(right) / len(right), 1) == percent
