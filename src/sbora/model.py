"""SBoRA as a PEFT tuner: puts the layers into a model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from peft import LoraConfig
from torch import Tensor, nn

from ._peft import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
    BaseTuner,
    BaseTunerLayer,
    _check_lora_target_modules_mamba,
    _get_encoder,
    get_quantization_kwargs,
    onload_layer,
)
from .base_model import PREFIX
from .config import SboraConfig
from .experts import ParamWrapper
from .layer import SboraLayer, SboraLinear
from .merge_order import overlap, span
from .merging import Combination, add_union
from .region import Region, Weights, checksum, checksum_with_names
from .states import check_loaded_index
from .targets import check_module, check_targets

SAVED_NAMES = {"weight": "sbora_weight", "index": "sbora_index"}  # of a region's tensors, in a saved adapter


class SboraModel(BaseTuner):
    """
    A model with SBoRA adapters (arXiv 2407.05413).

    Args:
        model (torch.nn.Module): The model to adapt.
        config (SboraConfig): The configuration of the adapter.
        adapter_name (str): The name of the adapter.
        low_cpu_mem_usage (bool, optional): Create the adapter on the meta device, to be loaded into.

    Examples:
        >>> from peft import get_peft_model
        >>> from transformers import AutoModelForCausalLM
        >>> from sbora import SboraConfig
        >>> model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")
        >>> model = get_peft_model(model, SboraConfig(variant="fa", r=32, sbora_alpha=64))
    """

    prefix: str = "sbora_"
    tuner_layer_cls = SboraLayer
    target_module_mapping = dict(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """A tensor's name in a saved adapter: `sbora_weight` and `sbora_index` of the layer."""
        owner, dot, tensor = key.rpartition(f".sbora_weight.{adapter_name}.")
        if dot and tensor in SAVED_NAMES:
            return f"{owner}.{SAVED_NAMES[tensor]}"
        return super()._remove_adapter_name_from_key(key, adapter_name)

    def _check_new_adapter_config(self, config: SboraConfig) -> None:
        super()._check_new_adapter_config(config)
        for name, other in self.peft_config.items():
            theirs, ours = set(other.target_parameters or ()), set(config.target_parameters or ())
            if theirs and ours and theirs != ours:
                raise ValueError(  # the nesting of the layers on parameters says which is which
                    f"Adapters of one model must name the same target_parameters, but adapter {name!r} has "
                    f"{sorted(theirs)}, the new one {sorted(ours)}."
                )

    def _prepare_adapter_config(self, peft_config: SboraConfig, model_config: dict) -> SboraConfig:
        known = model_config.get("model_type") in self.target_module_mapping
        if peft_config.target_modules is None and peft_config.target_parameters and not known:
            return peft_config  # parameters alone
        return super()._prepare_adapter_config(peft_config, model_config)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: SboraConfig, adapter_name: str, state_dict: dict, unwanted_adapter_names: list
    ) -> dict[str, Tensor]:
        """An adapter's tensors, when it is saved; the checksum of its index sets goes into its configuration."""
        tensors = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        saved = {cls._remove_adapter_name_from_key(key, adapter_name): tensor for key, tensor in tensors.items()}
        sets = _saved_index_sets(saved)
        config._saved_checksum = None if any(index.is_meta for index in sets.values()) else checksum(sets)
        for region in _regions(model, adapter_name):
            region.is_new = False
        return tensors

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: SboraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """An adapter's tensors under their names in the model.

        Raises:
            ValueError: the index sets are not those that the configuration was saved with.
        """
        if any(region.is_new for region in _regions(model, adapter_name)):
            loaded = _saved_index_sets(state_dict)  # those that a file leaves out are drawn
            _check_checksum(adapter_name, config, loaded, _index_sets(model, adapter_name) | loaded)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)

    def index_checksum(self, adapter_name: str = "default") -> str:
        """The checksum of an adapter's index sets as they are now: the same for copies, other where one has changed."""
        return checksum(_index_sets(self.model, adapter_name))

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's own, with the adapter's name checked before the model is changed.

        Raises:
            ValueError: modules cannot be named so.
        """
        if not adapter_name or "." in adapter_name or hasattr(Weights(), adapter_name):
            raise ValueError(
                f"An adapter cannot be named {adapter_name!r}: a module is named after it, whose name must have no dot "
                "and not be that of one of torch's own attributes."
            )
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        _call_layers_of_encoders(model)

    def _prepare_model(self, peft_config: SboraConfig, model: nn.Module) -> None:
        """Check all that the configuration targets, before the first of it is changed.

        Raises:
            TypeError: a target is not a linear layer, or a parameter of another kind or shape.
            ValueError: a rank is above what its module has.
        """
        check_targets(model, peft_config)

    def _check_target_module_compatiblity(self, peft_config: SboraConfig, model: nn.Module, target_name: str) -> None:
        """Refuse what PEFT refuses for LoRA: Mamba's fused kernel reads the weight of `out_proj` past its layer.

        Raises:
            ValueError: the module is one of these.
        """
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, target_name)
        except ValueError as error:
            raise ValueError(str(error).replace("PeftType.LORA", "PeftType.SBORA")) from None

    def _create_and_replace(
        self,
        peft_config: SboraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        key = current_key.replace("_orig_mod.", "")  # a compiled model gets the index sets of the plain one
        r, alpha = peft_config.rank_and_alpha(key)
        arguments = (adapter_name, key, r, alpha, peft_config)
        kind = SboraLinear if parameter_name is None else ParamWrapper
        if type(target) is kind and parameter_name in (None, target.parameter_name):
            target.update_layer(*arguments)
            return
        if parameter_name is not None:
            layer = ParamWrapper(target, *arguments, parameter_name=parameter_name)
        else:
            check_module(key, target, peft_config)
            layer = SboraLinear(target, *arguments, **get_quantization_kwargs(self))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # an adapter that is added does not train before it is chosen
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a module in another's place. PEFT's own wants a `weight` of both, which a head of layers lacks."""
        setattr(parent, child_name, new_module)

    def _add_modules_to_save_to_tie(self, peft_config: SboraConfig, tied_weight_keys: list[str]) -> None:
        """Train one copy of tied embeddings, the input's, which the others follow (`ensure_weight_tying`)."""
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        tied = (name, *tied_weight_keys)
        named = peft_config.modules_to_save or ()
        others = [m for m in named if not any(re.match(rf"(^|.*\.){m}($|\..*)", t) for t in tied)]
        peft_config.modules_to_save = [*others, name]
        peft_config.modules_to_tie = set(tied_weight_keys)

    def _add_targets_to_tie(self, peft_config: SboraConfig, tied_weight_keys: list[str]) -> None:
        raise ValueError(
            "SboraConfig: ensure_weight_tying is True, but target_modules names a tied embedding or its head, and "
            "SBoRA adapts linear layers, not embeddings: name it in modules_to_save instead."
        )

    def add_weighted_adapter(
        self,
        adapters: list[str],
        adapter_name: str | list[float],
        weights: list[float] | str | None = None,
        combination_type: str = "sum",
        density: float | None = None,
        majority_sign_method: Literal["total", "frequency"] = "total",
    ) -> None:
        """Join adapters in a new one whose update is the (weighted) sum of theirs, exactly and without an SVD.

        In every layer the index sets unite. Where they are disjoint (see `SboraConfig.region`) the new rank
        is the sum of theirs, and the new adapter is no larger than its parts; where they overlap the updates
        add up. The new adapter is saved and loaded like any other, and is not active before it is chosen.

        Args:
            adapters: names of adapters, of one variant.
            adapter_name: the name of the new one.
            weights: what to multiply each update with; 1 by default. PEFT's LoRA has it before the name, and so
                may these be.
            combination_type: `"sum"`; or `"ties"` (arXiv 2306.01708), `"dare_linear"`, `"dare_ties"` (arXiv
                2311.03099) or `"magnitude_prune"`, which PEFT applies to LoRA's factors and SBoRA to the
                updates themselves. DARE draws from the first adapter's `random_seed`. LoRA's `"linear"` and
                `"cat"` both mean the sum here.
            density: the part of each update, in (0, 1], that the other types keep.
            majority_sign_method: how `"ties"` and `"dare_ties"` elect a sign, `"total"` or `"frequency"`.

        Raises:
            ValueError: a name is unknown or taken, the variants differ, an adapter trains modules in full, or
                the type is none of these, or lacks its density.
        """
        how = Combination(combination_type, density, majority_sign_method)
        if isinstance(weights, str):
            adapter_name, weights = weights, adapter_name
        add_union(self, adapters, cast("str", adapter_name), cast("list[float] | None", weights), how)

    def train_merged(self, enabled: bool = True) -> None:
        """Train with the adapter merged into the base weight, the fastest way, or go back to the usual one.

        Before each pass the adapter's region of the weight is written anew, and the layer costs what the
        frozen one does, but for the region's gradient. In fp32 nothing else changes; a base of 16 bits
        rounds the sum of base and adapter, as after a merge, so that the model that is trained is the one
        that will be deployed. The adapter itself stays in fp32, and the base's own bits come back when this
        is switched off, and before merging, unloading or disabling.

        Raises:
            ValueError: the base is quantised, sharded or offloaded, there is dropout, several adapters are
                active, or a weight has another user, which would see the merged weight.
        """
        layers = [module for module in self.model.modules() if isinstance(module, SboraLayer)]
        if enabled:
            for layer in layers:
                layer._check_train_merged()
            _check_weights_have_one_user(self.model, layers)
        for layer in layers:
            layer.train_merged(enabled)

    def disable_adapter_layers(self) -> None:
        """Leave the adapters out. Merged ones are taken out first, the one that was merged last before the others."""
        for module in reversed(list(self.model.modules())):
            if isinstance(module, SboraLayer) and module.merged:
                with onload_layer(module):
                    module.unmerge()
        super().disable_adapter_layers()

    def unmerge_adapter(self) -> None:
        """Take the merged adapters out of the base weights, the layer that was merged last first: where two layers
        are on one weight, so the base's own bits come back."""
        for module in reversed(list(self.model.modules())):
            if isinstance(module, BaseTunerLayer):
                with onload_layer(module):
                    module.unmerge()

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        self.train_merged(False)
        return super()._unload_and_optionally_merge(*args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, the adapter of each item of a batch, to the layers during a forward pass."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = {name for m in self.modules() if isinstance(m, SboraLayer) for name in m.sbora_weight}
        unknown = sorted(set(adapter_names) - known - {"__base__"})
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")

        # beam search repeats each input; an encoder runs before that
        num_beams = kwargs.get("num_beams")
        repeats = num_beams if isinstance(num_beams, int) else 1
        encoder = _get_encoder(self.model)
        in_encoder = set(encoder.modules()) if encoder is not None else set()
        handles = []
        for module in self.modules():
            if isinstance(module, (SboraLayer, AuxiliaryTrainingWrapper)):
                times = 1 if module in in_encoder else repeats
                names = [name for name in adapter_names for _ in range(times)]
                hook = partial(_pass_adapter_names, adapter_names=names)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _regions(model: nn.Module, adapter_name: str) -> list[Region]:
    layers = [m for m in model.modules() if isinstance(m, SboraLayer) and adapter_name in m.sbora_weight]
    return [layer.sbora_weight.region(adapter_name) for layer in layers]


def _index_sets(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """An adapter's index sets by name of module in the base model; `model` is that, with or without PEFT around it."""
    return {
        name.removeprefix(PREFIX): layer.sbora_index[adapter_name]
        for name, layer in model.named_modules()
        if isinstance(layer, SboraLayer) and adapter_name in layer.sbora_weight
    }


def _saved_index_sets(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    end = ".sbora_index"
    return {key.removeprefix(PREFIX).removesuffix(end): index for key, index in saved.items() if key.endswith(end)}


def _check_checksum(adapter_name: str, config: SboraConfig, *allowed: dict[str, Tensor]) -> None:
    known = [sets for sets in allowed if not any(index.is_meta for index in sets.values())]
    checksums = [checksum_of(sets) for sets in known for checksum_of in (checksum, checksum_with_names)]
    if config._loaded_checksum not in (None, *checksums):
        raise ValueError(
            f"The index sets of adapter {adapter_name!r} are not those that it was saved with (index_checksum in "
            "adapter_config.json): the file was changed, or averaged with others, or belongs to another adapter."
        )


@contextmanager
def checksum_of_file(model: nn.Module, adapter_name: str, folder: Path) -> Iterator[None]:
    """Have what is loaded over an adapter compared with the checksum beside the file."""
    config, regions = model.peft_config[adapter_name], _regions(model, adapter_name)
    file = folder / "adapter_config.json"
    loaded, new = config._loaded_checksum, [region.is_new for region in regions]
    if file.is_file():
        config._loaded_checksum = json.loads(file.read_text()).get("index_checksum")
        for region in regions:
            region.is_new = True
    try:
        yield
    finally:
        config._loaded_checksum = loaded
        for region, was_new in zip(regions, new, strict=True):
            region.is_new = region.is_new and was_new


def check_loaded(model: nn.Module, adapter_name: str) -> None:
    """Check an adapter that was loaded past PEFT and past torch's `load_state_dict`, as transformers does.

    Args:
        model: transformers' model with the adapter in it.

    Raises:
        ValueError: its index sets are broken, or not those that it was saved with.
    """
    config, sets = model.peft_config[adapter_name], _index_sets(model, adapter_name)
    if not isinstance(config, SboraConfig) or any(index.is_meta for index in sets.values()):
        return
    _check_checksum(adapter_name, config, sets)
    for layer in model.modules():
        if isinstance(layer, SboraLayer) and adapter_name in layer.sbora_weight:
            check_loaded_index(layer, None)


def _check_weights_have_one_user(model: nn.Module, layers: list[SboraLayer]) -> None:
    users: dict[int, list[tuple[str, range]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for own, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta and type(parameter.data) is Tensor:
                users.setdefault(parameter.untyped_storage().data_ptr(), []).append((f"{name}.{own}", span(parameter)))
    for layer in layers:
        weight = layer.base_weight()
        others = [] if weight.is_meta else users[weight.untyped_storage().data_ptr()]
        names = [name for name, bytes_of_other in others if overlap(bytes_of_other, span(weight))]
        if len(names) > 1 and layer._present_adapters():
            raise ValueError(
                f"train_merged needs weights with one user, but {' and '.join(map(repr, names))} are one: the adapter "
                "would be merged into both."
            )


def _call_layers_of_encoders(model: nn.Module) -> None:
    """Make torch's encoders call their adapted layers in eval mode too, where one kernel would take the bare weights.

    They leave that kernel where a hook watches a module.
    """
    for encoder in model.modules():
        if isinstance(encoder, (nn.TransformerEncoder, nn.TransformerEncoderLayer)):
            layers = [module for module in encoder.modules() if isinstance(module, SboraLayer)]
            if layers and isinstance(encoder, nn.TransformerEncoder):
                encoder.use_nested_tensor = False  # which that kernel alone understands
            for layer in layers:
                if not layer._forward_pre_hooks:
                    layer.register_forward_pre_hook(_watch)


def _watch(module: nn.Module, args: tuple) -> None:
    """A hook that does nothing."""


def _pass_adapter_names(module: nn.Module, args: tuple, kwargs: dict, adapter_names: list[str]) -> tuple:
    return args, kwargs | {"adapter_names": adapter_names}
