"""Follow a computation on `meta` tensors operator by operator: which storages live when, how much is computed.

`Tracer` is a dispatch mode: it sees each operator after autograd, adds the bytes of every storage that appears and
takes them off when it dies. `Kernels` makes the two functions whose operators depend on the device (dropout and
attention) take the way that the CPU or CUDA takes, for `meta` would take a third one.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from sbora_bench.results.records import MEMORY_KINDS

aten = torch.ops.aten
# PyTorch's formulas, and the operators that they hold for besides.
FLOPS = dict(flop_registry) | {
    aten.addmm_: flop_registry[aten.addmm],
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
COMPOSITE = {aten.linear.default, aten.matmul.default}
# Operators of operands of two dtypes, which a CPU copies into the common one first (CUDA casts as it reads).
PROMOTING = {aten.add, aten.add_, aten.sub, aten.sub_, aten.mul, aten.mul_, aten.div, aten.div_}


@dataclass
class Storage:
    """A storage's life. `passing`: made by a forward pass; `kind` is None for what no later step needs."""

    nbytes: int
    born: int
    passing: bool
    kind: str | None = None
    died: int | None = None


class Operation(NamedTuple):
    """What an operator computes and moves; `part`: of the adapter if an operand or the result is shaped like it."""

    work: str
    part: str
    dtype: str
    flops: int
    moved: int


class ShapeResults:
    """Calls operators on `meta`; where the operands have the shapes of an earlier call, results are made like its own.

    PyTorch's rules for shapes are slow and a model's layers repeat. Operators that return a view of an operand, or a
    list of tensors, are always called; one that writes to its first operand and returns it, on `meta` does nothing.
    """

    def __init__(self) -> None:
        self._known: dict[tuple, list[tuple] | None] = {}  # what is made anew; None: the first operand, as it was

    def __call__(self, func: Any, args: tuple, kwargs: dict) -> Any:
        effect = _effect(func)
        if effect is None:
            return func(*args, **kwargs)
        key = func, _described(args), _described(tuple(kwargs.items()))
        if key in self._known:
            known = self._known[key]
            if known is None:
                return args[0]
            alike = tuple(torch.empty_strided(*like, dtype=dtype, device="meta") for *like, dtype in known)
            return alike[0] if len(alike) == 1 else alike
        storages = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        before = _placed(args[0]) if effect == "writes" else None
        result = func(*args, **kwargs)
        if effect == "writes":
            if result is args[0] and result.is_meta and _placed(result) == before:
                self._known[key] = None
            return result
        made = _tensors(result)
        own = {t.untyped_storage()._cdata for t in made}
        anew = len(made) == len(func._schema.returns) == len(own - storages)  # a gradient that isn't wanted is None
        if anew and all(t.is_meta and not t.storage_offset() for t in made):
            self._known[key] = [(t.shape, t.stride(), t.dtype) for t in made]
        return result


def _placed(tensor: torch.Tensor) -> tuple:
    """What an operator that only writes values leaves as it was."""
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.untyped_storage()._cdata


@cache
def _effect(func: Any) -> str | None:
    """`makes` of an operator that returns tensors made anew and writes to none, `writes` of one that writes to its
    first operand alone and returns that; None of others.
    """
    schema = func._schema
    returned = [str(value.type) for value in schema.returns]
    if not returned or set(returned) != {"Tensor"}:
        return None
    if not any(value.alias_info for value in (*schema.arguments, *schema.returns)):
        return "makes"
    first, *others = schema.arguments
    written = [value.alias_info for value in (first, *schema.returns)]
    alone = len(returned) == 1 and not any(value.alias_info for value in others)
    return "writes" if alone and all(info and info.is_write for info in written) else None


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors among an operator's operands or results."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [t for part in value for t in _tensors(part)]


