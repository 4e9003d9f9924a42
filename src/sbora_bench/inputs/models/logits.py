"""The logits of a few fixed tokens: what training leaves beside an adapter, and what scoring compares its model to.

So a model that is scored is known to be the one that was trained, whatever was done to it in between: loading, tying,
merging, another base. `logits.safetensors`: `ids` (tokens), `columns` of the vocabulary, `begun` and `trained`
(tokens, columns): the logits before the first update and after the last.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.inputs.eval_mode import eval_mode
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.folders import LOGITS
from sbora_bench.results.records import ModelCheck

if TYPE_CHECKING:
    import torch

TOKENS = 24  # of a training row
SPREAD = 16  # further tokens and columns, at equal distances over the vocabulary
# The largest difference allowed, as a share of the largest logit: (weights' dtype, merged) -> share.
SHARES = {
    ("float32", False): 1e-4,
    ("float32", True): 1e-3,
    ("float16", False): 1e-2,
    ("float16", True): 3e-2,
    ("bfloat16", False): 5e-2,
    ("bfloat16", True): 1e-1,
}
QUANTIZED = {False: 5e-2, True: 3e-1}  # a 4-bit base is trained with its norms in float32; merged, it is rounded anew


class WrongModel(Exception):
    """The model that was to be scored is not the one that was trained."""


def token_choice(row: Sequence[int], vocabulary: int, config: Any = None) -> tuple[list[int], list[int]]:
    """(ids, columns): tokens that are looked at: of a training row, spread over the vocabulary, and those that the
    adapter's `config` trains alone.
    """
    spread = list(range(0, vocabulary, max(1, vocabulary // SPREAD)))[:SPREAD]
    own = getattr(config, "token_indices", None) or getattr(config, "trainable_token_indices", None) or []
    own = [index for part in own.values() for index in part] if isinstance(own, dict) else list(own)
    ids = [token for token in [*row[:TOKENS], *own[:SPREAD], *spread] if 0 <= token < vocabulary]
    return ids, sorted(set(ids))


def logits_of(model: "torch.nn.Module", ids: list[int], columns: list[int]) -> "torch.Tensor":
    """Logits in float32 on the CPU, (tokens, columns), in eval mode; the model is left in the mode that it was in."""
    import torch

    rows = torch.tensor([ids], device=next(model.parameters()).device)
    with eval_mode(model):
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits
    return logits[0, -len(ids) :, columns].float().cpu().contiguous()  # virtual tokens stand before


def write_logits(
    folder: Path, ids: list[int], columns: list[int], begun: "torch.Tensor", trained: "torch.Tensor"
) -> None:
    """Write `logits.safetensors` beside an adapter."""
    import torch
    from safetensors.torch import save_file

    places = {"ids": torch.tensor(ids), "columns": torch.tensor(columns)}
    save_file(places | {"begun": begun, "trained": trained}, folder / LOGITS)


def allowed_share(protocol: Protocol, method: MethodEntry | None) -> float:
    """The largest difference of a logit that rounding explains, as a share of the largest logit."""
    if method is not None and method.quantization:
        return QUANTIZED[protocol.merge]
    return SHARES[protocol.weights_dtype, protocol.merge]


class BaseLogits:
    """The logits of a base before an adapter is put on it, to be compared with those after."""

    def __init__(self, base: "torch.nn.Module", adapter: Path) -> None:
        from safetensors.torch import load_file

        path = adapter / LOGITS
        self.stored = load_file(path) if path.is_file() else {}
        vocabulary = base.config.get_text_config().vocab_size
        self.ids, self.columns = token_choice([], vocabulary)
        if self.stored:
            self.ids, self.columns = self.stored["ids"].tolist(), self.stored["columns"].tolist()
        if max(*self.ids, *self.columns) >= vocabulary:
            raise WrongModel(f"trained on tokens up to {max(self.ids)}, this base has {vocabulary}: another base")
        self.base = logits_of(base, self.ids, self.columns)

    def check(self, model: "torch.nn.Module", protocol: Protocol, method: MethodEntry | None) -> ModelCheck:
        """How `model` compares to the one that training left, and to its base.

        Raises WrongModel where it differs by more than rounding does, and where it is its base though training moved
        the logits by more.
        """
        scored = logits_of(model, self.ids, self.columns)
        effect = _largest(scored - self.base)
        if not self.stored:
            return ModelCheck(status="no logits of training", effect=effect)
        trained = self.stored["trained"]
        difference = _largest(scored - trained)
        tolerance = allowed_share(protocol, method) * max(1.0, _largest(trained))
        moved = _largest(trained - self.stored["begun"])
        if not difference <= tolerance:  # NaN too
            raise WrongModel(
                f"the model to be scored is not the one that was trained: logits differ by {difference:.3g}, allowed"
                f" {tolerance:.3g} ({protocol.weights_dtype}{', merged' if protocol.merge else ''}); training moved"
                f" them by {moved:.3g}"
            )
        if effect == 0 and (moved == 0 or moved > tolerance):
            raise WrongModel("the adapter has no effect: the logits are its base's to the bit, though it was trained")
        return ModelCheck(status="as trained", effect=effect, difference=difference, tolerance=tolerance)


def _largest(tensor: "torch.Tensor") -> float:
    return float(tensor.abs().max())
