"""How the numbers of tests are spelt in tables and sentences."""

from typing import Any


def p_text(p: float) -> str:
    """A p value with two significant digits; below 1e-99 a bound, for it is no longer a number of use."""
    return "< 1e-99" if p < 1e-99 else f"{p:.2g}"


def signed(number: float, digits: int = 1) -> str:
    """With its sign, a true minus."""
    return f"{number:+.{digits}f}".replace("-", "−")


def difference_text(row: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    """The difference of a pair and, where there are several seeds, its interval over them: `+1.0 [−0.6, 2.5]`."""
    text = f"{scale * row['difference']:+.{digits}f}"
    text += "" if row["low"] is None else f" [{scale * row['low']:.{digits}f}, {scale * row['high']:.{digits}f}]"
    return text.replace("-", "−")


def p_numbers(row: dict[str, Any], columns: list[str]) -> list[Any]:
    """The values of a row in the order of `columns`, p values with seven digits."""
    return [
        f"{row[key]:.6e}" if (key == "p" or key.startswith("p_")) and row[key] is not None else row[key]
        for key in columns
    ]


def whole(number: Any) -> str:
    """A whole number with its thousands apart; pandas' missing value and None as a dash."""
    import pandas as pd

    return "–" if pd.isna(number) else f"{int(number):,}"
