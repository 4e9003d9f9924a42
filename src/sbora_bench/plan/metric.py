"""What a task's items are scored by: direction, range, unit, and how two models are compared on them."""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Metric(BaseModel):
    """A metric of a task's template, whose mean over the items is the score. As it stands: the share right."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    items: Literal["right-or-wrong", "values"] = Field(
        default="right-or-wrong",
        description="an item is 0 or 1, compared by the exact McNemar test; or any value, compared by a bootstrap",
    )
    higher_is_better: bool = True
    low: float | None = Field(default=0.0, description="least possible value; null for none")
    high: float | None = Field(default=1.0, description="greatest possible value; null for none")
    unit: str = Field(default="", description="what a value is counted in; empty between 0 and 1: shown in per cent")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.items == "right-or-wrong" and not self.is_share:
            raise ValueError("right-or-wrong items are 0 or 1, without a unit; else say items: values")
        return self

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return not self.unit and (self.low, self.high) == (0, 1)

    @property
    def right_or_wrong(self) -> bool:
        """Whether an item has 0 or 1, so that pairs of items can be counted."""
        return self.items == "right-or-wrong"

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be shown."""
        return 100.0 if self.is_share else 1.0

    @property
    def digits(self) -> int:
        """Decimals of a shown value."""
        return 1 if self.is_share else 3

    @property
    def shown_unit(self) -> str:
        """Behind a shown value: `%`, the metric's own unit, or nothing."""
        return "%" if self.is_share else self.unit

    def text(self, value: float | None, sign: str = "") -> str:
        """A value as it is shown, without its unit: `12.3` of the share 0.123; a dash where there is none. `sign`: `+`
        has all values signed.
        """
        return "–" if value is None else f"{self.scale * value:{sign}.{self.digits}f}"

    def interval_text(self, low: float | None, high: float | None) -> str:
        """The ends of an interval as they are shown: `[10.1, 14.5]`; a dash where there is none."""
        return "–" if low is None or high is None else f"[{self.text(low)}, {self.text(high)}]"

    @property
    def width(self) -> float:
        """Of the range; infinity where it has no end."""
        return math.inf if self.low is None or self.high is None else self.high - self.low

    @property
    def point(self) -> float:
        """The difference that a number of seeds is reckoned for: a hundredth of the range, else of the unit."""
        return 0.01 if math.isinf(self.width) else self.width / 100

    @property
    def sign(self) -> int:
        """1 where a higher value is better, else -1."""
        return 1 if self.higher_is_better else -1

    def contains(self, value: float) -> bool:
        """Whether a value lies in the metric's range."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def within(self, value: float) -> float:
        """The nearest possible value."""
        value = value if self.low is None else max(value, self.low)
        return value if self.high is None else min(value, self.high)

    def averages_with(self, other: "Metric") -> bool:
        """Whether a mean of both says something: the same unit, range and direction."""
        kind = (self.unit, self.low, self.high, self.higher_is_better)
        return kind == (other.unit, other.low, other.high, other.higher_is_better)


SHARE = Metric()
LOSS = Metric(items="values", higher_is_better=False, high=None, unit="nats a token")
GOLD_LOSS = "gold_loss"  # loss of the right answer, beside a task's own score
