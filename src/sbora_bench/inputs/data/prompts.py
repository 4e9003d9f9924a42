"""The prompt templates of training and scoring, by name, in one place (protocol section 4, byte for byte).

A template turns an instruction and an input into the text before the response; the response follows at once. The
official templates differ between training and scoring by spaces, which is part of the authors' protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.data import chat
from sbora_bench.inputs.data.examples import Example, jinja
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.data_entries import LmEvalData

ALONE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
INDENT = " " * 16


class Template(NamedTuple):
    """Format strings over `instruction` and `input`, for an empty input and for any other."""

    without_input: str
    with_input: str


def _official(separator: str, after_alone: str, after_paired: str) -> Template:
    """LLM-Adapters' template; training and scoring differ in the separator line and the spaces of the first."""

    def text(first: str, *sections: str) -> str:
        return f"{first}\n\n{INDENT}" + f"\n{separator}\n{INDENT}".join(sections)

    instruction = f"### Instruction:\n{INDENT}{{instruction}}"
    given = f"### Input:\n{INDENT}{{input}}"
    response = f"### Response:\n{INDENT}"
    return Template(
        text(ALONE + after_alone, instruction, response),
        text(PAIRED + after_paired, instruction, given, response),
    )


def _alpaca(end: str) -> Template:
    instruction, given = "\n\n### Instruction:\n{instruction}", "\n\n### Input:\n{input}"
    response = f"\n\n### Response:{end}"
    return Template(f"{ALONE}{instruction}{response}", f"{PAIRED}{instruction}{given}{response}")


RAW = Template("{instruction}", "{instruction}{input}")

TEMPLATES = {
    "llm-adapters-train": _official(INDENT, "  ", " "),
    "llm-adapters-score": _official("", " ", ""),
    "alpaca": _alpaca(" "),
    "clean": _alpaca("\n"),
    "plain": RAW,
    "mmlu": RAW,  # the published items are whole prompts: subject, five solved questions, the question
}


@dataclass(frozen=True)
class Prompt:
    """What makes an example's prompt: its text, or messages that a tokenizer's chat template makes it of later."""

    text: Callable[[Example], str]
    messages: Callable[[Example], list[chat.Message]] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, example: Example) -> str:
        return self.text(example)

    def columns(self, example: Example) -> dict[str, Any]:
        """The prompt as a prepared row has it."""
        if self.messages is None:
            return {"prompt": self.text(example)}
        messages = self.messages(example)
        return {"prompt": chat.plain_text(messages), chat.MESSAGES: messages, chat.ARGUMENTS: self.arguments}


def prompt_of(catalog: Catalog, name: str) -> Prompt:
    """What makes an example's prompt: the template of that name, of the catalog's `prompts` or one of ours.

    Raises UserError for an unknown name and for a template that is no Jinja; the prompt does for a row that lacks what
    the template names.
    """
    if name not in catalog.prompts:
        if name not in TEMPLATES:
            raise UserError(f"protocol: prompt: {one_of(name, [*TEMPLATES, *catalog.prompts], 'prompt template')}")
        return Prompt(lambda example: render(name, example["instruction"], example["input"]))
    entry = catalog.prompts[name]
    where = f"{catalog.where('prompts', name)}.{'chat' if entry.chat else 'jinja'}"
    if entry.chat:
        messages = _placed(chat.messages_by(entry, where), where)
        return Prompt(lambda example: chat.plain_text(messages(example)), messages, entry.arguments)
    return Prompt(_placed(jinja(entry.jinja, where), where))


T = TypeVar("T")


def _placed(fill: Callable[[Example], T], where: str) -> Callable[[Example], T]:
    """`fill`, its messages beginning with the entry's place."""

    def filled(example: Example) -> T:
        try:
            return fill(example)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    return filled


def prompt_of_items(catalog: Catalog, entry_name: str, name: str) -> Prompt:
    """What makes the prompt of a data entry's items: the template, or lm-eval where they are a task's of its own."""
    if isinstance(catalog.data[entry_name], LmEvalData):
        return Prompt(itemgetter("prompt"))
    return prompt_of(catalog, name)


def render(template: str, instruction: str, input: str = "") -> str:
    """The prompt: all that stands before the response. Raises UserError for an unknown template."""
    if template not in TEMPLATES:
        raise UserError(f"protocol: prompt: {one_of(template, TEMPLATES, 'prompt template')}")
    without_input, with_input = TEMPLATES[template]
    return (with_input if input else without_input).format(instruction=instruction, input=input)
