"""YAML as experiments and catalogs are written: one mapping, no key twice, no tags, bounded in depth and size."""

import codecs
import re
from pathlib import Path
from typing import Any, cast

import yaml

from sbora_bench.errors import UserError

DEEPEST = 20  # levels; far deeper ones crash libyaml's own recursion
LARGEST = 200_000  # values, counted after aliases are followed


TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
# What YAML reads in another base than it seems: 010 is its 8, 1:30 its 90.
OTHER_BASE = re.compile(r"[-+]?0[0_]*[1-7][0-7_]+|.*:.*")


class _Loader(yaml.CSafeLoader):
    """Safe YAML; no code is run from it."""


def _refuse_tag(loader: _Loader, node: yaml.Node) -> None:
    problem = f"the tag {node.tag} is not read: no code is run from YAML; write a plain value"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor(None, _refuse_tag)


def read_yaml(path: str | Path) -> dict:
    """Read a YAML mapping. Raises UserError with file, line and reason."""
    try:
        text = Path(path).read_bytes()
        if not text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # which YAML allows
            text.decode()
        _check_depth(text)
        value = _constructed(text)
        _check_size(value)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{text[error.start]:02x} is not UTF-8; save it as UTF-8"
        raise UserError(f"{path}, line {number}: not valid YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        tabbed = mark and b"\t" in b"".join(text.splitlines()[mark.line : mark.line + 1])
        cure = "; indent by spaces, not by tabs" if tabbed else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}{cure}") from None
    if not isinstance(value, dict):
        kind = "nothing" if value is None else type(value).__name__
        raise UserError(f"{path}: expected a mapping of keys, found {kind}")
    return value


def _constructed(text: bytes) -> Any:
    """The one value of a document; None of an empty one."""
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _check_nodes(node)
    return loader.construct_document(node)


def _check_nodes(root: yaml.Node) -> None:
    """Make each key text as it is written (`on`, `007`). Raises ConstructorError for a key that stands twice or is no
    plain name, and for a number that is read in another base than it seems.
    """
    waiting, seen = [root], {id(root)}

    def follow(node: yaml.Node) -> None:
        if id(node) not in seen:  # an alias is the same node
            seen.add(id(node))
            waiting.append(node)

    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and OTHER_BASE.fullmatch(node.value):
            problem = f"{node.value} would be read in base 8 or 60; write a decimal number, or put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                follow(item)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            for _, value in node.value:
                follow(value)


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        plain = isinstance(key, yaml.ScalarNode)
        if not plain or key.value in seen:
            problem = f"key {key.value!r} stands twice" if plain else "a key isn't a plain name"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        seen.add(key.value)
        if key.tag != MERGE:
            key.tag = TEXT


def _check_depth(text: bytes) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            problem = f"nested deeper than {DEEPEST} levels"
            raise yaml.constructor.ConstructorError(None, None, problem, cast("yaml.Mark", event.start_mark))


def _check_size(value: Any) -> None:
    """Raise ValueError for a value that holds itself or that aliases blow up."""
    waiting, seen = [value], 0
    while waiting:
        item, seen = waiting.pop(), seen + 1
        if seen > LARGEST:
            raise ValueError(f"more than {LARGEST:,} values, or an alias that holds itself")
        waiting.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
