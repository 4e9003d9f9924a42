"""The ladder's pre-training corpus and tokenizer: what a base may know, in other words than the tasks'."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sbora_bench.data import synthetic, world

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
        )
    )
    return f"tell the {prop} of the {thing.name}", told


def _labels(rng: random.Random, count: int) -> list[str]:
    family = rng.choice(("answer", "answer", "solution", "ending", "option", "letter"))
    if family == "letter":
        return list(synthetic.LETTERS[:count])
    return [f"{family}{i}" for i in range(1, count + 1)]


def _pointed(rng: random.Random, head: str, options: tuple[str, ...], right: int) -> Document:
    labels = _labels(rng, len(options))
    listed = " ".join(f"{label} {o}" for label, o in zip(labels, options, strict=True))
    lead = rng.choice((f"{options[right]} so", "pick"))
    return f"{head} : {listed}", f"{lead} {labels[right]}"


FILLERS = (
    "",
    "Which one is",
    "What do you need to",
    "sees the",
    "wants",
    "so takes the",
    "Which of these can",
)


def _choice(rng: random.Random) -> Document:
    properties = tuple(rng.sample(tuple(world.PROPERTIES), rng.choice((1, 1, 1, 2))))
    choice = world.choose_thing(rng, properties, rng.choice((2, 3, 4)))
    asked = " and ".join(choice.asked.values())
    return _pointed(rng, f"choose {rng.choice(FILLERS)} {asked}", choice.options, choice.right)


def _value(rng: random.Random) -> Document:
    prop = rng.choice(tuple(world.PROPERTIES))
    choice = world.choose_value(rng, prop, rng.choice((2, 3, 4)))
    return _pointed(rng, f"choose {prop} of {choice.thing}", choice.options, choice.right)


def _check(rng: random.Random) -> Document:
    thing, prop, value, holds = world.claim(rng)
    return f"check {thing.name} {value}", str(holds).lower()


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


def _number(rng: random.Random) -> Document:
    right = rng.randint(0, world.LARGEST)
    numbers, place = world.choose_number(rng, right, rng.choice((3, 4, 5)))
    labels = list(synthetic.LETTERS[: len(numbers)])
    listed = " ".join(f"{label} {n}" for label, n in zip(labels, numbers, strict=True))
    return f"choose {right} : {listed}", f"{right} so {labels[place]}"


CHOICES: tuple[tuple[Callable[[random.Random], Document], float], ...] = ((_choice, 0.8), (_value, 0.2))
MIXED: tuple[tuple[Callable[[random.Random], Document], float], ...] = (
    (_choice, 0.3),
    (_value, 0.1),
    (_fact, 0.05),
    (_check, 0.15),
    (_sum, 0.15),
    (_story, 0.2),
    (_number, 0.05),
)


def corpus(seed: int, choices_first: int, total: int) -> Iterator[Document]:
    """Yield `total` documents (prompt, response), the first `choices_first` of them choices by knowledge alone.

    A small model learns to choose only when it first sees nothing else.
    """
    rng = random.Random(f"corpus-{seed}")
    for i in range(total):
        kinds = CHOICES if i < choices_first else MIXED
        (make,) = rng.choices([k for k, _ in kinds], [w for _, w in kinds])
        yield make(rng)


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
        normalizers.Replace(Regex(rf"\b{f}(?=\d)"), f.lower())
        for f in ("Answer", "Solution", "Ending", "Option")
    ]
    model.normalizer = normalizers.Sequence(
        [*lowered, normalizers.Replace(Regex(r"(?!\d\.\d)[.,:;?!()'#/\"]"), " ")]
    )
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
