"""A source file by its top-level statements: what each needs, imports and says, without comments and docstrings."""

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Decorators that do nothing but at a call, so that what they decorate may be left out; others may register it.
INERT = {"cache", "contextmanager", "dataclass", "lru_cache"}
FILE_NAME = re.compile(r"[\w*.-]+\.(?!py$)[a-z]+")


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
