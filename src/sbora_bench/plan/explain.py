"""Why a YAML entry is refused, as one line: key, what was found, what is allowed."""

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sbora_bench.errors import one_of


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first of pydantic's complaints as one line: key, found, allowed; and how many more there are."""
    first, *more = error.errors()
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    suffix = "" if first["type"] == "missing" else f", found {short(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        suffix = ""  # the whole entry
    if first["type"] == "string_type" and not isinstance(first["input"], dict | list):
        suffix += "; put it in quotes"  # YAML reads on, 007 and 2020-01-01 as other things than text
    if first["type"] == "extra_forbidden":
        message, suffix = one_of(str(first["loc"][-1]), _keys_at(model, first["loc"][:-1]), "key"), ""
    rest = f" (and {len(more)} more)" if more else ""
    return f"{key}: {message}{suffix}{rest}"


def _keys_at(model: type[BaseModel] | None, place: tuple[str | int, ...]) -> set[str]:
    """The keys that the models at a place of `model` may have: part by part through fields, names and kinds."""
    models = [] if model is None else [model]
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        kinds = [m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or kinds or models
    return {field.alias or key for m in models for key, field in m.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def short(value: Any) -> str:
    """A value as a message shows it: its first 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
