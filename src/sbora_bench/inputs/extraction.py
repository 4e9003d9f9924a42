"""How an answer is read out of a response: rules by name, each of them data.

A rule removes what `drop` matches, then tries its patterns in order; the first that matches gives the answer: that
pattern's first or last match (its group, where it has one). No match is no answer, the empty string.
"""

import re
from decimal import Decimal, DecimalException
from fractions import Fraction
from typing import TypedDict

HEADER = "### Response:"  # of every prompt template that has one


class Rule(TypedDict):
    drop: str
    patterns: list[tuple[str, str]]


RULES: dict[str, Rule] = {
    # The authors' rule for the five number tasks: every comma goes, the last number counts.
    "last-number": {"drop": r",", "patterns": [(r"-?\d+\.?\d*", "last")]},
    # The number that is said to be the answer, else the last one. Commas and thin spaces go between thousands only,
    # signs of money before a number; a minus after a digit subtracts, a/b is one number.
    "stated-number": {
        "drop": r"(?<=\d)[,\u00a0\u2009\u202f](?=\d{3}(?!\d))|[$€£](?=\s*[-−.\d])",
        "patterns": [
            (r"(?i:answer is|####)\s*:?\s*([-−]?(?:\d+(?:\.\d+)?|\.\d+)(?:/[1-9]\d*)?)", "last"),
            (r"(?:(?<![\d.])[-−]?\d+(?:\.\d+)?|(?<![\w.])[-−]?\.\d+)(?:/[1-9]\d*)?", "last"),
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
    # PEFT's comparison on MetaMathQA: the line after the last of the first of these phrases that occurs.
    "stated-line": {
        "drop": "",
        "patterns": [
            (rf"(?s:.*){phrase}\s*(\S[^\n]*)", "first")
            for phrase in (
                "The answer is: ",
                "The answer is ",
                "The final answer is: ",
                "The final answer is ",
                "#### ",
            )
        ],
    },
}


def extract(text: str, rule: Rule) -> str:
    """The answer that `rule` reads out of `text`, or the empty string."""
    if rule["drop"]:
        text = re.sub(rule["drop"], "", text)
    for pattern, which in rule["patterns"]:
        if matches := re.findall(pattern, text):
            return matches[0 if which == "first" else -1]
    return ""


def response(generated: str, keep: str) -> str:
    """The part of a generated text that counts where the model wrote the prompt's header again.

    `first` is what stands before that header (authors' arithmetic: part 1 of prompt and text), `last` what follows the
    last one (authors' commonsense: part -1).
    """
    return generated.split(HEADER)[0 if keep == "first" else -1].strip()


def answer_value(text: str) -> float | str:
    """What a stated line means in PEFT's comparison: a decimal number or a fraction of two, else the text itself,
    without spaces, marks and signs of money and per cent at its ends.
    """
    bare = text.split("\n")[0].strip(" .!?$%")
    try:
        parts = [Decimal(part.strip()) for part in bare.split("/")]
        if len(parts) <= 2:
            return float(parts[0] / parts[1] if len(parts) == 2 else parts[0])
    except (DecimalException, ValueError):
        pass
    return bare


def number(text: str) -> float:
    """The number that `text` spells, as `12`, `-3.5` or `3/4`; infinity if it spells none (authors' code)."""
    text = text.replace("−", "-")
    try:
        return float(Fraction(text) if "/" in text else text)
    except (ValueError, ArithmeticError):  # 1/0 is none either
        return float("inf")
