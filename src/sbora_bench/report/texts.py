"""How the numbers of tests are spelt in tables and sentences."""

from collections.abc import Iterable
from typing import Any

from sbora_bench.analysis.pairs import Pair
from sbora_bench.plan.metric import Metric
from sbora_bench.report.render import csv


def p_text(p: float) -> str:
    """A p value with two significant digits; below 1e-99 a bound, for it is no longer a number of use."""
    return "< 1e-99" if p < 1e-99 else f"{p:.2g}"


def signed(number: float, digits: int = 1) -> str:
    """With its sign, a true minus; what rounds to nothing has a plus."""
    return f"{number:+z.{digits}f}".replace("-", "−")


def difference_text(pair: Pair) -> str:
    """The difference of a pair and, of several seeds, its interval over seeds and items: `+1.0 [−0.6, 2.5]`."""
    text = pair.metric.text(pair.difference, "+")
    if pair.low is not None and pair.high is not None:
        text += f" {pair.metric.interval_text(pair.low, pair.high)}"
    return text.replace("-", "−")


def difference_units(metrics: Iterable[Metric]) -> str:
    """What differences in these metrics are in, as a header or a sentence begins: `Points`, or the unit's name."""
    units = list(dict.fromkeys("points" if metric.is_share else metric.unit or "difference" for metric in metrics))
    text = " or ".join(units or ["points"])
    return text[0].upper() + text[1:]


def p_csv(columns: list[str], rows: Iterable[dict[str, Any]]) -> str:
    """These columns of rows as CSV, p values with seven digits."""
    p_columns = {key for key in columns if key in ("p", "q") or key.startswith(("p_", "q_"))}
    numbers = [
        [f"{row[key]:.6e}" if key in p_columns and row[key] is not None else row[key] for key in columns]
        for row in rows
    ]
    return csv([columns, *numbers])


def whole(number: Any) -> str:
    """A whole number with its thousands apart; pandas' missing value and None as a dash."""
    import pandas as pd

    return "–" if pd.isna(number) else f"{int(number):,}"


def fraction(number: Any, decimals: int, unit: float = 1) -> str:
    """A number in a unit, its thousands apart; pandas' missing value and None as a dash."""
    import pandas as pd

    return "–" if pd.isna(number) else f"{number / unit:,.{decimals}f}"
