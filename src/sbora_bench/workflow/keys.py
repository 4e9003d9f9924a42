"""Names of rules, and the keys of what they depend on beside files."""

from sbora_bench import code_hash
from sbora_bench.files import hash_of
from sbora_bench.plan.catalog import load_catalog


def code(*stages: str, without: tuple[str, ...] = ()) -> str:
    """The key of the code that stages run (`train.finetune`): an edit that changes what one does changes it.

    `without`: names of arguments that they do nothing with (`caption`).
    """
    return hash_of([code_hash.code_hash(f"sbora_bench.{stage}", frozenset(without)) for stage in stages])


def paper_catalog() -> str:
    """The key of the catalog's entries that the paper's own cells are counted from."""
    return hash_of(load_catalog().model_dump(mode="json", include={"models", "methods", "protocols"}))


def rule_name(*parts: object) -> str:
    """A name that Snakemake takes: `run_mmlu_0`."""
    return "_".join(map(str, parts)).replace("-", "_").replace(".", "_")
