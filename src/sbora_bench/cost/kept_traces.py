"""What a count or a trace found, in files that are named by all that it depends on, the code and the packages too.

A trace takes seconds and knows no card. Those of the paper's cells are published, so that a clone has them.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from sbora_bench import provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.files import hash_of, read_json, write_json

CACHE = Path("resources/plan")
PUBLISHED = Path("results/published/traces.json")
TRACING = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")  # packages whose versions make a trace


class NotKept(Exception):
    """What is wanted is not in the cache, and must not be traced now."""


def remembered(folder: Path, kind: str, about: list, make: Callable[[], dict]) -> dict:
    """JSON of the file of `folder` named by `about` and the code, or of that name among those published; made and
    written where there is none.

    Raises NotKept instead within `only_kept`.
    """
    path = Path(folder) / f"{kind}-{hash_of([*about, *_made_by()])[:32]}.json"
    if path.is_file():
        _used.add(path)
        return read_json(path)
    if path.stem in published():
        return published()[path.stem]
    if _only_kept.get():
        raise NotKept(path.name)
    write_json(path, value := make())
    _used.add(path)
    return value


_used: set[Path] = set()  # files of the cache that this process made or read


@cache
def published() -> dict[str, dict]:
    """Traces that came with the repository, by the names of their files; of other code or packages none has a name."""
    return read_json(PUBLISHED) if PUBLISHED.is_file() else {}


def publish_traces() -> int:
    """Make what this process took from the cache, or put there, the traces that are published; how many."""
    write_json(PUBLISHED, {path.stem: read_json(path) for path in sorted(_used)})
    published.cache_clear()
    return len(_used)


_only_kept = contextvars.ContextVar("only_kept", default=False)


@contextlib.contextmanager
def only_kept() -> Iterator[None]:
    """In this block nothing is traced: what isn't in the cache raises NotKept."""
    token = _only_kept.set(True)
    try:
        yield
    finally:
        _only_kept.reset(token)


@cache
def _made_by() -> tuple:
    versions = provenance.versions()
    return code_hash("sbora_bench.cost.cell_work"), {name: versions[name] for name in TRACING}
