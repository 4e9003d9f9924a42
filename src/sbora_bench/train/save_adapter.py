"""An adapter's folder, as a training leaves it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench.files import write_json
from sbora_bench.results.folders import ADAPTER_CONFIG

if TYPE_CHECKING:
    import torch


def save_adapter(
    model: "torch.nn.Module",
    folder: Path,
    base_name: str,
    tensors: dict | None = None,
    first_values: Path | None = None,
) -> None:
    """Save the adapter alone, with the same bytes each time: sets sorted, no path of this machine in it.

    `tensors`: of a sharded model, gathered; `first_values`: the adapter's, where it began by changing its base.
    """
    converted = {"path_initial_model_for_weight_conversion": str(first_values)} if first_values else {}
    model.save_pretrained(
        str(folder), safe_serialization=True, save_embedding_layers=False, state_dict=tensors, **converted
    )
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    config["base_model_name_or_path"] = base_name
    write_json(path, config)
