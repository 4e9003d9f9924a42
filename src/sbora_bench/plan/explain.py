"""Why a YAML entry is refused, as one line: key, what was found, what is allowed."""

import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sbora_bench.errors import one_of


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints as one line: key, found, allowed; and how many more there are."""
    errors = error.errors()
    # a key that is missing because another is misspelt: that one says more
    misspelt = [one for one in errors if one["type"] == "extra_forbidden" and one["loc"][:-1] == errors[0]["loc"][:-1]]
    first = misspelt[0] if misspelt and errors[0]["type"] == "missing" else errors[0]
    key = ".".join(_written(model, first["loc"]))
    suffix = "" if first["type"] == "missing" else f", found {shortened(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        suffix = ""  # the whole entry
    if first["type"] == "string_type" and not isinstance(first["input"], dict | list):
        suffix += "; put it in quotes"  # YAML reads on, 007 and 2020-01-01 as other things than text
    if first["type"] == "extra_forbidden":
        message, suffix = one_of(str(first["loc"][-1]), _keys_at(model, first["loc"][:-1]), "key"), ""
    if first["loc"][-1:] == ("[key]",) and first["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        message, suffix = one_of(str(first["input"]), known, "key"), ""
    rest = f" (and {len(errors) - 1} more)" if errors[1:] else ""
    # what our own check of a whole file says names its key
    place = "" if first["type"] == "value_error" and not key else f"{key or '(top level)'}: "
    return f"{place}{message}{suffix}{rest}"


def _written(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """The parts of a place that stand in the file: without pydantic's own, the kind of an entry and `[key]`."""
    written, models, named = [], [model], False
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if not named and not fields and (part == "[key]" or _of_kind(models, part)):
            continue
        written.append(str(part))
        named = not named and any(get_origin(field.annotation) is dict for field in fields)  # the next one is a name
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return written


def _of_kind(models: list[type[BaseModel]], kind: str | int) -> list[type[BaseModel]]:
    return [m for m in models if "kind" in m.model_fields and kind in get_args(m.model_fields["kind"].annotation)]


def _keys_at(model: type[BaseModel], place: tuple[str | int, ...]) -> set[str]:
    """The keys that the models at a place of `model` may have: part by part through fields, names and kinds."""
    models = [model]
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = (
            [inner for field in fields for inner in _models_in(field.annotation)] or _of_kind(models, part) or models
        )
    return {field.alias or key for m in models for key, field in m.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def shortened(value: Any) -> str:
    """A value as a message shows it: its first 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
