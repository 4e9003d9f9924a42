"""The folder of a saved PEFT adapter, whoever wrote it: config and safetensors, checked before PEFT reads them."""

from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import read_json
from sbora_bench.results.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS


def read_adapter(folder: Path) -> dict[str, Any]:
    """The config of an adapter. Raises UserError where one of the two files is missing or damaged, and for a type that
    PEFT doesn't know.
    """
    from safetensors import SafetensorError, safe_open

    from sbora_bench.inputs.adapters import peft_types

    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(
                f"{folder / file}: no such file; an adapter is {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} (no other"
                " format is read)"
            )
    config = read_json(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    known = list(peft_types())
    if kind not in known:
        raise UserError(f"{folder / ADAPTER_CONFIG}: peft_type: {one_of(str(kind), known, 'PEFT method')}")
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt"):
            pass
    except SafetensorError as error:
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: not a whole safetensors file ({error})") from None
    return config
