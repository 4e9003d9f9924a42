"""Full fine-tuning as a PEFT method, `FULL`: every weight of the base is trained in place, and saved as an adapter is.

So the reference for all methods passes through the same stages, checks and records. The adapter's file holds all
weights; loading it overwrites the base's, and there is no base left to go back to.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.ln_tuning.model import LNTuningModel
from peft.utils import register_peft_method

from sbora._peft import peft_type

FULL = peft_type("FULL")


@dataclass
class FullConfig(PeftConfig):
    """Config of full fine-tuning; it targets every module that has weights of its own."""

    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = FULL


class FullLayer(LNTuningLayer):
    """PEFT's layer that is trained whole, without the copy that PEFT makes of it: base and adapter are one."""

    def update_layer(self, layer: torch.nn.Module, adapter_name: str, config: FullConfig, **_: Any) -> None:
        self.ln_tuning_layers[adapter_name] = layer
        self.set_adapter(adapter_name, inference_mode=config.inference_mode)


class FullModel(LNTuningModel):
    """All weights of a base are the adapter's; a weight that two modules share is trained and saved once."""

    tuner_layer_cls = FullLayer

    def _prepare_model(self, peft_config: FullConfig, model: torch.nn.Module) -> None:
        names: list[str] = []
        seen: set[int] = set()
        for name, module in model.named_modules():
            own = {id(parameter) for parameter in module.parameters(recurse=False)}
            inside = any(name.startswith(f"{outer}.") for outer in names)
            if own and not own <= seen and not inside:
                names.append(name)
                seen |= {id(parameter) for parameter in module.parameters()}
        self.targets = set(names)

    @staticmethod
    def _prepare_adapter_config(peft_config: FullConfig, model_config: dict[str, Any]) -> FullConfig:
        return peft_config

    def _check_target_module_exists(self, peft_config: FullConfig, key: str) -> bool:
        return key in self.targets

    def _create_new_module(self, peft_config: FullConfig, target: torch.nn.Module, adapter_name: str) -> FullLayer:
        if any(not parameter.is_floating_point() for parameter in target.parameters()):
            raise ValueError("all weights are trained, so none may be quantised")
        return FullLayer(target, adapter_name, config=peft_config)

    def _mark_only_adapters_as_trainable(self, model: torch.nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        for module in model.modules():
            if isinstance(module, FullLayer):
                module.base_layer.requires_grad_(True)

    def _replace_module(self, parent: Any, child_name: str, new_module: Any, child: Any) -> None:
        setattr(parent, child_name, new_module)


register_peft_method(name="full", config_cls=FullConfig, model_cls=FullModel, prefix=FullModel.prefix)
