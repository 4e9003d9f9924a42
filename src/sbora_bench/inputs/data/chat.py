"""Prompts by a tokenizer's own chat template: prepared as messages, written out once the tokenizer is known.

The text ends where the assistant's answer begins, for training and scoring alike; the answer and its EOS follow, as
after any other prompt. A BOS that the template writes and the tokenizer puts before every text stands once.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.inputs.data.examples import Example, jinja
from sbora_bench.plan.data_entries import PromptEntry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
MESSAGES, ARGUMENTS = "messages", "chat_arguments"  # columns of a prepared row


def messages_by(entry: PromptEntry, where: str) -> Callable[[Example], list[Message]]:
    """What makes a row's messages; one that is empty is left out. Raises UserError where a text is no Jinja."""
    parts = [
        (message.role, jinja(message.content, f"{where}.{place}.content")) for place, message in enumerate(entry.chat)
    ]

    def messages(example: Example) -> list[Message]:
        filled = ((role, fill(example)) for role, fill in parts)
        return [{"role": role, "content": text} for role, text in filled if text]

    return messages


def plain_text(messages: list[Message]) -> str:
    """The messages as text of no template: what is read of a row before its model is known."""
    return "\n\n".join(message["content"] for message in messages)


def written_out(tokenizer: "PreTrainedTokenizerBase", rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prepared rows, the `prompt` of those with messages by the tokenizer's template, up to where the answer begins.

    Raises UserError where the tokenizer has no template, or it doesn't take the messages, or leaves one out.
    """
    if not any(ARGUMENTS in row for row in rows):  # messages alone may be a column of the source
        return rows
    refuse_without_template(bool(tokenizer.chat_template), str(tokenizer.name_or_path or "tokenizer"))
    bos = tokenizer.bos_token or ""
    added = bool(bos) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return [row | {"prompt": _text(tokenizer, row, bos if added else "")} if ARGUMENTS in row else row for row in rows]


def refuse_without_template(has_template: bool, owner: str) -> None:
    """Raise UserError where a tokenizer has no chat template."""
    if not has_template:
        raise UserError(
            f"{owner}: its tokenizer has no chat template, which the protocol's prompt is made by; take a model that"
            " was tuned to chat, or another train_prompt and score_prompt (alpaca, clean)"
        )


def _text(tokenizer: "PreTrainedTokenizerBase", row: dict[str, Any], bos: str) -> str:
    try:
        text = tokenizer.apply_chat_template(
            row[MESSAGES], tokenize=False, add_generation_prompt=True, **row[ARGUMENTS]
        )
    except Exception as error:  # whatever a template raises: roles that it doesn't know, say
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template doesn't take the prompt's messages: {in_a_line(error)}"
        ) from None
    for message in row[MESSAGES]:
        # an assistant's thoughts are left out by design
        if message["role"] != "assistant" and message["content"].strip() not in str(text):
            raise UserError(
                f"{tokenizer.name_or_path}: its chat template leaves out or changes the {message['role']}'s message"
                f" {message['content'][:60]!r}; put it into another role's, or take another prompt"
            )
    return str(text).removeprefix(bos)
