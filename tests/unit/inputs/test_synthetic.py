"""The ladder's data: formats, balance, determinism, and no test question in the corpus or a training set."""

import json
import re
from collections import Counter

import pytest

from sbora_bench.errors import UserError
from sbora_bench.inputs.data import corpus, synthetic, world

TASKS = list(synthetic.TASKS)
CHOICES = TASKS[:8]
SUMS = ["MultiArith", "gsm8k", "AddSub", "SingleEq", "SVAMP"]
LABEL = {
    "boolq": "true|false",
    "piqa": "solution[12]",
    "social_i_qa": "answer[123]",
    "hellaswag": "ending[1234]",
    "winogrande": "option[12]",
    "ARC-Easy": "answer[1234]",
    "ARC-Challenge": "answer[1234]",
    "openbookqa": "answer[1234]",
}


def core(instruction: str) -> str:
    """The question without the words that all questions of its task share."""
    for head in (synthetic.TRUE_FALSE, *synthetic.CHOOSE.values()):
        instruction = instruction.replace(head, "")
    return synthetic.question_key(re.sub(r"Answer format:.*", "", instruction))


@pytest.mark.parametrize("task", TASKS)
def test_items_have_the_format_of_llm_adapters(task):
    items = synthetic.items(task, 100, 0)
    assert len(items) == len({synthetic.question_key(e["instruction"]) for e in items}) == 100
    for e in items:
        assert list(e) == ["instruction", "input", "output", "answer"]
        assert all(isinstance(v, str) for v in e.values()) and e["input"] == ""
        if task in CHOICES:
            assert re.fullmatch(LABEL[task], e["answer"])
            assert e["output"] == f"the correct answer is {e['answer']}"
            assert "Answer format: " in e["instruction"]
        elif task == "AQuA":
            # The protocol takes the first capital A to E of the whole response.
            assert re.findall("A|B|C|D|E", e["output"])[0] == e["answer"]
            assert re.search(r"Answer Choices: \(A\) \d+ \(B\) \d+ \(C\) \d+ \(D\) \d+ \(E\) \d+$", e["instruction"])
        else:
            assert float(re.findall(r"-?\d+\.?\d*", e["output"])[-1]) == float(e["answer"])


@pytest.mark.parametrize("task", CHOICES)
def test_choices_are_right_and_only_one_is(task):
    known = {t.name: set(t.values.values()) for t in world.THINGS}
    for e in synthetic.items(task, 100, 0):
        words = set(re.findall(r"\w+", e["instruction"]))
        if task == "boolq":
            (thing,) = words & set(known)
            (value,) = words & {v for values in world.PROPERTIES.values() for v in values}
            assert e["answer"] == str(value in known[thing]).lower()
            continue
        options = dict(re.findall(r"([A-Z]\w+\d): (\w+)", e["instruction"]))
        question_words = words - set(options.values())
        if task == "openbookqa":
            (thing,) = question_words & set(known)
            holds = [label for label, value in options.items() if value in known[thing]]
        else:
            values = question_words & {v for values in world.PROPERTIES.values() for v in values}
            holds = [label for label, thing in options.items() if values <= known[thing]]
        assert [label.lower() for label in holds] == [e["answer"]]


@pytest.mark.parametrize("task", SUMS)
def test_working_is_right_and_within_the_world(task):
    for e in synthetic.items(task, 100, 3):
        for a, operator, b, c in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", e["output"]):
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator]
            assert value == int(c) and 0 <= value <= world.LARGEST


@pytest.mark.parametrize("task", [*TASKS, "mmlu"])
def test_no_answer_is_much_more_frequent_than_chance(task):
    if task in SUMS:
        answers, options = [e["answer"] for e in synthetic.items(task, 300, 1)], 10
    elif task == "mmlu":
        answers, options = [e["output"] for e in synthetic.mmlu_items(300, 1)], 4
    else:
        answers = [e["answer"] for e in synthetic.items(task, 150, 1)]
        options = len(set(answers))
    assert Counter(answers).most_common(1)[0][1] / len(answers) < 1 / options + 0.12


def test_mmlu_items_have_five_shots_and_a_letter():
    for e in synthetic.mmlu_items(50, 0):
        assert list(e) == ["subject", "input", "output"] and e["output"] in "ABCD"
        assert e["input"].startswith(f"{synthetic.MMLU_HEAD}  {e['subject']}.\n\n")
        assert len(re.findall(r"Answer: [ABCD]\n", e["input"])) == 5 and e["input"].endswith("\nAnswer:")


