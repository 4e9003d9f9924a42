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
    thing = rng.choice(world.THINGS)
    prop = rng.choice(tuple(world.PROPERTIES))
    value = thing.values[prop]
    told = rng.choice(
        (
            f"the {thing.name} is {value}",
            f"the correct {prop} is {value}",
            f"The answer of {thing.name} is {value}",
            f"Rationale the {thing.name} is {value}",
        )
    )
    return f"tell the {prop} of the {thing.name}", told


# Words of the tasks' questions, which the corpus strews around what it asks; never more than two in a row, so that
# they make up no question of a task.
STREWN = (
    *("Which", "one", "of", "these", "is", "What", "do", "you", "need", "to", "sees", "the", "wants", "so"),
    *("takes", "in", "can", "an", "a", "walks", "into", "will", "take", "and", *world.PEOPLE),
)
LEADS = ("pick", "it is", "we take", "the one is", "correct is", "this is")


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


def _pointed(rng: random.Random, asked: str, options: tuple[str, ...], right: int, named: float) -> Document:
    """A choice; its response is the right option and its label, in 1 - `named` of all cases the label alone."""
    labels = _labels(rng, len(options))
    lead = options[right] if rng.random() < named else rng.choice(LEADS)
    return f"choose {asked} : {_listed(labels, options)}", f"{lead} {labels[right]}"


def _drawn(rng: random.Random) -> tuple[str, world.Choice]:
    """What a choice asks for, and the choice: a thing by one or two values, or a value of a thing."""
    count = rng.choice((2, 3, 4))
    if rng.random() < 0.3:
        prop = rng.choice(tuple(world.PROPERTIES))
        choice = world.choose_value(rng, prop, count)
        return f"{prop} of {_strewn(rng, choice.thing)}", choice
    choice = world.choose_thing(rng, tuple(rng.sample(tuple(world.PROPERTIES), rng.choice((1, 1, 2)))), count)
    return _strewn(rng, " and ".join(choice.asked.values())), choice


def _choice(rng: random.Random) -> Document:
    asked, choice = _drawn(rng)
    return _pointed(rng, asked, choice.options, choice.right, 0.4)


def _again(rng: random.Random) -> Document:
    """A choice behind one to four solved ones."""
    labels = _labels(rng, 4)
    parts, response = [], ""
    for _ in range(rng.randint(2, 5)):
        choice = world.choose_thing(rng, (rng.choice(tuple(world.PROPERTIES)),), rng.choice((3, 4)))
        asked = f"choose {''.join(choice.asked.values())} : {_listed(labels[: len(choice.options)], choice.options)}"
        response = f"pick {labels[choice.right]}"
        parts += [asked, response]
    return " ".join(parts[:-1]), response


def _talk(rng: random.Random) -> Document:
    """A choice in the paper's template; the response is a sentence without any label."""
    asked, choice = _drawn(rng)
    body = f"choose {asked} : {_listed(_labels(rng, len(choice.options)), choice.options)}"
    told = f"the {choice.options[choice.right]} is correct"
    return f"{synthetic.BELOW} ### Instruction: {body} ### Response:", told


def _first_choice(rng: random.Random) -> Document:
    """A choice for a property or, easier still, for the thing itself, always naming the option before its label."""
    choice = world.choose_thing(rng, (rng.choice(tuple(world.PROPERTIES)),), rng.choice((2, 3, 4)))
    asked = choice.thing if rng.random() < 0.3 else "".join(choice.asked.values())
    return _pointed(rng, asked, choice.options, choice.right, 1.0)


def _check(rng: random.Random) -> Document:
    thing, _, value, holds = world.claim(rng)
    words = [thing.name, value]
    if rng.random() < 0.5:
        words.insert(rng.randrange(3), rng.choice(STREWN))
    lead = rng.choice(("", "", *LEADS))
    return f"check {' '.join(words)}", f"{lead} {holds}".lower().strip()


def _sum(rng: random.Random) -> Document:
    first = world.draw_sum(rng)
    if rng.random() < 0.5:
        return f"{first.left} {first.operator} {first.right} =", str(first.result)
    second = world.draw_sum(rng, "+-", first.result)
    return f"{first} . {second.left} {second.operator} {second.right} =", str(second.result)


def _story(rng: random.Random) -> Document:
    """A story and the sum it asks for, not worked out."""
    one, other = rng.sample(world.PEOPLE, 2)
    goods, more = rng.sample(world.GOODS, 2)
    s = world.draw_sum(rng, "+-*")
    change = f"finds {s.right} more" if s.operator == "+" else f"loses {s.right}"
    spare = f" and {rng.randint(1, world.LARGEST)} {more}" if rng.random() < 0.3 else ""
    if s.operator == "*":
        return f"plan : {s.left} boxes of {s.right} {goods}", f"{s.left} * {s.right}"
    kind = rng.randrange(3)
    if kind == 0:
        return (
            f"plan : {one} has {s.left} {goods}{spare} . {one} {change}",
            f"{s.left} {s.operator} {s.right}",
        )
    if kind == 1:
        t = world.draw_sum(rng, "+-", s.result)
        then = f"finds {t.right} more" if t.operator == "+" else f"loses {t.right}"
        return (
            f"plan : {one} has {s.left} {goods} . {one} {change} . Then {one} {then}",
            f"{s} . {t.left} {t.operator} {t.right}",
        )
    a = rng.randint(1, world.LARGEST // 2 - 1)
    theirs = world.Sum(a, "+", rng.randint(1, world.LARGEST - 2 * a))
    return (
        f"plan : {one} has {a} {goods} . {other} has {theirs.right} more than {one} . both together",
        f"{theirs} . {a} + {theirs.result}",
    )


def _number(rng: random.Random, stories: bool = True) -> Document:
    """Find a number, or the result of a sum or of a story, among lettered ones."""
    s = world.draw_sum(rng, "+-")
    change = "finds" if s.operator == "+" else "loses"
    story = f"{rng.choice(world.PEOPLE)} has {s.left} {rng.choice(world.GOODS)} {change} {s.right}"
    kinds = ((s.result, s.result), (f"{s.left} {s.operator} {s.right}", s), (story, s))
    sought, told = rng.choice(kinds if stories else kinds[:2])
    numbers, place = world.choose_number(rng, s.result, rng.choice((3, 5)))
    labels = list(synthetic.LETTERS[: len(numbers)])
    return f"choose {sought} : {_listed(labels, numbers)}", f"{told} {labels[place]}"


def _first_number(rng: random.Random) -> Document:
    return _number(rng, stories=False)


Kinds = tuple[tuple[Callable[[random.Random], Document], float], ...]
FIRST: Kinds = ((_first_choice, 0.7), (_fact, 0.15), (_first_number, 0.15))
MIXED: Kinds = (
    (_choice, 0.32),
    (_again, 0.05),
    (_talk, 0.07),
    (_fact, 0.04),
    (_check, 0.14),
    (_sum, 0.1),
    (_story, 0.13),
    (_number, 0.15),
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


def items(count: int, seed: int) -> list[dict[str, str]]:
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
    formats = ["true/false"] + ["/".join(f"{f}{i}" for i in range(1, n + 1)) for f, n in FORMATS]
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
        *(f"Answer format: {f}" for f in formats),
    ]


FORMATS = (("answer", 3), ("answer", 4), ("solution", 2), ("ending", 4), ("option", 2))


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
