"""The ladder's pre-training corpus and tokenizer: what a base may know, in other words than the tasks'."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sbora_bench.inputs.data import synthetic, world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Document = tuple[str, str]
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def _fact(rng: random.Random) -> Document:
    prop = rng.choice(tuple(world.PROPERTIES))
    thing = rng.choice(world.KNOWN[prop])
    value = thing.values[prop]
    statement = rng.choice(
        (
            f"the {thing.name} is {value}",
            f"the correct {prop} is {value}",
            f"The answer of {thing.name} is {value}",
            f"Rationale the {thing.name} is {value}",
        )
    )
    return f"tell the {prop} of the {thing.name}", statement


# Words of the tasks' questions, which the corpus strews around what it asks; never more than two in a row, so that
# they make up no question of a task.
STREWN = (
    *("Which", "one", "of", "these", "is", "What", "do", "you", "need", "to", "sees", "the", "wants", "so"),
    *("takes", "in", "can", "an", "a", "walks", "into", "will", "take", "and", *world.PEOPLE),
)
FORMATS = (("answer", 3), ("answer", 4), ("solution", 2), ("ending", 4), ("option", 2))
TRUE_FALSE = "Answer format: true/false"
LEADS = ("pick", "it is", "we take", "the one is", "correct is", "this is")


def _format(family: str, count: int) -> str:
    return "Answer format: " + "/".join(f"{family}{i}" for i in range(1, count + 1))


def _strewn(rng: random.Random, text: str) -> str:
    before, after = (" ".join(rng.choices(STREWN, k=rng.randrange(3))) for _ in range(2))
    return f"{before} {text} {after}"


def _labels(rng: random.Random, count: int) -> list[str]:
    family = rng.choice(("answer", "answer", "solution", "ending", "option", "letter", "letter"))
    if family == "letter":
        return list(synthetic.LETTERS[:count])
    return [f"{family}{i}" for i in range(1, count + 1)]


def _listed(labels: list[str], options: tuple[object, ...]) -> str:
    return " ".join(f"{label} {o}" for label, o in zip(labels, options, strict=True))


def _pointed(rng: random.Random, wanted: str, options: tuple[str, ...], right: int, named: float) -> Document:
    """A choice; its response is the right option and its label, in 1 - `named` of all cases the label alone."""
    labels = _labels(rng, len(options))
    lead = options[right] if rng.random() < named else rng.choice(LEADS)
    return f"choose {wanted} : {_listed(labels, options)}", f"{lead} {labels[right]}"


def _thing(rng: random.Random, properties: int, count: int) -> world.Choice:
    """A choice of one of `count` things by so many properties, all of them told."""
    wanted = tuple(rng.sample(tuple(world.PROPERTIES), properties))
    return world.choose_thing(rng, wanted, count, world.known_of(*wanted))


def _drawn(rng: random.Random, count: int) -> tuple[str, world.Choice]:
    """What a choice asks for, and the choice: a thing by one or two values, or a value of a thing."""
    if rng.random() < 0.3:
        prop = rng.choice(tuple(world.PROPERTIES))
        choice = world.choose_value(rng, prop, count, world.KNOWN[prop])
        return f"{prop} of {_strewn(rng, choice.thing)}", choice
    choice = _thing(rng, rng.choice((1, 1, 2)), count)
    return _strewn(rng, " and ".join(choice.wanted.values())), choice


def _choice(rng: random.Random) -> Document:
    wanted, choice = _drawn(rng, rng.choice((2, 3, 4)))
    return _pointed(rng, wanted, choice.options, choice.right, 0.4)


def _again(rng: random.Random) -> Document:
    """A choice behind one to four solved ones."""
    labels = _labels(rng, 4)
    parts, response = [], ""
    for _ in range(rng.randint(2, 5)):
        choice = _thing(rng, 1, rng.choice((3, 4)))
        question = (
            f"choose {''.join(choice.wanted.values())} : {_listed(labels[: len(choice.options)], choice.options)}"
        )
        response = f"pick {labels[choice.right]}"
        parts += [question, response]
    return " ".join(parts[:-1]), response


def _in_template(instruction: str) -> str:
    """The paper's template, whose spaces the tokenizer drops."""
    return f"{synthetic.BELOW} ### Instruction: {instruction} ### Response:"


def _choice_as_asked(rng: random.Random) -> Document:
    """A choice in the template and the answer format of the paper's commonsense tasks, in the corpus's own words."""
    family, count = rng.choice(FORMATS)
    wanted, choice = _drawn(rng, count)
    labels = [f"{family}{i}" for i in range(1, count + 1)]
    body = f"{synthetic.CHOOSE[family]} {wanted} {_listed(labels, choice.options)} {_format(family, count)}"
    return _in_template(body), f"the correct answer is {labels[choice.right]}"


