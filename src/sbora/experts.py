"""SBoRA on a parameter that is no linear layer's: the experts of a mixture, kept in one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .layer import SboraLinear, runs_on
from .operand import Adapter, Operand
from .region import Region
from .targets import in_dimension


class ParameterRegion(Region):
    """One adapter of one parameter. Its forward is the pass of the module that the parameter belongs to."""

    def forward(  # type: ignore[override]  # of a module's pass, not of a tensor: torch's modules share no signature
        self, below: Callable[[list[Adapter]], Any], adapters: list[Adapter]
    ) -> Any:
        """Make the pass with this adapter added to those that are on the list already."""
        weight, scaling, dropout = self.as_it_is()
        return below([*adapters, Adapter(self.variant, weight, self.index, scaling, dropout)])


class ParamWrapper(SboraLinear):
    """SBoRA on one parameter of a module; for several parameters of one module these are nested.

    PEFT knows layers on parameters by this name of their class. During a forward pass an `Operand` stands in
    the parameter's place.
    """

    region_class = ParameterRegion

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to be put into itself, as PEFT's LoRA over the same parameter would do: the search for the base layer
        would never end.

        Raises:
            TypeError: the value holds this layer.
        """
        if name == "base_layer" and any(module is self for module in value.modules()):
            raise TypeError(
                f"SBoRA adapts the parameter {self.parameter_name!r} already, and another of PEFT's methods cannot be "
                "put over it: merge and unload SBoRA first, or leave the parameter out of target_parameters."
            )
        super().__setattr__(name, value)

    def _measure(self, base_layer: nn.Module, parameter_name: str) -> None:  # type: ignore[override]
        self.parameter_name = parameter_name
        parameter = self.base_weight()
        shape = getattr(parameter, "ds_shape", parameter.shape)  # DeepSpeed's ZeRO 3 leaves the parameter empty
        self.in_dim = in_dimension(base_layer, parameter)
        self.experts = tuple(shape[:-2])
        self.in_features, self.out_features = shape[self.in_dim], shape[-3 - self.in_dim]
        self.fan_in_fan_out = self.in_dim == -2
        self.quantization_backend = None

    def base_weight(self) -> nn.Parameter:
        """The parameter, as stored."""
        return getattr(self.get_base_layer(), self.parameter_name)

    def _read_region(self, weight: Tensor, adapter: str, index: Tensor) -> Tensor:
        return weight.gather(self._region_dim(adapter), self._everywhere(weight, adapter, index))

    def _write_region(self, weight: Tensor, adapter: str, index: Tensor, values: Tensor) -> Tensor:
        return weight.scatter_(self._region_dim(adapter), self._everywhere(weight, adapter, index), values)

    def _everywhere(self, weight: Tensor, adapter: str, index: Tensor) -> Tensor:
        """An index set, ([experts,] r), as one for each entry of the region."""
        dim = self._region_dim(adapter)
        shape = list(weight.shape)
        shape[dim] = index.shape[-1]
        return index.unsqueeze(-3 - dim).expand(shape)

    def _check_train_merged(self) -> None:
        if self._present_adapters():
            raise ValueError(f"train_merged needs linear layers, but {self.parameter_name!r} is a parameter.")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module that the parameter belongs to computes, with the active adapters.

        Raises ValueError for a batch of several adapters (`adapter_names`).
        """
        if kwargs.pop("adapter_names", None) is not None:
            raise ValueError("SBoRA on parameters (target_parameters) does not support mixed adapter batches.")
        names = self._present_adapters()
        if self._disable_adapters or self.merged_adapters or not names:
            if self._disable_adapters and self.merged_adapters:
                self.unmerge()
            return self.base_layer(*args, **kwargs)

        def run(adapters: list[Adapter]) -> Any:
            with self._standing_in(adapters):
                return self.base_layer(*args, **kwargs)

        for name in names:
            region: Callable[..., Any] = self.sbora_weight.region(name)
            run = partial(region, run)
        return run([])

    @contextmanager
    def _standing_in(self, adapters: list[Adapter]) -> Iterator[None]:
        """Put an operand where the module looks its parameter up.

        An attribute of the instance hides the parameter without touching it, so that whoever loads, gathers or
        moves parameters meanwhile finds it in its place.
        """
        module, name = self.get_base_layer(), self.parameter_name
        operand = Operand(lambda: module._parameters[name], adapters, self.in_dim)
        module.__dict__[name] = operand.dense() if torch.compiler.is_compiling() else operand
        try:
            yield
        finally:
            module.__dict__.pop(name, None)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The module without its layers of adapters, of which any number may be nested."""
        layer = self
        while isinstance(layer, ParamWrapper):
            if merge:
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            layer = layer.base_layer
        return layer

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        parameter = getattr(base_layer, self.parameter_name)
        return runs_on(base_layer, parameter.device), parameter.dtype

    def extra_repr(self) -> str:
        return f"parameter_name={self.parameter_name!r}"
