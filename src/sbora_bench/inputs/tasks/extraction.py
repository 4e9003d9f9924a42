"""How an answer is read out of a response: rules by name, each of them data.

A rule removes what `drop` matches, then tries its patterns in order; the first that matches gives the answer: that
pattern's first or last match (its group, where it has one). No match is no answer, the empty string.
"""

import re
from fractions import Fraction
from typing import TypedDict

HEADER = "### Response:"  # of every prompt template that has one


class Rule(TypedDict):
    drop: str
    patterns: list[tuple[str, str]]


RULES: dict[str, Rule] = {
    # The authors' rule for the five number tasks: every comma goes, the last number counts.
    "last-number": {"drop": r",", "patterns": [(r"-?\d+\.?\d*", "last")]},
    # The number that is said to be the answer, else the last one. Commas go between thousands only, a minus after a
    # digit subtracts, a/b is one number.
    "stated-number": {
        "drop": r"(?<=\d),(?=\d{3}(?!\d))",
        "patterns": [
            (r"(?i:answer is|####)\s*:?\s*\$?\s*(-?\d+(?:\.\d+)?(?:/[1-9]\d*)?)", "last"),
            (r"(?<![\d.])-?\d+(?:\.\d+)?(?:/[1-9]\d*)?", "last"),
        ],
    },
    # The authors' rule for AQuA: the first of these capitals anywhere, inside a word too.
    "first-capital": {"drop": "", "patterns": [(r"[ABCDE]", "first")]},
    # The option that is said to be the answer, else the last one in parentheses, else a response that is one letter.
    "stated-option": {
        "drop": "",
        "patterns": [
            (r"(?i:answer is)\s*:?\s*\(?\s*([A-E])\b", "last"),
            (r"\(\s*([A-E])\s*\)", "last"),
            (r"^\W*([A-E])\W*$", "first"),
        ],
    },
}


def extract(text: str, rule: Rule) -> str:
    """The answer that `rule` reads out of `text`, or the empty string."""
    if rule["drop"]:
        text = re.sub(rule["drop"], "", text)
    for pattern, which in rule["patterns"]:
        if found := re.findall(pattern, text):
            return found[0 if which == "first" else -1]
    return ""


def response(generated: str, keep: str) -> str:
    """The part of a generated text that counts where the model wrote the prompt's header again.

    `first` is what stands before that header (authors' arithmetic: part 1 of prompt and text), `last` what follows the
    last one (authors' commonsense: part -1).
    """
    return generated.split(HEADER)[0 if keep == "first" else -1].strip()


def number(text: str) -> float:
    """The number that `text` spells, as `12`, `-3.5` or `3/4`; infinity if it spells none (authors' code)."""
    try:
        return float(Fraction(text) if "/" in text else text)
    except ValueError:
        return float("inf")
