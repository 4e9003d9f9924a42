"""From given responses to scores, through lm-eval and the catalog's own tasks; no model is needed."""

import pytest

from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.score.tasks import score_task
from tests.factories import shipped, toy_runs
from tests.factories.scorers import Canned

AGAIN = " 1 \n\n ### Instruction:\n x\n\n ### Response:\n "


def score(task: str, extraction: str, pairs: list[tuple[str, str]], **fields):
    """Score (response, answer) pairs on a task of the catalog."""
    protocol = toy_runs.protocol(**{"extraction": extraction} | fields)
    config = task_config(task, shipped.catalog().tasks[task], protocol)
    prompts = [f"  prompt {index} \n  " for index in range(len(pairs))]
    items = [
        {"id": index, "prompt": prompt, "answer": answer, "contaminated": False}
        for index, (prompt, (_, answer)) in enumerate(zip(prompts, pairs, strict=True))
    ]
    model = Canned({prompt: response for prompt, (response, _) in zip(prompts, pairs, strict=True)})
    task_score, rows = score_task(model, config, items, macro=True)
    return task_score, rows, model


@pytest.mark.parametrize(
    ("task", "extraction", "response", "answer", "extracted", "correct"),
    [
        ("boolq", "official", "the correct answer is true", "true", "true", True),
        ("boolq", "official", "false, although some say true", "true", "false", False),
        ("boolq", "official", "untrue", "true", "true", True),
        ("boolq", "strict", "untrue", "true", "", False),
        ("boolq", "official", "True", "true", "", False),
        ("boolq", "official", f"true{AGAIN}false", "false", "false", True),
        ("boolq", "strict", f"true{AGAIN}false", "true", "true", True),
        ("piqa", "official", "solution2 or solution1", "solution2", "solution2", True),
        ("ARC-Easy", "official", "answer5", "answer5", "answer5", True),
        ("hellaswag", "official", "ending4", "ending1", "ending4", False),
        ("winogrande", "official", "it is option1.", "option1", "option1", True),
        ("AddSub", "official", "7 + 5 = 12", "12.0", "12", True),
        ("AddSub", "official", "about 3.3339", "3.333", "3.3339", True),
        ("AddSub", "official", "about 3.3345", "3.333", "3.3345", False),
        ("AddSub", "official", "no number", "12", "", False),
        ("AddSub", "official", f"12{AGAIN}13", "12", "1", False),
        ("AddSub", "official", "12\n ### Response:\n 13", "12", "12", True),
        ("AddSub", "official", "The answer is 12. I took 3 steps", "12", "3", False),
        ("AddSub", "strict", "The answer is 12. I took 3 steps", "12", "12", True),
        ("gsm8k", "official", "it costs $1,250.", "1250.0", "1250.", True),
        ("AQuA", "official", "By the key it is (C)", "C", "B", False),
        ("AQuA", "strict", "By the key it is (C)", "C", "C", True),
    ],
)
def test_one_response(task, extraction, response, answer, extracted, correct):
    task_score, (row,), _ = score(task, extraction, [(response, answer)])
    assert (row["extracted"], row["correct"]) == (extracted, correct)
    assert row["response"] == response
    assert (task_score.value, task_score.stderr, task_score.n) == (float(correct), None, 1)


def test_the_prompt_reaches_the_model_byte_for_byte():
    _, rows, model = score("boolq", "official", [("true", "true"), ("false", "true")], num_beams=4, max_new_tokens=32)
    assert [context for context, _ in model.requests] == [row["prompt"] for row in rows]
    for _, settings in model.requests:
        assert (settings["num_beams"], settings["max_gen_toks"], settings["until"]) == (4, 32, [])


@pytest.mark.parametrize(("letters", "choices"), [("bare", "ABCD"), ("spaced", [" A", " B", " C", " D"])])
def test_letters_are_asked_as_the_protocol_says(letters, choices):
    task_score, rows, model = score("mmlu", "official", [("B", "B"), ("C", "A"), ("A", "A")], letters=letters)
    assert [text for _, text in model.requests[:4]] == list(choices)
    assert [row["extracted"] for row in rows] == ["B", "C", "A"]
    assert (task_score.metric, task_score.value) == ("acc", pytest.approx(2 / 3))


def test_the_task_s_hash_tells_settings_apart_and_knows_no_paths():
    pairs = [("true", "true"), ("false", "true")]
    first, again = (score("boolq", "official", pairs)[0].task_hash for _ in range(2))
    assert first == again
    assert first == score("boolq", "official", pairs[:1])[0].task_hash  # of the task, not of its items
    others = [
        score("boolq", "strict", pairs)[0].task_hash,
        score("boolq", "official", pairs, num_beams=4)[0].task_hash,
        score("boolq", "official", pairs, max_new_tokens=7)[0].task_hash,
    ]
    assert len({first, *others}) == 4
