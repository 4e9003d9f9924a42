"""What comes with the repository is read once a process: the catalog, of which a copy in a test's folder is not parsed
again, and the published traces, whose folder is else that of the test that happens to ask first.
"""

import pickle
from contextlib import suppress
from pathlib import Path

import pytest

from sbora_bench.cost import kept_traces
from sbora_bench.plan import catalog
from sbora_bench.strict_yaml import read_yaml
from tests.factories.shipped import CATALOG, ROOT


@pytest.fixture(scope="session", autouse=True)
def catalog_parsed_once():
    parsed = {path.read_bytes(): pickle.dumps(read_yaml(path)) for path in CATALOG.glob("*.yaml")}

    def read(path: Path) -> dict:
        kept = None
        with suppress(OSError):  # of which read_yaml says more
            kept = parsed.get(path.read_bytes())
        return read_yaml(path) if kept is None else pickle.loads(kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "read_yaml", read)
        yield


@pytest.fixture(scope="session", autouse=True)
def published_traces():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        kept_traces.published.cache_clear()
        return kept_traces.published()
