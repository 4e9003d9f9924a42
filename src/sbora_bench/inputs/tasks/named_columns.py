"""What an own template names, held against the items' columns: a mistake of one letter is a constant text to lm-eval,
and a null the word None.
"""

import json
import re
from bisect import bisect_left
from typing import Any

from sbora_bench.errors import UserError, one_of

TEXTS = ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")
CHOSEN = "multiple_choice"
READ_HERE = ("id", "prompt", "answer")  # whatever a template says
WORD = re.compile(r"\w+")
NUMBER, LIST = re.compile(r"-?\d+"), re.compile(r"\s*\[.*\]\s*", re.DOTALL)


def check_columns(config: dict[str, Any], items: list[dict[str, Any]], where: str) -> None:
    """Raise UserError for a key without which nothing can be asked, a text that is neither column nor expression, a
    column that an item or a solved example lacks, and choices that are no texts.
    """
    chosen = config["output_type"] == CHOSEN
    for key, meant in (("doc_to_text", "prompt"), ("doc_to_target", "answer"), ("doc_to_choice", "choices")):
        if config.get(key) is None and (chosen or key != "doc_to_choice"):
            raise UserError(f"{where}: {key}: missing; name the column or write a Jinja text, as {key}: {meant}")
    columns = {column for item in items for column in item}
    shown = [(f"item {item.get('id', place)}", item) for place, item in enumerate(items)]
    samples = (config.get("fewshot_config") or {}).get("samples") or []
    shown += [(f"fewshot_config.samples: sample {place}", sample) for place, sample in enumerate(samples, 1)]
    for key in TEXTS:
        text = config.get(key)
        if not isinstance(text, str):
            continue
        if is_constant(text, columns) and not _meant(key, text, chosen):
            raise UserError(f"{where}: {key}: {one_of(text, columns, 'column')}; or write a Jinja text, {{{{...}}}}")
        for column in sorted(_named(text, columns)):
            for place, row in shown:
                if not isinstance(row, dict) or row.get(column) is None:
                    raise UserError(
                        f"{where}: {key}: {place} has no {column!r}, which it names; give it one, or say"
                        f" {{% if {column} %}}...{{% endif %}}"
                    )
    choices = config.get("doc_to_choice") if chosen else None
    if isinstance(choices, list):
        check_choices(choices, f"{where}: doc_to_choice")
    elif isinstance(choices, str) and choices in columns:
        for place, row in shown:
            check_choices(row[choices], f"{where}: doc_to_choice: {place}")


def read_by(config: dict[str, Any], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with the columns alone that the template may read: those that it spells anywhere, each in every item.

    What no column of a table can hold doesn't matter where nothing reads it.
    """
    spelled = json.dumps(config, ensure_ascii=False, default=str)
    words = {*re.findall(r"\w+", spelled), *READ_HERE}
    columns = dict.fromkeys(column for item in items for column in item)
    columns_read = [
        column for column in columns if column in words or (not WORD.fullmatch(column) and column in spelled)
    ]
    return [{column: item.get(column) for column in columns_read} for item in items]


def check_held(config: dict[str, Any], items: list[dict[str, Any]]) -> None:
    """Raise UserError, naming column and item, for a column whose values are of types that one table can't hold."""
    rows = read_by(config, items)
    for column in rows[0]:
        values = [row[column] for row in rows]
        if _plain(values):  # no need of a heavy import
            continue
        place = bisect_left(range(1, len(values)), True, key=lambda count: not _held(values[:count])) + 1
        if not _held(values[:place]):
            raise UserError(
                f"item {items[place - 1].get('id', place - 1)}: column {column}: found {values[place - 1]!r:.80}, which"
                " doesn't go with the items before or is too large; give the column one type in all items, as text"
            )


def _plain(values: list[Any]) -> bool:
    """Whether values are of one type of which a table holds all."""
    kinds = {type(value) for value in values if value is not None}
    numbers = kinds == {int} and all(value is None or abs(value) < 2**63 for value in values)
    return numbers or (len(kinds) <= 1 and kinds <= {str, bool, float})


def _held(values: list[Any]) -> bool:
    import pyarrow

    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def check_choices(choices: Any, where: str) -> None:
    """Raise UserError where choices are not a list of texts."""
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise UserError(f"{where}: found {choices!r}, allowed a list of texts, none of them empty; correct it")


def is_constant(text: str, columns: set[str]) -> bool:
    """Whether a template's text is neither a column's name nor an expression."""
    return text not in columns and "{{" not in text and "{%" not in text


def _meant(key: str, text: str, chosen: bool) -> bool:
    """Whether a constant can be what is meant."""
    if key == "doc_to_text":
        return not text and chosen
    if key == "doc_to_target":
        return chosen or bool(NUMBER.fullmatch(text))  # whether it is a choice is looked at item by item
    return key == "gen_prefix" or bool(LIST.fullmatch(text))


def _named(text: str, columns: set[str]) -> set[str]:
    """The columns that a template's text writes, whatever an item has of them: not those that it asks for first."""
    import jinja2
    from jinja2 import meta, nodes
    from lm_eval.utils import env

    if text in columns:
        return {text}
    try:
        tree = env.parse(text)
        written = meta.find_undeclared_variables(tree) & columns
    except jinja2.TemplateError:
        return set()  # lm-eval says what is wrong
    conditions = [node.test for node in tree.find_all((nodes.If, nodes.CondExpr))]
    conditions += [node.left for node in tree.find_all(nodes.Or)]
    defaulted = ("default", "d")
    filters = tree.find_all(nodes.Filter)
    conditions += [node.node for node in filters if node.name in defaulted and len(node.args) > 1]
    names = (name for node in conditions for name in (node, *node.find_all(nodes.Name)))
    return written - {name.name for name in names if isinstance(name, nodes.Name)}
