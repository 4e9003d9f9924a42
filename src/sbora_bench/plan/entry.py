"""What every entry of a catalog and of an experiment is made of: strict models, and names that are safe anywhere."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

# Names become parts of file names and of commands: no separator, nothing option-like, and short.
NAME = r"^[a-z0-9][a-z0-9.-]{0,47}$"
# A path below a folder, a hub id, a package: no part of it is `..`, hidden or option-like.
BELOW = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,47}$"


class Strict(BaseModel):
    """No unknown keys, no infinite numbers, no `yes` for a 1, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, entry: Any) -> Any:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            field = cls.model_fields.get(key)
            kinds = _parts(field.annotation) if field and _truths(value) else set()
            if kinds & {int, float} and not kinds & {bool, Any}:
                raise ValueError(
                    f"{key}: found {value}, allowed numbers; YAML reads yes, no, on and off as true and false"
                )
        return entry


def _truths(value: Any) -> bool:
    """Whether there is a truth value in a value, or in a list or mapping of plain ones."""
    inside = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
    return any(isinstance(one, bool) for one in inside)


def _parts(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    return {annotation}.union(*map(_parts, get_args(annotation)))
