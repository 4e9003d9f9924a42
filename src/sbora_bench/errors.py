"""The one exception that a user sees: a mistake of theirs, explained in one line (exit status 2)."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a file, a key, a name or an argument: says where, what was found, what is allowed, what to do."""

    def __init__(self, message: str) -> None:
        line = " ".join(str(message).split())
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line))


class Problems(UserError):
    """Several mistakes, each in a line of its own."""

    def __init__(self, messages: Iterable[str]) -> None:
        Exception.__init__(self, "\n".join(str(UserError(message)) for message in messages))


SHOWN = 40  # names in a message


def one_of(name: str, allowed: Iterable[str], what: str) -> str:
    """The tail of a message about an unknown name: the nearest known one, then all of them.

    Example: `one_of("lroa", ["lora", "dora"], "method")` gives
    `unknown method 'lroa', did you mean 'lora'? known: dora, lora`.
    """
    import difflib

    name, allowed = str(name), sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=5)

    def nearness(word: str) -> tuple[float, bool]:  # of equally near words the one with the same letters, two swapped
        return difflib.SequenceMatcher(None, word, name).ratio(), sorted(word) == sorted(name)

    near = sorted(near, key=nearness, reverse=True)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    more = f" and {len(allowed) - SHOWN} more" if len(allowed) > SHOWN else ""
    return f"unknown {what} {name!r}{hint} known: {', '.join(allowed[:SHOWN]) or 'none'}{more}"


class Terminated(BaseException):
    """SIGTERM, a scheduler's warning: what was done is kept, the same command goes on from there."""


def in_a_line(error: Exception) -> str:
    """What an error says, in at most 300 signs, led by its type where it's not one of ours."""
    ours = type(error).__module__.startswith("sbora_bench.") or isinstance(error, FloatingPointError)
    return " ".join(f"{'' if ours else f'{type(error).__name__}: '}{error}".split())[:300]
