"""The ladder's own data: pre-training corpus, training sets, test items and tokenizer, all drawn from `world`.

Test items and training examples have the files' format of LLM-Adapters (protocol section 6) and of five-shot
MMLU (section 5). A question belongs to the test or to the training side by a checksum of its normalised text,
so no test question can stand in a training set; the corpus says the same things in other words.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

from sbora_bench.errors import UserError
from sbora_bench.inputs.data import world

LETTERS = "ABCDE"
BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
BELOW_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
TRUE_FALSE = "Please answer the following question with true or false, question:"
CHOOSE = {
    "answer": "Please choose the correct answer to the question:",
    "solution": "Please choose the correct solution to the question:",
    "ending": "Please choose the correct ending to complete the given sentence:",
    "option": "Please choose the correct answer to fill in the blank to complete the given sentence:",
}
MMLU_HEAD = "The following are multiple choice questions (with answers) about"
SHOTS = 5
SUBJECTS = {"kind": "natural kinds", "colour": "colours", "place": "geography", "use": "household arts"}


def question_key(text: str) -> str:
    """Lower-case words and numbers of `text`, joined by single spaces: two questions are the same if these are."""
    return " ".join(re.findall(r"\w+", text.lower()))


def is_test(question: str) -> bool:
    """Whether a question belongs to the test side (a quarter of all do)."""
    return zlib.crc32(question_key(question).encode()) % 4 == 0


def _labels(family: str, count: int) -> list[str]:
    return [f"{family}{i}" for i in range(1, count + 1)]


def _format(family: str, count: int) -> str:
    return "Answer format: " + "/".join(_labels(family, count))


def _example(instruction: str, output: str, answer: str) -> dict[str, str]:
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


def _chosen(family: str, question: str, choice: world.Choice, between: str = " ") -> dict[str, str]:
    labels = _labels(family, len(choice.options))
    options = between.join(f"{label.capitalize()}: {o}" for label, o in zip(labels, choice.options, strict=True))
    # WinoGrande's files have a space, the others an empty line, before the answer format.
    gap = " " if family == "option" else "\n\n"
    text = f"{CHOOSE[family]} {question}\n\n{options}{gap}{_format(family, len(labels))}"
    label = labels[choice.right]
    return _example(text, f"the correct answer is {label}", label)


def _an(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


# What a question asks of a thing, by property: "Which of these ...?"
ASKED = {
    "kind": lambda v: f"is {_an(v)}",
    "colour": lambda v: f"is {v}",
    "place": lambda v: f"is in the {v}",
    "use": lambda v: f"can {v}",
}


def _boolq(rng: random.Random) -> dict[str, str]:
    thing, prop, value, holds = world.claim(rng)
    whose = f"the {thing.name} of {rng.choice(world.PEOPLE)}"
    question = {
        "kind": f"is {whose} {_an(value)}?",
        "colour": f"is {whose} {value}?",
        "place": f"is {whose} in the {value}?",
        "use": f"can {whose} {value}?",
    }[prop]
    label = str(holds).lower()
    text = f"{TRUE_FALSE} {question}\n\nAnswer format: true/false"
    return _example(text, f"the correct answer is {label}", label)


def _piqa(rng: random.Random) -> dict[str, str]:
    choice = world.choose_thing(rng, ("use",), 2)
    question = f"What do you need to {choice.wanted['use']}?"
    return _chosen("solution", question, choice, between="\n\n")


def _social_i_qa(rng: random.Random) -> dict[str, str]:
    choice = world.choose_thing(rng, (rng.choice(("kind", "use")),), 3)
    person = rng.choice(world.PEOPLE)
    wish = f"wants to {choice.wanted['use']}" if "use" in choice.wanted else f"wants {_an(choice.wanted['kind'])}"
    return _chosen("answer", f"{person} {wish}. What will {person} take?", choice)


def _hellaswag(rng: random.Random) -> dict[str, str]:
    choice = world.choose_thing(rng, ("place",), 4)
    person = rng.choice(world.PEOPLE)
    return _chosen("ending", f"{person} walks into the {choice.wanted['place']} and sees the", choice)


def _winogrande(rng: random.Random) -> dict[str, str]:
    choice = world.choose_thing(rng, ("colour",), 2)
    one, other = rng.sample(world.PEOPLE, 2)
    return _chosen("option", f"{one} wants {choice.wanted['colour']} so {other} takes the _.", choice)


def _arc_easy(rng: random.Random) -> dict[str, str]:
    prop = rng.choice(tuple(world.PROPERTIES))
    choice = world.choose_thing(rng, (prop,), 4)
    return _chosen("answer", f"Which of these {ASKED[prop](choice.wanted[prop])}?", choice)


def _arc_challenge(rng: random.Random) -> dict[str, str]:
    pair = tuple(rng.sample(tuple(world.PROPERTIES), 2))
    choice = world.choose_thing(rng, pair, 4)
    one, other = (ASKED[p](choice.wanted[p]) for p in pair)
    return _chosen("answer", f"Which of these {one} and {other}?", choice)


def _openbookqa(rng: random.Random) -> dict[str, str]:
    prop = rng.choice(tuple(world.PROPERTIES))
    choice = world.choose_value(rng, prop, 4)
    return _chosen("answer", f"What is the {prop} of the {choice.thing}?", choice)


def _worked(*sums: world.Sum) -> str:
    return " ".join(f"{s}." for s in sums)


def _solved(question: str, *sums: world.Sum) -> dict[str, str]:
    result = sums[-1].result
    return _example(question, f"{_worked(*sums)} The answer is {result}.", str(float(result)))


def _scene(rng: random.Random) -> tuple[str, str, str, str]:
    one, other = rng.sample(world.PEOPLE, 2)
    goods, more = rng.sample(world.GOODS, 2)
    return one, other, goods, more


def _changes(one: str, s: world.Sum) -> str:
    return f"{one} finds {s.right} more" if s.operator == "+" else f"{one} loses {s.right}"


def _add_sub(rng: random.Random) -> dict[str, str]:
    one, _, goods, _ = _scene(rng)
    s = world.draw_sum(rng, "+-")
    return _solved(f"{one} has {s.left} {goods}. {_changes(one, s)}. How many {goods} are there now?", s)


def _single_eq(rng: random.Random) -> dict[str, str]:
    one, _, goods, _ = _scene(rng)
    s = world.draw_sum(rng)
    if s.operator == "*":
        return _solved(f"There are {s.left} boxes of {s.right} {goods}. How many {goods} are there?", s)
    return _solved(f"There are {s.left} {goods}. {_changes(one, s)}. How many {goods} are there?", s)


def _svamp(rng: random.Random) -> dict[str, str]:
    one, _, goods, more = _scene(rng)
    s = world.draw_sum(rng, "+-")
    spare = rng.randint(1, world.LARGEST)
    return _solved(
        f"{one} has {s.left} {goods} and {spare} {more}. {_changes(one, s)} {goods}. How many {goods} does {one} have?",
        s,
    )


def _multi_arith(rng: random.Random) -> dict[str, str]:
    one, _, goods, _ = _scene(rng)
    first = world.draw_sum(rng, "+-")
    second = world.draw_sum(rng, "+-", first.result)
    return _solved(
        f"{one} has {first.left} {goods}. {_changes(one, first)}. Then {_changes(one, second)}. "
        f"How many {goods} are there in all?",
        first,
        second,
    )


def _gsm8k(rng: random.Random) -> dict[str, str]:
    one, other, goods, _ = _scene(rng)
    a = rng.randint(1, world.LARGEST // 2 - 1)
    b = rng.randint(1, world.LARGEST - 2 * a)
    theirs = world.Sum(a, "+", b)
    return _solved(
        f"{one} has {a} {goods}. {other} has {b} more than {one}. How many {goods} do both have together?",
        theirs,
        world.Sum(a, "+", theirs.result),
    )


def _aqua(rng: random.Random) -> dict[str, str]:
    one, _, goods, _ = _scene(rng)
    s = world.draw_sum(rng, "+-")
    numbers, right = world.choose_number(rng, s.result, 5)
    options = " ".join(f"({letter}) {n}" for letter, n in zip(LETTERS, numbers, strict=True))
    text = f"If {one} has {s.left} {goods} and {_changes(one, s)}, what is left? Answer Choices: {options}"
    letter = LETTERS[right]
    return _example(text, f"{s} ({letter}). The answer is ({letter}).", letter)


TASKS: dict[str, Callable[[random.Random], dict[str, str]]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "social_i_qa": _social_i_qa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "ARC-Easy": _arc_easy,
    "ARC-Challenge": _arc_challenge,
    "openbookqa": _openbookqa,
    "MultiArith": _multi_arith,
    "gsm8k": _gsm8k,
    "AddSub": _add_sub,
    "AQuA": _aqua,
    "SingleEq": _single_eq,
    "SVAMP": _svamp,
}
TRAINING_SETS = {
    "ladder-commonsense": tuple(TASKS)[:8],
    "ladder-math": tuple(TASKS)[8:],
    "ladder-instruct": (),
}
EXAMPLES_A_TASK = 500
INSTRUCT_EXAMPLES = 2000
PATIENCE = 2000
"""Draws in a row without a new question after which the world is taken to have no more."""


def _draw(
    make: Callable[[random.Random], dict[str, str]], n: int, rng: random.Random, test: bool, key: str
) -> list[dict[str, str]]:
    """Draw n examples of one side, no question twice."""
    seen: set[str] = set()
    made: list[dict[str, str]] = []
    misses = 0
    while len(made) < n and misses < PATIENCE:
        example = make(rng)
        question = question_key(example[key])
        misses += 1
        if is_test(question) == test and question not in seen:
            seen.add(question)
            made.append(example)
            misses = 0
    if len(made) == n:
        return made
    raise UserError(f"synthetic data: found {len(made)} different questions, wanted {n}; lower rows")


def items(task: str, n: int, seed: int) -> list[dict[str, str]]:
    """n different test items of one of the fourteen tasks: instruction, input, output, answer (LLM-Adapters).

    Raises UserError for an unknown task, or where the world has no n different questions.
    """
    if task not in TASKS:
        raise UserError(f"synthetic data: unknown task {task!r}; known: {', '.join(TASKS)}")
    return _draw(TASKS[task], n, random.Random(f"items-{task}-{seed}"), True, "instruction")


def _lettered(rng: random.Random) -> tuple[str, str, str]:
    """(subject, question with options A to D, letter)."""
    prop = rng.choice(tuple(world.PROPERTIES))
    choice = world.choose_thing(rng, (prop,), 4)
    options = "\n".join(f"{letter}. {o}" for letter, o in zip(LETTERS[:4], choice.options, strict=True))
    question = f"Which one {ASKED[prop](choice.wanted[prop])}?\n{options}\nAnswer:"
    return prop, question, LETTERS[choice.right]


def _shot(rng: random.Random, prop: str | None = None) -> str:
    """A solved question of the training side, about one property if `prop` is given."""
    while True:
        other, question, letter = _lettered(rng)
        if prop in (None, other) and not is_test(question):
            return f"{question} {letter}"


def _mmlu(rng: random.Random) -> dict[str, str]:
    prop, question, letter = _lettered(rng)
    shots = [_shot(rng, prop) for _ in range(SHOTS)]
    # Two spaces before the subject, as in the published files.
    return {
        "subject": SUBJECTS[prop],
        "input": "\n\n".join([f"{MMLU_HEAD}  {SUBJECTS[prop]}.", *shots, question]),
        "output": letter,
        "question": question,
    }


def mmlu_items(n: int, seed: int) -> list[dict[str, str]]:
    """n five-shot items in the format of five_shot_mmlu_*.json: subject, input, output (a letter A to D)."""
    made = _draw(_mmlu, n, random.Random(f"mmlu-{seed}"), True, "question")
    return [{k: e[k] for k in ("subject", "input", "output")} for e in made]


def _instruct(rng: random.Random) -> dict[str, str]:
    """One raw input and its target: a lettered question behind none to five solved ones."""
    shots = [_shot(rng) for _ in range(rng.choice((0, 1, 2, 5)))]
    _, question, letter = _lettered(rng)
    return {
        "instruction": "",
        "input": "\n\n".join([*shots, question]),
        "output": letter,
        "question": question,
    }


def training_set(name: str, seed: int) -> list[dict[str, str]]:
    """The examples of `ladder-commonsense`, `ladder-math` (LLM-Adapters' keys) or `ladder-instruct`.

    `ladder-instruct` holds raw inputs and targets as Flan does (keys instruction, always empty, input, output).
    Raises UserError for another name.
    """
    if name not in TRAINING_SETS:
        raise UserError(f"synthetic data: unknown training set {name!r}; known: {', '.join(TRAINING_SETS)}")
    rng = random.Random(f"{name}-{seed}")
    if not TRAINING_SETS[name]:
        made = _draw(_instruct, INSTRUCT_EXAMPLES, rng, False, "question")
        return [{k: e[k] for k in ("instruction", "input", "output")} for e in made]
    made = [e for t in TRAINING_SETS[name] for e in _draw(TASKS[t], EXAMPLES_A_TASK, rng, False, "instruction")]
    rng.shuffle(made)
    return made