def _described(value: Any) -> Any:
    """A hashable stand-in of an operand: tensors by shape, strides, dtype and whether they are on `meta`."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.is_meta
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    return type(value), value


class Tracer(TorchDispatchMode):
    """Counts while it is active, as on a `cpu` or `cuda` device.

    Storages that stood before are named by `adopt`; `phase` names what is going on, `times` says how often it is done.
    """

    def __init__(self, device: str, vocabulary: int, trained: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.device, self.vocabulary = device, vocabulary
        self.trained = {frozenset(p.shape) for p in trained if p.ndim == 2}
        self.phase, self.times = "forward", 1
        self.storages: list[Storage] = []
        self.operations: Counter[Operation] = Counter()
        self._results = ShapeResults()
        self._live: dict[int, tuple[weakref.ref, Storage]] = {}
        self._clock = 0
        self._passing = False

    def adopt(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Count the storages of `tensors` as `kind`, from now on if they are new, else for all of their lives."""
        for tensor in tensors:
            self._storage(tensor).kind = kind

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """In this block operators are of a forward pass, or of one made again; what it leaves are activations."""
        self._passing = True
        try:
            yield
        finally:
            self._passing = False
            for _, life in self._live.values():
                if life.passing and life.kind is None:
                    life.kind = "activations"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.bitsandbytes.gemm_4bit.default:
            with self:  # one operator to autograd, several to the allocator
                return _gemm_4bit_default_impl(*args, **kwargs)
        if func is aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return False  # what is asked of values: whether some are infinite, whether no token is padding
        if func in COMPOSITE:  # within that one, where autograd has not taken them apart
            with self:
                return func.decompose(*args, **kwargs)
        result = self._results(func, args, kwargs)
        self._clock += 1
        outputs, inputs = _tensors(result), _tensors((args, kwargs))
        for tensor in outputs:
            self._storage(tensor)
        if self.device == "cpu" and func._overloadpacket in PROMOTING:
            self._copies([t for t in args[:2] if isinstance(t, torch.Tensor)])
        if self.times and not func.is_view:
            count = FLOPS.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=result) if count else 0
            part = (
                "adapter"
                if any(t.ndim == 2 and frozenset(t.shape) in self.trained for t in inputs + outputs)
                else "base"
            )
            moved = sum(t.numel() * t.element_size() for t in inputs + outputs)
            dtype = str(outputs[0].dtype).removeprefix("torch.") if outputs else ""
            self.operations[Operation(self.work, part, dtype, flops, moved)] += self.times
        return result

    @property
    def work(self) -> str:
        """What the running operator is part of: the phase, or the forward pass made again for checkpoints."""
        return "recomputation" if self.phase == "backward" and self._passing else self.phase

    def _copies(self, operands: list[torch.Tensor]) -> None:
        """The copies of operands in the common dtype, alive while the operator runs."""
        common = torch.result_type(operands[0], operands[-1])
        for tensor in operands:
            if tensor.dtype != common:
                nbytes = tensor.numel() * common.itemsize
                self.storages.append(Storage(nbytes, self._clock, passing=False, died=self._clock))

    def _storage(self, tensor: torch.Tensor) -> Storage:
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._live.get(key)
        if known is not None and known[0]() is storage:
            return known[1]
        life = Storage(storage.nbytes(), self._clock, self._passing)
        if tensor.shape[-1:] == (self.vocabulary,):
            life.kind = "logits"
        self._live[key] = weakref.ref(storage, lambda _: self._died(key, life)), life
        self.storages.append(life)
        return life

    def _died(self, key: int, life: Storage) -> None:
        life.died = self._clock
        if key in self._live and self._live[key][1] is life:
            del self._live[key]

    def flops(self) -> dict[str, int]:
        """FLOPs of matrix products (2 a multiply-add) by pass, and how many of all are the adapter's."""
        flops = dict.fromkeys(("forward", "recomputation", "backward", "adapter"), 0)
        for operation, times in self.operations.items():
            if operation.flops:
                flops[operation.work] += operation.flops * times
                flops["adapter"] += operation.flops * times * (operation.part == "adapter")
        return flops

    def moved(self) -> int:
        """Bytes that operators read and write, each operator its operands and its result once."""
        return sum(operation.moved * times for operation, times in self.operations.items())

    def peak(self) -> dict[str, int]:
        """Bytes of each kind at the moment when most was alive, and their sum as `peak`."""
        changes = sorted(
            (moment, order, sign * life.nbytes)
            for life in self.storages
            for moment, order, sign in ((life.born, 0, 1), (life.died, 1, -1))
            if moment is not None
        )
        total = most = when = 0
        for moment, _, change in changes:
            total += change
            if total > most:
                most, when = total, moment
        at_peak = dict.fromkeys(MEMORY_KINDS, 0)
        for life in self.storages:
            if life.born <= when and (life.died is None or life.died >= when):
                at_peak[life.kind or "temporaries"] += life.nbytes
        return at_peak | {"peak": most}


# What autocast computes in the lower precision (PyTorch's list, of which a LLaMA uses these).
LOWERED = {F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm}


class Kernels:
    """Dropout, attention and autocast as a `cpu` or a `cuda` device has them; `meta` has none of its own.

    `low`: the dtype of autocast, or None where the training has none. `tracer`: hears when a pass begins and ends.
    """

    def __init__(self, device: str, low: torch.dtype | None = None, tracer: Tracer | None = None) -> None:
        self.device, self.low, self.tracer = device, low, tracer

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Within this block (a forward pass, or one made again) the functions go the device's way."""
        with _Forward(self.device, self.low), self.tracer.passing() if self.tracer else contextlib.nullcontext():
            yield


class _Forward(TorchFunctionMode):
    def __init__(self, device: str, low: torch.dtype | None) -> None:
        super().__init__()
        self.device, self.low = device, low
        self._cast: dict[torch.Tensor, torch.Tensor] = {}  # autocast casts a trained weight once

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.low is not None and (func in LOWERED or func is F.scaled_dot_product_attention):
            args, kwargs = tree_map_only(torch.Tensor, self._lowered, (args, kwargs))
        if func is F.dropout and self.device == "cuda":
            return _dropout_cuda(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(self.device, *args, **kwargs)
        result = func(*args, **kwargs)
        # there a view of rows, which nobody adds to in place
        is_view = func is torch.ops.bitsandbytes.gemm_4bit.default and self.device == "cpu"
        return result.view(result.shape) if is_view else result

    def _lowered(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.dtype == self.low:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.low)
        if tensor not in self._cast:
            self._cast[tensor] = tensor.to(self.low)
        return self._cast[tensor]


def _dropout_cuda(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _attention(
    device: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, *(torch.empty((), dtype=query.dtype, device="meta") for _ in range(2)))
    if device == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
    if attn_mask is None and query.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if enable_gqa:  # CUDA's other fused kernel wants as many keys as queries
        return aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True
        )[0]
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
