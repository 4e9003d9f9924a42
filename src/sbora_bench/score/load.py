"""A prepared model, with an adapter on it, as lm-eval asks it."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench import provenance
from sbora_bench.heavy_imports import settle
from sbora_bench.inputs.models.host import host_adapter
from sbora_bench.inputs.models.load import load_adapter, load_base, load_tokenizer, model_positions
from sbora_bench.inputs.models.logits import BaseLogits
from sbora_bench.inputs.models.scored_rows import by_memory
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch

    from sbora_bench.score.lm_eval_model import Scorer


def load_scorer(
    catalog: Catalog,
    name: str,
    resources: Path,
    protocol: Protocol,
    method: MethodEntry | None,
    adapter: Path | None,
    seed: int,
) -> "Scorer":
    """A prepared model, with the adapter of a folder on it, as lm-eval asks it: threads and precision by the protocol.

    `method` says how the base is quantised. Raises WrongModel where the model is not the one that was trained.
    """
    settle("peft", "lm_eval.evaluator", "lm_eval.models.huggingface", "datasets")
    import torch
    from transformers import GenerationConfig, set_seed

    from sbora_bench.score.lm_eval_model import Scorer

    torch.set_num_threads(protocol.threads)
    provenance.use_deterministic_algorithms()
    set_seed(seed)
    tokenizer = load_tokenizer(resources, name, protocol, catalog.models[name].pad_token)
    model = load_base(resources, name, protocol, method, tokenizer)
    model.generation_config = GenerationConfig()  # decoding is the protocol's alone
    comparison = None
    if adapter is not None:
        comparison = BaseLogits(model, adapter)
        model = host_adapter(load_adapter(model, adapter, protocol.merge), protocol)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    length = min(protocol.score_max_length, room_of(model))
    batch, rows_at = (1, by_memory(model)) if protocol.score_batch == "auto" else (protocol.score_batch, None)
    scorer = Scorer(model, tokenizer, batch, length, protocol.shared_prefixes, rows_at)
    if comparison is not None:
        scorer.model_check = comparison.check(model, protocol, method)
    return scorer


def room_of(model: "torch.nn.Module") -> int:
    """How many tokens go through the model at most: its positions, without those of an adapter's virtual tokens."""
    positions = model_positions(model)
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0) or 0
    return sys.maxsize if positions is None else positions - virtual