@pytest.mark.parametrize("name", list(synthetic.TRAINING_SETS))
def test_no_test_question_in_a_training_set(name):
    learnt = [
        synthetic.question_key(e["instruction"] + " " + e["input"])
        for s in (0, 1)
        for e in synthetic.training_set(name, s)
    ]
    texts = "\n".join(learnt)
    for task in synthetic.TRAINING_SETS[name]:
        questions = {core(e["instruction"]) for s in (0, 1) for e in synthetic.items(task, 100, s)}
        assert not [q for q in questions if q in texts]
    if name == "ladder-instruct":
        questions = {synthetic.question_key(e["input"].split("\n\n")[-1]) for e in synthetic.mmlu_items(100, 0)}
        assert questions and not [q for q in questions if q in texts]


def test_no_test_question_in_the_corpus():
    questions = [core(e["instruction"]) for t in TASKS for e in synthetic.items(t, 100, 0)]
    questions += [synthetic.question_key(e["input"].split("\n\n")[-1]) for e in synthetic.mmlu_items(100, 0)]
    openings = {tuple(question.split()[:4]) for question in questions}
    for prompt, response in corpus.corpus(0, 20_000, 80_000):
        text = synthetic.question_key(f"{prompt} {response}")
        words = text.split()
        if not openings.isdisjoint(zip(words, words[1:], words[2:], words[3:], strict=False)):
            assert not [question for question in questions if question in text]


def test_same_seed_same_data_other_seed_other_data():
    for make in (
        lambda s: synthetic.items("piqa", 20, s),
        lambda s: synthetic.mmlu_items(20, s),
        lambda s: synthetic.training_set("ladder-math", s),
        lambda s: list(corpus.corpus(s, 50, 100)),
    ):
        assert json.dumps(make(3)) == json.dumps(make(3)) != json.dumps(make(4))


def test_tokenizer_knows_every_word_and_gives_labels_and_numbers_back(tmp_path):
    from transformers import AutoTokenizer

    corpus.tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [f"{p} {r}" for p, r in corpus.corpus(9, 500, 3000)]
    texts += [e[k] for t in TASKS for e in synthetic.items(t, 60, 9) for k in ("instruction", "output")]
    texts += [f"{e['input']} {e['output']}" for e in synthetic.mmlu_items(60, 9)]
    texts += [e["input"] for e in synthetic.training_set("ladder-instruct", 9)]
    assert not [t for t, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True) if tokenizer.unk_token_id in ids]

    def again(text: str) -> str:
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert again("the correct answer is answer2") == "the correct answer is answer2"
    assert again("7 - 3 = 4. The answer is 4.") == "7 - 3 = 4 The answer is 4"
    assert again("Answer1: bear Answer2: fig") == "answer1 bear answer2 fig"
    assert again("Rationale: 3 + 4 = 7. The answer is (B).") == "Rationale 3 + 4 = 7 The answer is B"


def test_templates_of_training_and_scoring_become_the_same_tokens():
    tokenizer = corpus.tokenizer()
    gap = " " * 16
    trained = f"{synthetic.BELOW}  \n\n{gap}### Instruction:\n{gap}What?\n{gap}\n{gap}### Response:\n{gap}"
    scored = f"{synthetic.BELOW} \n\n{gap}### Instruction:\n{gap}What?\n\n{gap}### Response:\n{gap}"
    assert tokenizer(trained)["input_ids"] == tokenizer(scored)["input_ids"]
    assert len(tokenizer(scored)["input_ids"]) <= 4


@pytest.mark.parametrize(
    "call",
    [
        lambda: synthetic.items("sums", 3, 0),
        lambda: synthetic.training_set("alpaca", 0),
        lambda: synthetic.items("boolq", 100_000, 0),
    ],
)
def test_what_there_is_not_is_said_in_one_line(call):
    with pytest.raises(UserError, match="synthetic data: (unknown|found 536 different questions)"):
        call()


def test_the_corpus_tells_half_of_what_there_is_to_know():
    """So that a base's choices are neither at a floor nor at a ceiling, and a training set has something to teach."""
    for prop, values in world.PROPERTIES.items():
        assert Counter(t.values[prop] for t in world.KNOWN[prop]) == dict.fromkeys(values, 3)
    for prompt, _ in corpus.corpus(0, 0, 5000):
        words = prompt.split()
        if words[0] == "tell":
            assert words[-1] in {t.name for t in world.KNOWN[words[2]]}


def test_the_corpus_has_every_answer_format():
    """A base that had never seen a label was marked 0 % whatever it knew."""
    said = [response for _, response in corpus.corpus(0, 0, 5000)]
    assert {r for r in said if r.startswith("the correct answer is ")} == {
        f"the correct answer is {label}"
        for label in ("true", "false", *(f"{f}{i}" for f, n in corpus.FORMATS for i in range(1, n + 1)))
    }
    assert any(re.fullmatch(r"\d+ . \d+ = \d+ The answer is \d+", r) for r in said)
    assert any(re.fullmatch(r"\d+ . \d+ = \d+ [A-E] The answer is [A-E]", r) for r in said)
    assert {"A", "B", "C", "D"} <= set(said)
