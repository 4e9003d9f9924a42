"""What code a stage runs, as a hash: a part of every result's key, so that an edit re-runs what it changes and no more.

Read from the syntax trees, nothing is imported. A module that is imported, directly or not, counts with all that its
import runs. A function, a class or a plain constant counts only where code that counts has its name, in whatever module
that stands: a name too many re-runs too much, never too little. Comments and docstrings don't count. A data file of the
package counts where code, or a template, that counts has its name.

Following names takes a second, so hashes are kept beside Python's own compiled modules for as long as no file of the
packages changes.
"""

import ast
import contextlib
import copy
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json

SOURCE = Path(__file__).resolve().parent.parent
PACKAGES = ("sbora", "sbora_bench")
# Decorators that do nothing but at a call, so that what they decorate may be left out; others may register it.
INERT = {"cache", "contextmanager", "dataclass", "lru_cache"}
FILE_NAME = re.compile(r"[\w*.-]+\.(?!py$)[a-z]+")
Key = tuple[str, int]  # module, place of a top-level statement in it


class Module:
    """A source file by its top-level statements: the names each needs, the modules each imports, and its text."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.statements = _without_docstrings(ast.parse(path.read_bytes())).body
        self.nodes = [list(_nodes(statement)) for statement in self.statements]
        self.defined = [_defined(*pair) for pair in zip(self.statements, self.nodes, strict=True)]
        self.arguments = [{node.arg for node in nodes if isinstance(node, ast.keyword)} for nodes in self.nodes]
        self.aliases = [
            (node.asname, node.name.rpartition(".")[2])
            for nodes in self.nodes
            for node in nodes
            if isinstance(node, ast.alias) and node.asname
        ]

    @cache  # noqa: B019  # modules stay as long as the process
    def needs(self, place: int, without: frozenset[str]) -> set[str]:
        """Names and texts in a statement. An import alone needs none, but for classes: their objects come unnamed."""
        left_out = without & self.arguments[place]
        if without and not left_out:
            return self.needs(place, frozenset())
        names: set[str] = set()
        for node in _nodes(self.statements[place], left_out) if left_out else self.nodes[place]:
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.alias) and node.name[0].isupper() and not node.name.isupper():
                names.add(node.name)
        return names

    @cache  # noqa: B019
    def files(self, place: int, without: frozenset[str]) -> list[str]:
        """The texts in a statement that may name data files."""
        return [text for text in self.needs(place, without) if FILE_NAME.fullmatch(text)]

    @cache  # noqa: B019
    def imports(self, place: int) -> list[str]:
        """Names of what may be modules."""
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        names: list[str] = []
        for node in self.nodes[place]:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                origin = ".".join([*base, *filter(None, [node.module])])
                names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        return names

    def text(self, place: int, names: frozenset[str], without: frozenset[str]) -> str:
        """A statement without comments and docstrings; of an import only what binds one of `names`."""
        statement = self.statements[place]
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            origin = f"{'.' * statement.level}{statement.module or ''}" if isinstance(statement, ast.ImportFrom) else ""
            bound = [(alias.asname or alias.name.partition(".")[0], alias.name) for alias in statement.names]
            return " ".join(f"{origin} {name} {own}" for own, name in sorted(bound) if own in names)
        return _text(statement, without & self.arguments[place])


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _nodes(statement: ast.AST, without: frozenset[str] = frozenset()) -> Iterator[ast.AST]:
    """The nodes of a statement, but for arguments of these names; `ast.walk` takes three times as long."""
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        if without and isinstance(node, ast.keyword) and node.arg in without:
            continue
        yield node
        for value in vars(node).values():
            if isinstance(value, list):
                waiting += [part for part in value if isinstance(part, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            body = [line for line in node.body if not _is_text(line)]
            node.body = body if body or isinstance(node, ast.Module) else [ast.Pass()]
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):  # no expression holds a docstring
            inner = getattr(node, block, None)
            waiting += inner if isinstance(inner, list) else []
    return tree


@cache
def _text(statement: ast.stmt, without: frozenset[str]) -> str:
    """A statement without arguments of these names, as text."""
    if without:
        statement = copy.deepcopy(statement)
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                node.keywords = [keyword for keyword in node.keywords if keyword.arg not in without]
    return ast.dump(statement)


def _defined(statement: ast.stmt, nodes: list[ast.AST]) -> set[str] | None:
    """The names that a statement defines and does nothing else; None for one that always counts."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        names = {_last_name(decorator) for decorator in statement.decorator_list}
        registers = isinstance(statement, ast.ClassDef) and statement.keywords
        return None if registers or names - INERT else {statement.name}
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        targets = [statement.target]
    else:
        return None
    if any(isinstance(node, ast.Call) for node in nodes):
        return None
    names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    plain = all(isinstance(target, (ast.Name, ast.Tuple)) for target in targets)
    return names if plain else None


def _last_name(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


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
