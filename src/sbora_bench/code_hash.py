"""What code a stage runs, as a hash: a part of every result's key, so that an edit re-runs what it changes and no more.

Read from the syntax trees, nothing is imported. A module that is imported, directly or not, counts with all that its
import runs. A function, a class or a plain constant counts only where code that counts has its name, in whatever module
that stands: a name too many re-runs too much, never too little. Comments and docstrings don't count. A data file of the
package counts where code, or a template, that counts has its name.

Following names takes a second, so hashes are kept beside Python's own compiled modules for as long as no file of the
packages changes.
"""

import contextlib
import hashlib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json
from sbora_bench.syntax import FILE_NAME, Module

SOURCE = Path(__file__).resolve().parent.parent
PACKAGES = ("sbora", "sbora_bench")
Key = tuple[str, int]  # module, place of a top-level statement in it


@cache
def _module(name: str) -> Module | None:
    """A module of ours by its name; None for another's, or for a name that is no module."""
    if name.split(".")[0] not in PACKAGES:
        return None
    stem = SOURCE.joinpath(*name.split("."))
    path = next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)
    return Module(name, path) if path else None


def _known(name: str) -> Module:
    module = _module(name)
    assert module is not None, name
    return module


@cache
def _data_files() -> dict[str, list[Path]]:
    """Name -> the files of that name in the packages that are not Python's."""
    paths: dict[str, list[Path]] = {}
    for path in sorted(path for package in PACKAGES for path in (SOURCE / package).rglob("*") if path.is_file()):
        if path.suffix not in (".py", ".pyc"):
            paths.setdefault(path.name, []).append(path)
    return paths


def _files_named(text: str, folder: Path) -> list[Path]:
    """The data files that a text names; by a pattern (`*.yaml`) those of a folder."""
    if not FILE_NAME.fullmatch(text):
        return []
    if "*" in text:
        return [
            path for paths in _data_files().values() for path in paths if path.parent == folder and path.match(text)
        ]
    return _data_files().get(text, [])


class _Reach:
    """What a module runs, followed from name to name and from import to import until nothing new is reached."""

    def __init__(self, module: str, without: frozenset[str]) -> None:
        self.module, self.without = module, without
        self.modules: dict[str, Module] = {}
        self.defining: dict[str, list[Key]] = {}  # name -> the statements that define it
        self.aliases: dict[str, set[str]] = {}  # name as it is imported -> names as they are defined
        self.names: set[str] = set()
        self.statements: set[Key] = set()
        self.files: set[Path] = set()
        self.waiting_modules, self.waiting_names = [module], list[str]()
        while self.waiting_modules or self.waiting_names:
            if self.waiting_modules:
                self._add_module(self.waiting_modules.pop())
            else:
                self._add_name(self.waiting_names.pop())

    def _add_module(self, name: str) -> None:
        source = _module(name)
        if source is None or name in self.modules:
            return
        self.modules[name] = source
        self.waiting_modules.append(name.rpartition(".")[0])  # importing a module imports its package
        for asname, original in source.aliases:
            self.aliases.setdefault(asname, set()).add(original)
            self.waiting_names += [original] if asname in self.names else []
        for place, defined in enumerate(source.defined):
            for own in defined or ():
                self.defining.setdefault(own, []).append((name, place))
            if defined is None or name == self.module or defined & self.names:
                self._add_statement(name, place)

    def _add_name(self, name: str) -> None:
        if name in self.names:
            return
        self.names.add(name)
        self.waiting_names += self.aliases.get(name, ())
        for key in self.defining.get(name, ()):
            self._add_statement(*key)

    def _add_statement(self, name: str, place: int) -> None:
        if (name, place) in self.statements:
            return
        self.statements.add((name, place))
        source = self.modules[name]
        self.waiting_modules += source.imports(place)
        self.waiting_names += source.needs(place, self.without)
        for text in source.files(place, self.without):
            self._add_files(text, source.path.parent)

    def _add_files(self, text: str, folder: Path) -> None:
        for path in set(_files_named(text, folder)) - self.files:
            self.files.add(path)
            if path.suffix == ".html":  # what it includes
                for word in re.findall(r'"([^"]+)"', path.read_text(encoding="utf-8")):
                    self._add_files(word, path.parent)


@cache
def reached(
    module: str, without: frozenset[str] = frozenset()
) -> tuple[frozenset[Key], frozenset[str], frozenset[Path]]:
    """The statements that `module` runs, all of its own among them, the names in them, and the data files they read.

    `without`: names of arguments that it does nothing with (`caption`): what is handed over so does not count.
    """
    reach = _Reach(module, without)
    return frozenset(reach.statements), frozenset(reach.names), frozenset(reach.files)


@cache
def code_hash(module: str, without: frozenset[str] = frozenset()) -> str:
    """SHA-256 over what `module` runs: modules' names and statements, data files' names and bytes; as `reached`."""
    sources, key = _sources(), " ".join([module, *sorted(without)])
    compiled = importlib.util.cache_from_source(str(SOURCE / "sbora_bench" / "code_hash.py"))
    path = Path(compiled).with_suffix(".json")
    kept = _kept(path, sources)
    if key not in kept:
        kept[key] = _computed(module, without)
        with contextlib.suppress(UserError):  # a folder that can't be written to
            if not sys.dont_write_bytecode:
                write_json(path, {"sources": sources, "hashes": kept})
    return kept[key]


@cache
def _sources() -> str:
    """SHA-256 over the names and bytes of all files of the packages."""
    digest = hashlib.sha256()
    paths = [path for package in PACKAGES for path in (SOURCE / package).rglob("*")]
    for path in sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(SOURCE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _kept(path: Path, sources: str) -> dict[str, str]:
    """What was computed from the same sources."""
    with contextlib.suppress(UserError, OSError, KeyError, TypeError):
        kept = read_json(path)
        if kept["sources"] == sources:
            return dict(kept["hashes"])
    return {}


def _computed(module: str, without: frozenset[str]) -> str:
    counted, names, files = reached(module, without)
    digest = hashlib.sha256()
    texts = ((name, _known(name).text(place, names, without)) for name, place in counted)
    for name, text in sorted(pair for pair in texts if pair[1]):
        digest.update(f"{name}\0{text}\0".encode())
    for path in sorted(files):
        digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
