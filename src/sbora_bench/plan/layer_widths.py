"""How wide a rank may be, by a config's keys alone; inputs/meta_twin.py asks the model's own layers."""

from typing import Any


def layer_widths(architecture: dict[str, Any]) -> dict[str, int]:
    """Name -> shorter side of a LLaMA-like model's linear layers; of none where the keys don't tell."""
    if "hidden_size" not in architecture:
        return {}
    hidden, heads = architecture["hidden_size"], architecture.get("num_attention_heads", 1)
    head_dim = architecture.get("head_dim") or hidden // heads
    key_value = min(hidden, head_dim * (architecture.get("num_key_value_heads") or heads))
    queries, inner = min(hidden, head_dim * heads), min(hidden, architecture.get("intermediate_size") or hidden)
    return {
        **dict.fromkeys(("q_proj", "o_proj"), queries),
        **dict.fromkeys(("k_proj", "v_proj"), key_value),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), inner),
    }


def narrowest(architecture: dict[str, Any], targets: Any) -> tuple[str, int]:
    """(name, shorter side) of the narrowest layer of a list of targets; ("", 0) where the keys don't tell of any.

    `targets`: of a PEFT config; a name may have its path before it. A text, a pattern, says nothing here.
    """
    names = {str(name).rpartition(".")[2] for name in targets} if isinstance(targets, list | tuple) else set()
    widths = {name: width for name, width in layer_widths(architecture).items() if name in names}
    return min(widths.items(), key=lambda named: (named[1], named[0]), default=("", 0))
