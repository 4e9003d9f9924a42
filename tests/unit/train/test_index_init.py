"""The first training rows choose an adapter's columns or rows; padding has no say."""

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from sbora import SboraConfig
from sbora_bench.inputs.adapters import adapt
from sbora_bench.train import index_init

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
ROWS = Dataset.from_list(
    [{"input_ids": list(range(1, n)), "labels": [-100, *range(2, n)]} for n in (5, 9, 6, 12, 7)]
    + [{"input_ids": [3], "labels": [-100]}]
)


class Protocol:
    micro_batch = 2


def _base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **SIZES)).eval()


def _chosen(kind, rows=ROWS, pad=0):
    base = _base()
    config = SboraConfig(variant="fa", r=3, target_modules=["q_proj", "down_proj"], index_init=kind)
    index_init.choose_index_sets(base, config, rows, Protocol, pad)
    model = adapt(base, config)
    layers = [m for m in model.modules() if hasattr(m, "sbora_index")]
    return [layer.sbora_index["default"].tolist() for layer in layers]


def test_gradients_choose_as_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(index_init, "BATCHES", 2)
    base = _base()
    weight = base.model.layers[0].mlp.down_proj.weight
    total = 0
    for batch in (ROWS[:2], ROWS[2:4]):
        loss = count = 0  # row by row, without any padding
        for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            n = len(tokens) - 1
            loss = loss + base(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels])).loss * n
            count += n
        (grad,) = torch.autograd.grad(loss / count, weight)
        total = total + grad.square().sum(0)
    assert _chosen("gradient")[1] == total.topk(3).indices.sort().values.tolist()


def test_the_same_rows_choose_the_same_and_other_rows_others():
    for kind in ("gradient", "activation"):
        assert _chosen(kind) == _chosen(kind)
    assert _chosen("gradient") == _chosen("gradient", pad=7)
    assert _chosen("gradient") != _chosen("gradient", rows=ROWS.select([3]))


def test_what_needs_no_data_does_not_run_the_base():
    class Untouched:
        pass

    for kind in ("random", "weight"):
        index_init.choose_index_sets(Untouched(), SboraConfig(index_init=kind), ROWS, Protocol, 0)
