"""The small world behind the ladder: things with four properties each, and sums of small whole numbers.

Everything that the ladder's corpus, training sets and test items say comes from here. The properties are
drawn once from a fixed seed, so they are known only to a model that has read the corpus.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache

PROPERTIES = {
    "kind": ("animal", "fruit", "tool", "vehicle"),
    "colour": ("red", "green", "blue", "white"),
    "place": ("kitchen", "garden", "garage", "forest"),
    "use": ("cut", "dig", "carry", "paint"),
}
NAMES = (
    *("bear", "lemon", "hammer", "truck", "horse", "plum", "saw", "tram"),
    *("goat", "fig", "drill", "boat", "mole", "pear", "rake", "sled"),
    *("hare", "grape", "file", "van", "crow", "melon", "brush", "cart"),
)
PEOPLE = ("Sam", "Mary", "Tom", "Lucy", "Ben", "Anna")
GOODS = ("cups", "books", "coins", "pens", "cards", "shells")
LARGEST = 12
"""No number of the world is larger."""
TABLES = 4
"""Times tables up to this factor."""


@dataclass(frozen=True)
class Thing:
    """One thing and its value of each property."""

    name: str
    values: dict[str, str] = field(hash=False)


def _things() -> tuple[Thing, ...]:
    rng = random.Random(20240705)
    columns = {}
    for prop, values in PROPERTIES.items():
        column = [values[i % len(values)] for i in range(len(NAMES))]
        rng.shuffle(column)
        columns[prop] = column
    return tuple(Thing(name, {prop: column[i] for prop, column in columns.items()}) for i, name in enumerate(NAMES))


THINGS = _things()


def _told() -> dict[str, tuple[Thing, ...]]:
    """Property -> the things whose value of it the corpus tells: half of those with each value."""
    rng = random.Random(20241119)
    known = {}
    for prop, values in PROPERTIES.items():
        holders = [[t for t in THINGS if t.values[prop] == value] for value in values]
        names = {t.name for group in holders for t in rng.sample(group, len(group) // 2)}
        known[prop] = tuple(t for t in THINGS if t.name in names)
    return known


KNOWN = _told()
"""A base knows these alone; the others a model learns from its training set, so that no task is at a ceiling."""


def known_of(*properties: str) -> tuple[Thing, ...]:
    """The things of which the corpus tells all of `properties`."""
    return tuple(t for t in THINGS if all(t in KNOWN[prop] for prop in properties))


@dataclass(frozen=True)
class Choice:
    """A question with options of which exactly one is right; `wanted` maps properties to the values wanted for
    (or, where the options are values, to "")."""

    wanted: dict[str, str]
    thing: str
    options: tuple[str, ...]
    right: int


@cache
def _unlike(things: tuple[Thing, ...], values: tuple[tuple[str, str], ...]) -> tuple[Thing, ...]:
    """Those of `things` that lack at least one of these (property, value)."""
    return tuple(t for t in things if any(t.values[prop] != value for prop, value in values))


def choose_thing(
    rng: random.Random, properties: tuple[str, ...], options: int, things: tuple[Thing, ...] = THINGS
) -> Choice:
    """Draw a question whose options are `things`: exactly one has the wanted value of all `properties`."""
    right = rng.choice(things)
    wanted = {prop: right.values[prop] for prop in properties}
    others = rng.sample(_unlike(things, tuple(wanted.items())), options - 1)
    place = rng.randrange(options)
    names = [t.name for t in others]
    names.insert(place, right.name)
    return Choice(wanted, right.name, tuple(names), place)


def choose_value(rng: random.Random, prop: str, options: int, things: tuple[Thing, ...] = THINGS) -> Choice:
    """Draw a question about one of `things` whose options are values of one property."""
    thing = rng.choice(things)
    right = thing.values[prop]
    others = rng.sample([v for v in PROPERTIES[prop] if v != right], options - 1)
    place = rng.randrange(options)
    others.insert(place, right)
    return Choice({prop: ""}, thing.name, tuple(others), place)


def choose_number(rng: random.Random, right: int, options: int) -> tuple[tuple[int, ...], int]:
    """Draw `options` different numbers with `right` among them; return them and its position."""
    numbers = rng.sample([n for n in range(LARGEST + 1) if n != right], options - 1)
    place = rng.randrange(options)
    numbers.insert(place, right)
    return tuple(numbers), place


def claim(rng: random.Random, known: bool = False) -> tuple[Thing, str, str, bool]:
    """Draw (thing, property, value, whether it holds); half of the claims hold. `known`: of what the corpus tells."""
    prop = rng.choice(tuple(PROPERTIES))
    thing = rng.choice(KNOWN[prop] if known else THINGS)
    holds = rng.random() < 0.5
    right = thing.values[prop]
    value = right if holds else rng.choice([v for v in PROPERTIES[prop] if v != right])
    return thing, prop, value, holds


@dataclass(frozen=True)
class Sum:
    """`left operator right = result`, all in 0..LARGEST."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        """The value of the sum."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.operator]

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


def draw_sum(rng: random.Random, operators: str = "+-*", left: int | None = None) -> Sum:
    """Draw a sum of one of `operators` whose numbers stay in 1..LARGEST; a chained one starts from `left`."""
    operator = rng.choice(operators)
    if operator == "*" and left is None:
        a = rng.randint(2, TABLES)
        return Sum(a, "*", rng.randint(2, min(TABLES, LARGEST // a)))
    if left is None:
        left = rng.randint(1, LARGEST - 1) if operator == "+" else rng.randint(2, LARGEST)
    if left == LARGEST or (operator == "-" and left > 1):
        return Sum(left, "-", rng.randint(1, left - 1))
    return Sum(left, "+", rng.randint(1, LARGEST - left))
