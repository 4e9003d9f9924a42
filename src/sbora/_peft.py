"""Everything that PEFT keeps private or closed, in one place: registration and private imports.

PEFT 0.21 lists its methods in a closed enum and has no hook for methods that live elsewhere, so
`register` adds a real member to it. The helpers re-exported below have no public name; the version
of PEFT is pinned in `pyproject.toml`, and a test names each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.model import _get_encoder
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _check_lora_target_modules_mamba,
    _get_in_out_features,
    _maybe_include_all_linear_layers,
    check_adapters_to_merge,
    check_target_module_exists,
    onload_layer,
)
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    PeftType,
    get_quantization_kwargs,
    merge_utils,
    quantization_extra_repr,
    register_peft_method,
    resolve_quantization_backend,
    transformers_weight_conversion,
)
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from transformers.core_model_loading import WeightRenaming
from transformers.integrations.peft import PeftAdapterMixin

__all__ = [
    "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
    "AuxiliaryTrainingWrapper",
    "BaseTuner",
    "BaseTunerLayer",
    "PeftType",
    "_check_lora_target_modules_mamba",
    "_get_encoder",
    "_get_in_out_features",
    "_maybe_include_all_linear_layers",
    "check_when_transformers_loads",
    "check_adapters_to_merge",
    "check_target_module_exists",
    "get_pattern_key",
    "get_quantization_kwargs",
    "hold_when_peft_loads",
    "onload_layer",
    "merge_utils",
    "peft_type",
    "quantization_extra_repr",
    "register",
    "rename_when_transformers_loads",
    "resolve_quantization_backend",
]


def peft_type(name: str) -> PeftType:
    """The member `name` of PEFT's enum of methods, added to it if it is not there yet.

    A plain string would do for PEFT's own dictionaries, but transformers and PEFT's hotswap read
    `.value` of what they find there.
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = name
        member._value_ = name
        member._sort_order_ = len(PeftType.__members__)
        member.__objclass__ = PeftType
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        if hasattr(PeftType, "_hashable_values_"):  # Python 3.13 looks values up here first
            PeftType._hashable_values_.append(name)
        type.__setattr__(PeftType, name, member)  # from 3.12 on members are plain class attributes
    return PeftType[name]


def register(name: str, config_cls: type, model_cls: type) -> None:
    """Make PEFT know the method `name`; a second call with the same classes changes nothing.

    Raises:
        ImportError: other classes are registered under this name.
    """
    member = peft_type(name.upper())
    owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if owner is config_cls:
        return
    if owner is not None:
        raise ImportError(
            f"PEFT already knows a method {name.upper()!r}, from {owner.__module__}.{owner.__qualname__}: "
            f"two packages cannot both provide it in one process, import only one of them."
        )
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)


def hold_when_peft_loads(name: str, context: Callable[..., AbstractContextManager]) -> None:
    """Make PEFT's `load_adapter`, which does not read the configuration beside a file that it loads over an adapter,
    load a method's adapters within a context.

    Args:
        name: the method.
        context: (model, adapter's name, the file's folder) -> the context.
    """
    load = PeftModel.load_adapter
    if name in getattr(load, "held_methods", ()):
        return

    @wraps(load)
    def hold_and_load(self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as held:
            if getattr(self.peft_config.get(adapter_name), "peft_type", None) == name:
                held.enter_context(context(self, adapter_name, Path(model_id, kwargs.get("subfolder") or "")))
            return load(self, model_id, adapter_name, *args, **kwargs)

    holding: Any = hold_and_load
    holding.held_methods = (*getattr(load, "held_methods", ()), name)
    PeftModel.load_adapter = holding


def check_when_transformers_loads(name: str, check: Callable[[Any, str], None]) -> None:
    """Make transformers' `load_adapter`, which sets tensors past all hooks of modules, check a method's adapters.

    Args:
        name: the method.
        check: (model, adapter's name); what it raises is raised by `load_adapter`, and the adapter is taken out again.
    """
    load = PeftAdapterMixin.load_adapter
    if name in getattr(load, "checked_methods", ()):
        return

    @wraps(load)
    def load_and_check(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = set(getattr(self, "peft_config", ()))
        info = load(self, *args, **kwargs)
        for adapter_name in set(self.peft_config) - before:
            if self.peft_config[adapter_name].peft_type == name:
                try:
                    check(self, adapter_name)
                except ValueError:
                    self.delete_adapter(adapter_name)
                    raise
        return info

    checking: Any = load_and_check
    checking.checked_methods = (*getattr(load, "checked_methods", ()), name)
    PeftAdapterMixin.load_adapter = checking


def rename_when_transformers_loads(name: str, names: dict[str, tuple[str, str]]) -> None:
    """Make transformers' `load_adapter`, which takes no word from the tuner, find a method's tensors.

    Args:
        name: the method.
        names: a tensor's name in a saved adapter -> its names in the model before and behind the adapter's.
    """
    build = transformers_weight_conversion.build_peft_weight_mapping
    if name in getattr(build, "renamed_methods", ()):
        return

    @wraps(build)
    def build_and_rename(weight_conversions: list | None, adapter_name: str, peft_config: Any = None) -> list:
        built = build(weight_conversions, adapter_name, peft_config=peft_config)
        if built and getattr(peft_config, "peft_type", None) == name:
            for saved, (container, tensor) in names.items():
                own = f"{container}.{adapter_name}.{tensor}"
                built.append(WeightRenaming(rf"{saved}\.{re.escape(adapter_name)}$", own))
        return built

    renaming: Any = build_and_rename
    renaming.renamed_methods = (*getattr(build, "renamed_methods", ()), name)
    transformers_weight_conversion.build_peft_weight_mapping = renaming