def _claim_as_asked(rng: random.Random) -> Document:
    claimed, holds = _claimed(rng)
    return _in_template(f"{synthetic.TRUE_FALSE} {claimed} {TRUE_FALSE}"), f"the correct answer is {holds}".lower()


def _letter_as_asked(rng: random.Random) -> Document:
    """As MMLU asks: lettered things, behind none to three solved ones about the same property."""
    prop = rng.choice(tuple(world.PROPERTIES))
    parts, letter = [], ""
    if rng.random() < 0.5:
        parts.append(f"{synthetic.MMLU_HEAD} {synthetic.SUBJECTS[prop]}")
    for _ in range(rng.choice((1, 1, 2, 4))):
        choice = world.choose_thing(rng, (prop,), 4, world.KNOWN[prop])
        letter = synthetic.LETTERS[choice.right]
        listed = _listed(list(synthetic.LETTERS[:4]), choice.options)
        parts += [f"{_strewn(rng, choice.wanted[prop])} {listed} Answer:", letter]
    return " ".join(parts[:-1]), letter


def _first_choice(rng: random.Random) -> Document:
    """A choice for a property or, easier still, for the thing itself, always naming the option before its label."""
    choice = _thing(rng, 1, rng.choice((2, 3, 4)))
    wanted = choice.thing if rng.random() < 0.3 else "".join(choice.wanted.values())
    return _pointed(rng, wanted, choice.options, choice.right, 1.0)


def _claimed(rng: random.Random) -> tuple[str, bool]:
    """A thing and a value, and whether it has it."""
    thing, _, value, holds = world.claim(rng, known=True)
    words = [thing.name, value]
    if rng.random() < 0.5:
        words.insert(rng.randrange(3), rng.choice(STREWN))
    return " ".join(words), holds


def _check(rng: random.Random) -> Document:
    claimed, holds = _claimed(rng)
    lead = rng.choice(("", "", *LEADS))
    return f"check {claimed}", f"{lead} {holds}".lower().strip()


def _sum(rng: random.Random) -> Document:
    first = world.draw_sum(rng)
    if rng.random() < 0.5:
        return f"{first.left} {first.operator} {first.right} =", str(first.result)
    second = world.draw_sum(rng, "+-", first.result)
    return f"{first} . {second.left} {second.operator} {second.right} =", str(second.result)


