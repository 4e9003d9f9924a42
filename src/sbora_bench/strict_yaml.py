"""YAML as experiments and catalogs are written: one mapping, no key twice, no tags, bounded in depth and size."""

import codecs
from pathlib import Path
from typing import Any, cast

import yaml

from sbora_bench.errors import UserError

DEEPEST = 20  # levels; far deeper ones crash libyaml's own recursion
LARGEST = 200_000  # values, counted after aliases are followed


TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.CSafeLoader):
    """Safe YAML in which a key is text as it is written (`on`, `007`), and one given twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != MERGE and key_node.value:
                key_node.tag = TEXT
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None) or key in seen:
                problem = f"key {key!r} stands twice or isn't a plain name"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


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
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
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
