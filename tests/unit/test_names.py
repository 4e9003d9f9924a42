"""A public function or class of the harness is the only one of its name: a search for the name finds it, and a stage's
hash, which follows names, holds no other.
"""

import ast
from collections import defaultdict
from pathlib import Path

import sbora_bench

PACKAGE = Path(sbora_bench.__file__).parent
OF_A_MODULE = {"as_json", "as_text"}  # its one result, called with the module's name before it


def test_a_public_name_is_defined_once_or_by_a_command_and_its_stage():
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                places[node.name].append(path.relative_to(PACKAGE))
    assert "finetune" in places
    twice = {
        name: [str(path) for path in paths]
        for name, paths in places.items()
        if not name.startswith("_") and len([path for path in paths if path.parts[0] != "cli"]) > 1
    }
    assert twice.keys() <= OF_A_MODULE, {name: twice[name] for name in twice.keys() - OF_A_MODULE}
