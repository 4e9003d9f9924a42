"""SBoRA (arXiv 2407.05413) as a PEFT method. Importing this package registers it with PEFT."""

from ._peft import register
from .config import SboraConfig
from .exporting import export
from .layer import SboraLayer, SboraLinear
from .model import SboraModel

__all__ = ["SboraConfig", "SboraLayer", "SboraLinear", "SboraModel", "export"]

register("sbora", config_cls=SboraConfig, model_cls=SboraModel)
