"""What comes with the repository: its root, its catalog with a protocol of it, and the public files beside it."""

import os
from pathlib import Path

from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.protocol import Protocol

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "experiments" / "catalog"
# The public files, where they are at hand: LLM-Adapters' layout (SBORA_DATA_ROOT, or beside the checkout).
DATA = Path(os.environ.get("SBORA_DATA_ROOT") or ROOT.parent / "shared" / "data")


def catalog() -> Catalog:
    return load_catalog(str(CATALOG))


def protocol(name: str, suite: str, **overrides) -> Protocol:
    """The catalog's protocol as it holds for a suite."""
    return catalog().protocol(name, suite, overrides, "here")


def with_model(architecture: dict) -> Catalog:
    """The catalog and a model `tiny` of this architecture."""
    tiny = ModelEntry(title="Tiny", source={"kind": "folder", "path": "."}, architecture=architecture)
    return catalog().model_copy(update={"models": catalog().models | {"tiny": tiny}})
