"""The SBoRA layer: a linear layer with one or more adapters beside it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from . import functional, merge_order, states
from ._peft import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge, quantization_extra_repr
from .config import SboraConfig
from .index_init import choose, find_scores, weight_scores
from .quantized import dequantize, keep_quantized, quantization_backend, requantize, restore_quantized
from .region import UNDECIDED, IndexSets, Region, Weights, draw_index, in_order
from .sharded import own_part, whole, write_back


def _filled(name: str) -> property:
    """A dictionary that the regions hold too: what is put in its place is copied into it."""

    def read(layer: SboraLayer) -> dict[str, float]:
        return layer.__dict__[name]

    def fill(layer: SboraLayer, items: dict[str, float]) -> None:
        items = dict(items)  # which may be the very dictionary that is emptied
        own = layer.__dict__.setdefault(name, {})
        own.clear()
        own.update(items)

    return property(read, fill)


class SboraLayer(BaseTunerLayer):
    """What SBoRA keeps beside a linear layer, by name of adapter.

    Attributes:
        sbora_weight: the regions; an item is the trained matrix, (out_features, r) for FA, (r, in_features)
            for FB.
        sbora_index: the regions' index sets.
    """

    adapter_layer_names = ("sbora_weight",)
    cast_input_dtype_enabled = True  # of PEFT's layers: the weight follows the input here, so it changes nothing
    region_class = Region
    parameter_name = "weight"
    experts: tuple[int, ...] = ()  # how many weights are adapted at once, if it is not one
    other_param_names = ("sbora_dropout", "variant", "r", "sbora_alpha", "sbora_scaling", "scaling")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.sbora_weight = Weights()
        self.sbora_dropout = {}
        self.variant: dict[str, str] = {}
        self.r: dict[str, int] = {}
        self.sbora_alpha: dict[str, float] = {}
        self.sbora_scaling: dict[str, float] = {}  # as configured
        self.scaling = {}
        # what the merged adapters replaced; no buffers, which averages, broadcasts and offloading would see
        self._replaced: dict[str, merge_order.Replaced] = {}
        self._replaced_quantized: dict[str, tuple] = {}
        self._train_merged = False
        self._writes = 0  # how often the merged region has been written in that mode
        self._merged_index: _Noted | None = None
        self._merged_base: _Noted | None = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

        self._measure(self.get_base_layer(), **kwargs)

    def _measure(self, base_layer: nn.Module, **kwargs: Any) -> None:
        self.quantization_backend = quantization_backend(base_layer, **kwargs)
        self.in_features, self.out_features = _get_in_out_features(base_layer)
        self.fan_in_fan_out = isinstance(base_layer, Conv1D)  # its weight is (in_features, out_features)

    def base_weight(self) -> nn.Parameter:
        """The weight that is adapted, as stored."""
        return self.get_base_layer().weight

    def update_layer(self, adapter_name: str, module: str, r: int, alpha: float, config: SboraConfig) -> None:
        """Add an adapter.

        Args:
            module: the layer's name in the model, which with the seed determines the index set.

        Raises:
            ValueError: r is above the number of inputs (FA) or outputs (FB), or of those in the region.
        """
        self.sbora_dropout[adapter_name] = config.sbora_dropout
        self.variant[adapter_name] = config.variant
        self.r[adapter_name] = r
        self.sbora_alpha[adapter_name] = alpha
        self.scaling[adapter_name] = self.sbora_scaling[adapter_name] = config.scaling(r, alpha)
        shape = (*self.experts, *((self.out_features, r) if config.variant == "fa" else (r, self.in_features)))
        weight = torch.zeros(shape) if config.init_weights else torch.randn(shape) / math.sqrt(r)
        drawn_by = (config.variant, r, config.random_seed, config.region, config.index_init)
        index = self._index_drawn_by(drawn_by, module)
        self.sbora_weight[adapter_name] = self.region_class(self, adapter_name, weight, index, drawn_by)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def sbora_index(self) -> IndexSets:
        return IndexSets(self.sbora_weight)

    scaling, sbora_dropout = _filled("scaling"), _filled("sbora_dropout")

    def _index_drawn_by(self, drawn_by: tuple, module: str) -> Tensor:
        variant, r, seed, part, init = drawn_by
        # TRL copies an adapter into another of the same configuration, parameter by parameter: an index set that
        # was loaded must come along, but where there is data to choose by
        if find_scores(self.get_base_layer(), self.parameter_name, variant, init) is None:
            for name in self.sbora_weight:
                region = self.sbora_weight.region(name)
                if region.drawn_by == drawn_by:
                    return region.index.clone()
        size = self.in_features if variant == "fa" else self.out_features
        modules = [f"{module}.{e}" for e in range(*self.experts)] if self.experts else [module]
        if init == "random":
            sets = [draw_index(size, r, seed, name, part) for name in modules]
        else:
            scores = self._scores(variant, init)
            sets = [
                choose(scores[i], in_order(size, seed, name, part), r)
                if scores is not None
                else torch.full((r,), UNDECIDED)
                for i, name in enumerate(modules)
            ]
        return torch.stack(sets) if self.experts else sets[0]

    def _scores(self, variant: str, init: str) -> Tensor | None:
        """How the columns (FA) or rows (FB) score, (experts or 1, size); None where that is not known yet."""
        if init != "weight":
            scores = find_scores(self.get_base_layer(), self.parameter_name, variant, init)
        elif any(parameter.is_meta for parameter in self.get_base_layer().parameters()):
            return None
        else:
            try:
                weight = self.base_weight() if self.quantization_backend is None else dequantize(self)
            except TypeError:  # of a kind that only runs; a saved index set can be loaded
                return None
            scores = weight_scores(weight, self._dim_of(variant))
        return scores if scores is None or self.experts else scores[None]

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        device, dtype = super()._get_base_layer_device_and_dtype(base_layer)
        return runs_on(base_layer, device), dtype

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        device = device or self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        if device is not None and adapter_name in self.sbora_index:
            self.sbora_index[adapter_name] = self.sbora_index[adapter_name].to(device)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scaling to `scale` times that of its configuration."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.sbora_scaling[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the scaling of the active adapters by `scale`."""
        for name in self._present_adapters():
            self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scaling of the active adapters by `scale`; without one, set it as configured."""
        for name in self._present_adapters():
            if scale is None:
                self.set_scale(name, 1)
            else:
                self.scaling[name] /= scale

    def _region_dim(self, adapter: str) -> int:
        """The dimension of the base weight as stored, from the end, that the adapter's index set points into."""
        return self._dim_of(self.variant[adapter])

    def _dim_of(self, variant: str) -> int:
        return -1 if (variant == "fa") != self.fan_in_fan_out else -2

    def _read_region(self, weight: Tensor, adapter: str, index: Tensor) -> Tensor:
        """The columns or rows of a base weight as stored that an index set of the adapter points at."""
        return weight.index_select(self._region_dim(adapter), index)

    def _write_region(self, weight: Tensor, adapter: str, index: Tensor, values: Tensor) -> Tensor:
        """Overwrite them."""
        return weight.index_copy_(self._region_dim(adapter), index, values)

    def _add_to_region(self, region: Tensor, adapter: str, weight: Tensor, scaling: float) -> Tensor:
        """The region of the base weight with an update of an adapter's added in at least fp32, rounded once."""
        delta = whole(weight.detach()).to(region.device)
        delta = delta.to(torch.promote_types(delta.dtype, torch.float32))
        delta = delta.transpose(-2, -1) if self.fan_in_fan_out else delta
        return torch.add(region, delta, alpha=float(scaling)).to(region.dtype)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What the adapter adds to the base weight, of its shape, zero outside the region."""
        weight, index = whole(self.sbora_weight[adapter]), self.sbora_index[adapter]
        update = weight.detach() * self.scaling[adapter]
        shape = (*self.experts, self.out_features, self.in_features)
        delta = weight.new_zeros(shape).transpose(-2, -1) if self.fan_in_fan_out else weight.new_zeros(shape)
        update = update.transpose(-2, -1) if self.fan_in_fan_out else update
        return self._write_region(delta, adapter, index, update)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class SboraLinear(nn.Module, SboraLayer):
    """SBoRA on a linear layer: `nn.Linear`, transformers' `Conv1D`, or a quantised one."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        module: str,
        r: int,
        alpha: float,
        config: SboraConfig,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        SboraLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, module, r, alpha, config)
        states.watch(self)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight.

        Only the adapters' regions are read and written, and what stood there is kept, so that `unmerge`
        gives back the same bits. The sum is made in at least fp32 and rounded once. A quantised weight is
        quantised anew as a whole, which changes it outside the region too; it is kept as a whole.

        Args:
            safe_merge: do not write if the result is not finite.
            adapter_names: which adapters; the active ones by default.

        Raises:
            ValueError: with `safe_merge`, the result is not finite. Nothing was changed.
        """
        self.train_merged(False)
        for name in check_adapters_to_merge(self, adapter_names) or []:
            if name in self.sbora_weight:
                self._merge_one(name, safe_merge)

    def _merge_one(self, name: str, safe_merge: bool = False) -> None:
        self.sbora_weight.region(name).check_decided()
        self._check_stored()
        quantized = self.quantization_backend is not None
        stored = self.base_weight().data if not quantized else None
        weight = dequantize(self) if stored is None else whole(stored)
        index = self.sbora_index[name].to(weight.device)
        values = self._read_region(weight, name, index)
        merged = self._add_to_region(values, name, self.sbora_weight[name], self.scaling[name])
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        if stored is None:
            self._replaced_quantized[name] = keep_quantized(self)
            requantize(self, self._write_region(weight, name, index, merged))
        else:
            replaced = self._replaced[name] = merge_order.Replaced(values, index.clone())
            if not self._train_merged:  # where it would be another copy of the region in every layer
                replaced.written, replaced.below = merged, self._merged_below()
                merge_order.note(own_part(stored), replaced.merge)
            write_back(stored, self._write_region(weight, name, index, merged))
        self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take all merged adapters out of the base weight: it has the same bits as before.

        Raises:
            ValueError: something else has changed the region since, an adapter below or of another layer on the
                same weight, and would be lost. Nothing was changed.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            name = self.merged_adapters[-1]  # the last one first, for regions may overlap
            if name in self._replaced_quantized:
                restore_quantized(self, self._replaced_quantized.pop(name))
            elif name in self._replaced:
                stored, replaced = self.base_weight().data, self._replaced[name]
                weight, part = whole(stored), own_part(stored)
                index = replaced.index.to(weight.device)
                if replaced.written is not None:
                    if replaced.below != self._merged_below() or not merge_order.is_last(part, replaced.merge):
                        raise merge_order.changed_since(name)
                    merge_order.check_untouched(name, self._read_region(weight, name, index), replaced.written)
                    merge_order.forget(part, replaced.merge)
                else:
                    self._check_base_untouched()
                del self._replaced[name]
                write_back(stored, self._write_region(weight, name, index, replaced.values.to(weight)))
            self.merged_adapters.pop()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for replaced in self._replaced.values():
            replaced.apply(fn)
        super()._apply(fn, recurse)
        self._note_base()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._note_base()  # a copy has a weight of its own

    def _note_base(self) -> None:
        self._merged_base = self._merged_base and _note(self.base_weight())

    def _check_base_untouched(self) -> None:
        if self.merged and not _is_as_noted(self.base_weight(), self._merged_base):
            raise RuntimeError(
                f"The base weight was written to or replaced while adapter {self.merged_adapters[0]!r} was merged into "
                "it (train_merged), and what it was without is lost: load the base anew, after train_merged(False)."
            )

    def _merged_below(self) -> list[list[str]]:
        """The merged adapters of each layer of adapters on the same weight between this one and the base."""
        merged, layer = [], self.base_layer
        while isinstance(layer, BaseTunerLayer):
            if getattr(layer, "parameter_name", "weight") == self.parameter_name:
                merged.append(list(layer.merged_adapters))
            layer = layer.base_layer
        return merged

    def _check_stored(self) -> None:
        """Refuse to write where nothing stays: to a weight that is computed anew in every pass.

        Raises:
            ValueError: it is.
        """
        base, name = self.get_base_layer(), self.parameter_name
        pruned = base._parameters.get(name) is None and any(p.startswith(f"{name}_") for p in base._parameters)
        if self.quantization_backend is None and (pruned or parametrize.is_parametrized(base, name)):
            raise ValueError(
                "An adapter cannot be merged into a weight that is computed anew in every pass (parametrised, pruned "
                "or normalised): make that permanent first, with torch.nn.utils.parametrize.remove_parametrizations, "
                "prune.remove or remove_weight_norm."
            )

    def train_merged(self, enabled: bool = True) -> None:
        """See [`SboraModel.train_merged`]."""
        if enabled == self._train_merged:
            return
        if enabled:
            self._check_train_merged()
        if self.merged:
            self.unmerge()
        self._train_merged = enabled
        if self.quantization_backend is None:
            weight = self.base_weight()
            # columns are written in every pass: lay them out as rows, which changes no value
            by_columns = enabled and any(self._region_dim(name) == -1 for name in self._present_adapters())
            if by_columns and weight.untyped_storage().nbytes() > weight.nbytes:
                by_columns = False  # it would be cut from the memory that it is a part of
            weight.data = weight.data.t().contiguous().t() if by_columns else weight.data.contiguous()

    def _check_train_merged(self) -> None:
        names = self._present_adapters()
        if not names:
            return
        if self.quantization_backend is not None:
            raise ValueError("train_merged needs a base that is not quantised: it would be quantised in every pass.")
        if len(names) > 1:
            raise ValueError(f"train_merged needs one active adapter, but there are {len(names)}: {names}.")
        if any(self.sbora_dropout[name] for name in names):
            raise ValueError(
                "train_merged needs sbora_dropout = 0: the merged weight sees the same input as the base does."
            )
        self._check_stored()
        weight = self.base_weight()
        if weight.requires_grad:
            raise ValueError("train_merged needs a frozen base weight: what it learns in the region would be lost.")
        if type(weight.data) is not Tensor or (weight.is_meta and hasattr(self.get_base_layer(), "_hf_hook")):
            raise ValueError("train_merged needs a base weight that is whole and in place, not sharded or offloaded.")

    def _present_adapters(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.sbora_weight]

    def _forward_merged(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if functional.plain():
            raise RuntimeError(
                "train_merged writes to the base weight in every pass, which torch.compile, tracers, torch.func and "
                "forward-mode differentiation do not allow: switch it off first, train_merged(False)."
            )
        self._check_train_merged()  # adapters may have been switched since
        names = self._present_adapters()
        if not names:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        name = names[0]
        region = self.sbora_weight.region(name)
        y_of = lambda x: self.base_layer(x, *args, **kwargs)  # noqa: E731
        return region(x, below=y_of, merging=partial(self._write_merged, name, self.base_weight()))

    def _write_merged(self, name: str, base: Tensor, weight: Tensor, scaling: float, written: int | None = None) -> int:
        """Let the base weight hold the sum of itself and one adapter, before a pass or before its backward.

        Args:
            base, weight, scaling: the base weight, and the adapter's, at the pass.
            written: what the pass got back from here; nothing is done if nothing was written since.

        Raises:
            RuntimeError: the mode was left since the pass, or the base weight replaced or written to by others.
        """
        if written is not None and (not self._train_merged or base is not self.base_weight()):
            raise RuntimeError(
                f"The base weight was merged with adapter {name!r} in the forward pass and has been replaced or "
                "unmerged for good (train_merged(False), merge, unload) before the backward pass, whose gradients "
                "would be wrong."
            )
        if written is not None and written == self._writes and self.merged_adapters == [name]:
            return written
        self._check_base_untouched()
        index = self.sbora_index[name]
        if self.merged_adapters != [name] or not _is_as_noted(index, self._merged_index):
            if self.merged:
                self.unmerge()
            self._merge_one(name)
            self._merged_index, self._merged_base = _note(index), _note(base)
        replaced = self._replaced[name]
        merged = self._add_to_region(replaced.values, name, weight, scaling)
        self._write_region(base.data, name, replaced.index, merged)
        self._writes += 1
        return self._writes

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in_features) -> (..., out_features). `adapter_names`: the adapter of each item of a batch."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is not None:
            self._check_mixed_batch(x, adapter_names)
        if self._disable_adapters:
            if self.merged_adapters:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, *args, adapter_names=adapter_names, **kwargs)
        if self._train_merged:
            return self._forward_merged(x, *args, **kwargs)
        if self.merged_adapters:
            return self.base_layer(x, *args, **kwargs)

        def y_of(x: Tensor) -> Tensor:
            return self.base_layer(x, *args, **kwargs)

        for name in self._present_adapters():
            region: Callable[..., Tensor] = self.sbora_weight.region(name)
            y_of = partial(region, below=y_of)
        return y_of(x)

    def _check_mixed_batch(self, x: Tensor, adapter_names: list[str]) -> None:
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )

    def _mixed_batch_forward(self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Tensor:
        y = self.base_layer(x, *args, **kwargs)
        for name in sorted(set(adapter_names) & set(self.sbora_weight.keys())):
            rows = torch.tensor([i for i, other in enumerate(adapter_names) if other == name], device=x.device)
            part = self.sbora_weight.region(name)(x[rows], below=lambda _, part=y[rows]: part)
            y = y.index_copy(0, rows, part)
        return y

    def __repr__(self) -> str:
        return "sbora." + super().__repr__()

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)


def runs_on(module: nn.Module, device: torch.device | None) -> torch.device | None:
    """Where a module runs whose weight is on a device: elsewhere, if it is offloaded."""
    hook: Any = getattr(module, "_hf_hook", None)
    if device is None or device.type != "meta" or not getattr(hook, "offload", False):
        return device
    return torch.device("cpu" if hook.execution_device is None else hook.execution_device)


_Noted = tuple[Tensor, int]  # a tensor, and how often it had been written to


def _note(tensor: Tensor) -> _Noted:
    return tensor, 0 if tensor.is_inference() else tensor._version


def _is_as_noted(tensor: Tensor, noted: _Noted | None) -> bool:
    return noted is not None and tensor is noted[0] and noted[1] == _note(tensor)[1]
