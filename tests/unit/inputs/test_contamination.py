"""Which test questions stand in a training set."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbora_bench.inputs.data.contamination import contaminated, last_question, normalise, questions
from tests.factories.shipped import DATA

SHOTS = (
    "The following are multiple choice questions (with answers) about  birds.\n\n"
    "Which sings?\nA. wren\nB. rock\nAnswer: A\n\n"
    "Which\n\nswims?\nA. owl\nB. duck\nAnswer: B\n\n"
    "Which is red?\nA. robin\nB. crow\nAnswer:"
)


def example(instruction="", input=""):
    return {"instruction": instruction, "input": input, "output": "", "answer": ""}


def test_case_punctuation_and_spaces_do_not_matter():
    assert normalise(" Tom's  3 cups,\n7_lids ? ") == normalise("tom s 3 CUPS 7 lids")
    assert normalise("3 cups") != normalise("4 cups")


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


def test_a_few_shot_prompt_has_several_questions():
    assert questions(SHOTS) == [
        "which sings a wren b rock",
        "which swims a owl b duck",
        "which is red a robin b crow",
    ]


def test_an_item_asks_its_last_question():
    assert last_question(example(input=SHOTS)) == "which is red a robin b crow"
    assert last_question(example(instruction="How many?", input="Two cups.")) == "how many two cups"


def test_a_question_counts_alone_and_as_a_shot():
    items = [example("Who came?"), example("Who left?"), example(input=SHOTS)]
    assert contaminated(items, [example("who CAME"), example(input="Which is red?\nA. robin\nB. crow\nAnswer: A")]) == [
        0,
        2,
    ]
    as_a_shot = example(input="Which is red?\nA. robin\nB. crow\nAnswer: A\n\nWhich hops?\nA. hare\nB. fig\nAnswer:")
    assert contaminated(items, [as_a_shot]) == [2]


def test_shots_of_an_item_are_not_its_question():
    assert contaminated([example(input=SHOTS)], [example(input="Which sings?\nA. wren\nB. rock\nAnswer:")]) == []


def test_an_instruction_counts_whatever_its_input():
    assert contaminated([example("Who came?")], [example("Who came?", "Ann came.")]) == [0]


def test_other_numbers_make_another_question():
    assert contaminated([example("Tom has 3 cups.")], [example("Tom has 4 cups.")]) == []


def rows(path: str) -> list[dict]:
    if not (DATA / path).is_file():
        pytest.skip(f"{path} is not at hand; set SBORA_DATA_ROOT")
    return json.loads((DATA / path).read_text())


@pytest.mark.parametrize(("task", "unseen"), [("AddSub", 65), ("MultiArith", 109), ("gsm8k", 264), ("AQuA", 51)])
def test_unseen_questions_of_math_data(task, unseen):
    """The counts of protocol section 6, which were measured with other code."""
    items = rows(f"dataset/{task}/test.json")
    assert len(items) - len(contaminated(items, rows("ft-training_set/math_data.json"))) == unseen


@pytest.mark.parametrize(("task", "held"), [("ARC-Easy", 2), ("boolq", 1)])
def test_training_files_that_hold_a_few_test_questions(task, held):
    assert len(contaminated(rows(f"dataset/{task}/test.json"), rows(f"dataset/{task}/train.json"))) == held