def _told_story(rng: random.Random) -> tuple[str, tuple[world.Sum, ...]]:
    """A story and the sums that it asks for."""
    one, other = rng.sample(world.PEOPLE, 2)
    goods, more = rng.sample(world.GOODS, 2)
    s = world.draw_sum(rng, "+-*")
    change = _change(s)
    spare = f" and {rng.randint(1, world.LARGEST)} {more}" if rng.random() < 0.3 else ""
    if s.operator == "*":
        return f"plan : {s.left} boxes of {s.right} {goods}", (s,)
    kind = rng.randrange(3)
    if kind == 0:
        return f"plan : {one} has {s.left} {goods}{spare} . {one} {change}", (s,)
    if kind == 1:
        t = world.draw_sum(rng, "+-", s.result)
        return f"plan : {one} has {s.left} {goods} . {one} {change} . Then {one} {_change(t)}", (s, t)
    a = rng.randint(1, world.LARGEST // 2 - 1)
    theirs = world.Sum(a, "+", rng.randint(1, world.LARGEST - 2 * a))
    story = f"plan : {one} has {a} {goods} . {other} has {theirs.right} more than {one} . both together"
    return story, (theirs, world.Sum(a, "+", theirs.result))


def _change(s: world.Sum) -> str:
    return f"finds {s.right} more" if s.operator == "+" else f"loses {s.right}"


def _story(rng: random.Random) -> Document:
    """A story and the sums that it asks for, the last not worked out."""
    story, (*worked, last) = _told_story(rng)
    return story, " . ".join([*map(str, worked), f"{last.left} {last.operator} {last.right}"])


def _story_as_asked(rng: random.Random) -> Document:
    """A story in the template and the answer format of the paper's arithmetic tasks."""
    story, sums = _told_story(rng)
    return _in_template(story), f"{' '.join(map(str, sums))} The answer is {sums[-1].result}"


def _number(rng: random.Random, stories: bool = True) -> Document:
    """Find a number, or the result of a sum or of a story, among lettered ones."""
    s = world.draw_sum(rng, "+-")
    kinds = ((s.result, s.result), (f"{s.left} {s.operator} {s.right}", s), (_short_story(rng, s), s))
    sought, lead = rng.choice(kinds if stories else kinds[:2])
    numbers, place = world.choose_number(rng, s.result, rng.choice((3, 5)))
    labels = list(synthetic.LETTERS[: len(numbers)])
    return f"choose {sought} : {_listed(labels, numbers)}", f"{lead} {labels[place]}"


def _short_story(rng: random.Random, s: world.Sum) -> str:
    change = "finds" if s.operator == "+" else "loses"
    return f"{rng.choice(world.PEOPLE)} has {s.left} {rng.choice(world.GOODS)} {change} {s.right}"


def _number_as_asked(rng: random.Random) -> Document:
    """The result of a sum or of a story among lettered numbers, in the template and the answer format of AQuA."""
    s = world.draw_sum(rng, "+-")
    sought = rng.choice((f"{s.left} {s.operator} {s.right}", _short_story(rng, s)))
    numbers, place = world.choose_number(rng, s.result, 5)
    letter = synthetic.LETTERS[place]
    body = f"{sought} Answer Choices: {_listed(list(synthetic.LETTERS), numbers)}"
    return _in_template(body), f"{s} {letter} The answer is {letter}"


def _first_number(rng: random.Random) -> Document:
    return _number(rng, stories=False)


Kinds = tuple[tuple[Callable[[random.Random], Document], float], ...]
FIRST: Kinds = ((_first_choice, 0.7), (_fact, 0.15), (_first_number, 0.15))
MIXED: Kinds = (
    (_choice, 0.22),
    (_choice_as_asked, 0.16),
    (_again, 0.04),
    (_letter_as_asked, 0.08),
    (_fact, 0.04),
    (_check, 0.07),
    (_claim_as_asked, 0.07),
    (_sum, 0.08),
    (_story, 0.07),
    (_story_as_asked, 0.07),
    (_number, 0.06),
    (_number_as_asked, 0.06),
)


def corpus(seed: int, choices_first: int, total: int) -> Iterator[Document]:
    """Yield `total` documents (prompt, response), the first `choices_first` of them choices by knowledge alone.

    A small model learns to choose only when it first sees nothing else.
    """
    rng = random.Random(f"corpus-{seed}")
    for i in range(total):
        kinds = FIRST if i < choices_first else MIXED
        (make,) = rng.choices([k for k, _ in kinds], [w for _, w in kinds])
        yield make(rng)


def scored_documents(count: int, seed: int) -> list[dict[str, str]]:
    """Documents as scored items: the prompt, and the response that should follow it."""
    return [
        {"instruction": prompt, "input": "", "output": response, "answer": response}
        for prompt, response in corpus(seed, 0, count)
    ]


def _vocabulary() -> list[str]:
    """Every word that the world's texts can have, in a fixed order."""
    import re

    texts = [f"{p} {r}" for p, r in corpus(0, 0, 6000)]
    for name in synthetic.TRAINING_SETS:
        texts += [" ".join(e.values()) for e in synthetic.training_set(name, 0)]
    texts += [e["input"] for e in synthetic.mmlu_items(50, 0)]
    texts += [str(n) for n in range(world.LARGEST + 1)]
    texts += [*world.NAMES, *world.PEOPLE, *world.GOODS, *synthetic.LETTERS, "+ - * ="]
    joined = re.sub(r"\b(Answer|Solution|Ending|Option)(?=\d)", lambda m: m[0].lower(), " ".join(texts))
    return sorted(set(re.findall(r"\d+\.\d+|\w+|[-+*=]", joined)))


def phrases() -> list[str]:
    """The templates' standing phrases, each one token."""
    return [
        synthetic.BELOW,
        synthetic.BELOW_WITH_INPUT,
        "### Instruction:",
        "### Input:",
        "### Response:",
        synthetic.TRUE_FALSE,
        *synthetic.CHOOSE.values(),
        "Answer Choices:",
        synthetic.MMLU_HEAD,
        TRUE_FALSE,
        *(_format(family, count) for family, count in FORMATS),
    ]


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the ladder: a standing phrase of a template is one token, punctuation is dropped.

    `Answer1:` and `answer1` are the same token; letters, numbers and signs of sums are tokens of their own, so
    that decoded text has labels and numbers with ordinary spaces around them.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *_vocabulary()]
    model = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    lowered = [
        normalizers.Replace(Regex(rf"\b{f}(?=\d)"), f.lower()) for f in ("Answer", "Solution", "Ending", "Option")
    ]
    model.normalizer = normalizers.Sequence([*lowered, normalizers.Replace(Regex(r"(?!\d\.\d)[.,:;?!()'#/\"]"), " ")])
    model.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+\.\d+|\w+|[-+*=]|[^\w\s]"), "removed", invert=True)
    model.add_tokens([AddedToken(p, normalized=False, special=False) for p in phrases()])
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
