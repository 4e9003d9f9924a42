"""What every entry of a catalog and of an experiment is made of: strict models, and names that are safe anywhere."""

from pydantic import BaseModel, ConfigDict

# Names become parts of file names and of commands: no separator, nothing option-like, and short.
NAME = r"^[a-z0-9][a-z0-9.-]{0,47}$"
# A path below a folder, a hub id, a package: no part of it is `..`, hidden or option-like.
BELOW = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,47}$"


class Strict(BaseModel):
    """No unknown keys, no infinite numbers, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
