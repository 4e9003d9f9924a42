"""Which test questions stand in a training set: the same words, whatever the case and the punctuation."""

import re
from collections.abc import Iterable, Mapping

# A solved or open question of a few-shot prompt ends here (MMLU's format, protocol section 4).
ANSWER = re.compile(r"\nAnswer:(?: *[A-Z]\b)?(?:\n\n|\s*$)")
HEADER = re.compile(r"^The following are multiple choice questions[^\n]*\n\n")


def normalise(text: str) -> str:
    """The words and numbers of `text`, case-folded and joined by single spaces."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def questions(text: str) -> list[str]:
    """The questions of a prompt, normalised: those of a few-shot prompt each, else the whole text."""
    blocks = ANSWER.split(HEADER.sub("", text))
    return [question for question in map(normalise, blocks) if question]


def last_question(example: Mapping[str, str]) -> str:
    """The question that an item asks: of a few-shot prompt the last one, else instruction and input as they stand."""
    in_order = questions(f"{example['instruction']} {example['input']}".strip())
    return in_order[-1] if in_order else ""


def trained_questions(training: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The questions of a training set, normalised: alone or as a shot of a prompt."""
    trained_on: set[str] = set()
    for example in training:
        trained_on.update(questions(f"{example['instruction']} {example['input']}".strip()))
        trained_on.update(questions(example["instruction"]))
    return frozenset(trained_on)


def asked_in(items: Iterable[Mapping[str, str]], trained_on: frozenset[str]) -> list[int]:
    """Indices of the items whose question is one of `trained_on` (`trained_questions`)."""
    return [index for index, item in enumerate(items) if last_question(item) in trained_on]


def contaminated(items: Iterable[Mapping[str, str]], training: Iterable[Mapping[str, str]]) -> list[int]:
    """Indices of the items whose question stands in the training set, alone or as a shot of a prompt."""
    return asked_in(items, trained_questions(training))
