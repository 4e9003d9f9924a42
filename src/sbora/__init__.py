"""SBoRA (arXiv 2407.05413) as a PEFT method. Importing this package registers it with PEFT."""

from ._peft import check_when_transformers_loads, hold_when_peft_loads, register, rename_when_transformers_loads
from .config import SboraConfig
from .experts import ParamWrapper
from .exporting import export
from .index_init import preprocess_index
from .layer import SboraLayer, SboraLinear
from .model import SAVED_NAMES, SboraModel, check_loaded, checksum_of_file

__all__ = ["ParamWrapper", "SboraConfig", "SboraLayer", "SboraLinear", "SboraModel", "export", "preprocess_index"]

register("sbora", config_cls=SboraConfig, model_cls=SboraModel)
rename_when_transformers_loads("SBORA", {saved: ("sbora_weight", name) for name, saved in SAVED_NAMES.items()})
check_when_transformers_loads("SBORA", check_loaded)
hold_when_peft_loads("SBORA", checksum_of_file)
