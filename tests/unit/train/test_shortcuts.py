"""Less work or memory for the same update: losses and adapters of two epochs with the shortcuts, and without, for every
kind of model; and that a shortcut that doesn't fit is left, with a line."""

import functools
import math
import statistics
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import AdaLoraConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BloomConfig,
    LlamaConfig,
    MixtralConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sbora_bench.errors import UserError
from sbora_bench.inputs.padding_free import attention, packed, take_packed_rows
from sbora_bench.inputs.parts import Parts
from sbora_bench.inputs.supervised_loss import (
    SupervisedLoss,
    Unfit,
    chunk_of,
    head_loss,
    kernel_for,
    liger_loss,
    supervised,
)
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.train.shortcuts import InParts, by_length
from sbora_bench.train.trainer import build_trainer
from tests.factories import shipped, toy_runs
from tests.factories.architectures import KINDS, SIZES, WORDS, base

RUN = Run(Cell("t", "m", "lora", 4), 0)
IN_CHUNKS = {name for name in KINDS if "soft-cap" not in name and "scaled" not in name}
TARGETS = {"gpt2": ["c_attn"]}
STEPS = 10  # updates of 8 of the 40 rows: two epochs
OWN = {"batch_size": 8, "micro_batch": 4, "learning_rate": 3e-3, "loss_average": "tokens"}


def adapted(kind: str, **settings) -> torch.nn.Module:
    model = base(KINDS[kind])
    torch.manual_seed(1)
    targets = TARGETS.get(kind, ["q_proj", "v_proj", "down_proj"])
    return get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **settings))


def rows(count: int = 40) -> Dataset:
    """Rows of 4 to 23 tokens, of which the prompt's carry no loss."""
    made = []
    for row in range(count):
        ids = [1, *(4 + (row * 7 + place * place) % 30 for place in range(3 + row * 13 % 20))]
        prompt = 1 + row % (len(ids) - 1)
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(made)


def trained(model, folder, steps: int = STEPS, **settings):
    """(losses of the updates, trained weights) of updates of 8 examples in micro-batches of 4."""
    protocol = toy_runs.protocol(**OWN | {"steps": steps} | settings)
    tokenizer = toy_runs.tokenizer()
    tokenizer.padding_side = protocol.padding_side
    trainer = build_trainer(model, tokenizer, rows(), None, protocol, RUN, folder)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, trainer


def plainly_trained(kind: str, **settings):
    """What `trained` gives for the adapted `kind` without the shortcut that is tested, trained once for all tests."""
    return _plainly_trained(kind, tuple(sorted((OWN | settings).items())))


@functools.cache
def _plainly_trained(kind: str, settings: tuple):
    with tempfile.TemporaryDirectory() as folder:
        return trained(adapted(kind), folder, **dict(settings))


def same(ours, theirs) -> None:
    assert len(ours[0]) == len(theirs[0]) and ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours[0][-1] != pytest.approx(ours[0][0], rel=1e-2), "it has learnt"
    for name, tensor in theirs[1].items():
        assert torch.allclose(ours[1][name], tensor, rtol=0, atol=1e-5), name


@pytest.mark.parametrize(
    ("kind", "average"),
    [*((kind, "tokens") for kind in KINDS), ("llama-tied", "micro-batch"), ("gemma2-soft-cap", "micro-batch")],
)
def test_logits_of_supervised_positions_train_the_same_adapter(kind, average, tmp_path):
    plain = plainly_trained(kind, loss_average=average)
    ours = trained(adapted(kind), tmp_path / "ours", loss_average=average, logits="supervised")
    assert ours[2].supervised is not None and ours[2].supervised.in_chunks == (kind in IN_CHUNKS)
    same(ours, plain)


@pytest.mark.parametrize("kind", ["llama-grouped-queries", "gemma2-soft-cap"])
def test_micro_batches_by_length_train_the_same_adapter(kind, tmp_path):
    plain = plainly_trained(kind)
    ours = trained(adapted(kind), tmp_path / "ours", logits="supervised", sort_by_length=True)
    same(ours, plain)
    assert ours[2].state.num_input_tokens_seen == plain[2].state.num_input_tokens_seen


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {"logits": "supervised", "sort_by_length": True}) for kind in KINDS),
        ("llama-grouped-queries", {"logits": "all", "loss_average": "micro-batch"}),
        ("qwen2-window", {"logits": "all", "gradient_checkpointing": True}),
    ],
)
def test_micro_batches_without_padding_train_the_same_adapter(kind, settings, tmp_path):
    """Padded on the right, for GPT-2's positions are counted from the row's left end."""
    plain = plainly_trained(kind, padding_side="right", **settings)
    ours = trained(adapted(kind), tmp_path / "ours", padding_side="right", padding_free=True, **settings)
    assert ours[2].model.config._attn_implementation == "example_by_example"
    assert plain[2].model.config._attn_implementation != "example_by_example"
    same(ours, plain)
    assert ours[2].state.num_input_tokens_seen == plain[2].state.num_input_tokens_seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_in_float32_are_made_in_training_alone_and_train_the_same_adapter(dtype, tmp_path):
    passes = []
    model = adapted("llama").to(dtype)
    frozen = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.base_layer")
    frozen.register_forward_pre_hook(lambda module, _: passes.append("forward" in vars(module)))
    ours = trained(model, tmp_path / "ours", products="float32")
    assert set(passes) == {dtype == torch.bfloat16} and "forward" not in vars(frozen)
    plain = trained(adapted("llama").to(dtype), tmp_path / "plain")
    assert ours[0] == pytest.approx(plain[0], rel=1e-2 if dtype == torch.bfloat16 else 0)


AT_ONCE = 40  # of micro-batches of up to 4 x 24 tokens


@pytest.fixture
def sizes(monkeypatch):
    """(rows, tokens of a row) of every training pass through a model, of trainers made from here on."""
    passes, build = [], build_trainer

    def watched(model, *others):
        if others[3].tokens_at_once:
            model.register_forward_pre_hook(
                lambda module, _, named: passes.append(tuple(named["input_ids"].shape)) if module.training else None,
                with_kwargs=True,
            )
        return build(model, *others)

    monkeypatch.setattr(sys.modules[__name__], "build_trainer", watched)
    return passes


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {"logits": "supervised", "sort_by_length": True, "padding_side": "right"}) for kind in KINDS),
        *((kind, {"logits": "all"}) for kind in ("llama", "gpt2")),
        ("llama-grouped-queries", {"loss_average": "micro-batch"}),
        ("gemma2-soft-cap", {"loss_average": "micro-batch", "logits": "supervised", "padding_side": "right"}),
        ("qwen2-window", {"gradient_checkpointing": True, "logits": "supervised", "sort_by_length": True}),
        ("qwen3", {"padding_free": True, "logits": "supervised", "sort_by_length": True}),
        ("llama-tied", {"padding_free": True, "loss_average": "micro-batch"}),
    ],
)
def test_micro_batches_in_parts_train_the_same_adapter(kind, settings, tmp_path, sizes):
    plain = plainly_trained(kind, **settings)
    ours = trained(adapted(kind), tmp_path / "ours", **settings, tokens_at_once=AT_ONCE)
    same(ours, plain)
    assert ours[2].state.num_input_tokens_seen == plain[2].state.num_input_tokens_seen
    assert len(sizes) > 2 * 2 * STEPS and max(rows * width for rows, width in sizes) <= AT_ONCE
    if settings.get("padding_side") == "right":
        assert len({width for _, width in sizes}) == 3, "less is padded"


def test_parts_do_not_average_what_they_should_add(tmp_path, monkeypatch):
    """The comparison can fail: without the parts' shares of a micro-batch's mean it does."""
    plain = plainly_trained("llama", loss_average="micro-batch")
    monkeypatch.setattr(InParts, "_parts", lambda self, inputs: [(part, 0.5) for part in self.parts.of(inputs)])
    ours = trained(adapted("llama"), tmp_path / "ours", loss_average="micro-batch", tokens_at_once=AT_ONCE)
    with pytest.raises(AssertionError):
        same(ours, plain)


@pytest.mark.parametrize(
    ("config", "adapter", "reason"),
    [
        (
            MixtralConfig(**SIZES, num_local_experts=4, output_router_logits=True),
            LoraConfig(r=2, target_modules=["q_proj"]),
            "mixtral adds a loss of its router",
        ),
        (
            LlamaConfig(**SIZES),
            AdaLoraConfig(init_r=2, target_r=1, total_step=9, target_modules=["q_proj"]),
            "ADALORA has a loss of its own",
        ),
    ],
    ids=["router", "adalora"],
)
def test_a_loss_of_the_model_s_own_is_not_had_in_parts(config, adapter, reason, tmp_path):
    model = get_peft_model(base(config), adapter)
    with pytest.raises(UserError) as refused:
        trained(model, tmp_path, tokens_at_once=AT_ONCE)
    assert (
        str(refused.value)
        == f"t-m-lora-r4-s0: tokens_at_once: {reason}, which each part would add; say tokens_at_once: 0"
    )


def test_every_kind_of_the_catalog_s_models_is_trained_here():
    entries = shipped.catalog().models.values()
    kinds = {entry.architecture.get("model_type", "llama") for entry in entries}
    assert len(kinds) > 2 and kinds <= {config.model_type for config in KINDS.values()}


@pytest.mark.parametrize("way", ["without padding", "in parts"])
def test_dropout_has_the_same_distribution(way):
    """Other elements are dropped in rows of another shape, so losses of many draws are compared: of adapters' inputs
    and of attention's weights, half the time each.
    """
    config = LlamaConfig(**SIZES | {"num_hidden_layers": 1, "attention_dropout": 0.5})
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5)
    torch.manual_seed(1)
    model, ids = get_peft_model(base(config), lora), rows(8)["input_ids"]
    padded = toy_runs.tokenizer().pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
    padded["labels"] = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, -100)
    assert padded["attention_mask"].sum() < padded["attention_mask"].numel()
    if way == "without padding":
        assert take_packed_rows(model, ids[-1]) == ""
        parts = [packed(padded)]
    else:
        parts = Parts(8, AT_ONCE).of(padded)
        assert len(parts) > 2
    counts = [int((part["labels"][:, 1:] >= 0).sum()) for part in parts]
    losses = {}
    with torch.no_grad():
        undropped = float(model.eval()(**padded).loss)
        model.train()
        for name, inputs, shares in (("plain", [dict(padded)], [1]), ("ours", parts, counts)):
            losses[name] = []
            for seed in range(200):
                torch.manual_seed(seed)
                of_parts = [share * float(model(**part).loss) for part, share in zip(inputs, shares, strict=True)]
                losses[name].append(sum(of_parts) / sum(shares))
    mean, spread = ({name: of(values) for name, values in losses.items()} for of in (statistics.mean, statistics.stdev))
    errors = 4 * math.hypot(*spread.values()) / 200**0.5
    assert abs(mean["ours"] - mean["plain"]) < errors
    assert abs(mean["plain"] - undropped) > errors, "else the draws could not tell"
    assert spread["ours"] == pytest.approx(spread["plain"], rel=0.3)


def test_a_row_of_examples_has_their_tokens_positions_and_begins():
    batch = {"input_ids": torch.tensor([[0, 5, 6], [7, 8, 9]]), "labels": torch.tensor([[-100, 5, 6], [-100, 8, 9]])}
    row = packed(batch | {"attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])})
    assert row["input_ids"].tolist() == [[5, 6, 7, 8, 9]] and row["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert row["labels"].tolist() == [[-100, 6, -100, 8, 9]]
    assert row["cu_seq_lens_q"].tolist() == [0, 2, 5] and row["max_length_q"] == 3


@pytest.mark.parametrize(
    ("config", "targets", "reason"),
    [
        (BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4), ["query_key_value"], "of its own"),
        (LlamaConfig(**SIZES), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "virtual tokens"),
    ],
    ids=["alibi", "virtual-tokens"],
)
def test_a_model_that_sees_across_examples_is_refused(config, targets, reason, tmp_path):
    adapter = LoraConfig(r=2, target_modules=targets) if isinstance(targets, list) else targets
    model = get_peft_model(base(config), adapter)
    with pytest.raises(UserError, match=f"t-m-lora-r4-s0: padding_free: .*{reason}.*; say padding_free: false"):
        trained(model, tmp_path, padding_free=True)


def test_an_attention_that_does_not_part_examples_is_told_by_its_logits(monkeypatch):
    """The check compares with the model's own attention; here examples' begins are lost on the way."""
    monkeypatch.setattr("sbora_bench.inputs.padding_free.places", lambda lengths, device: {})
    assert "logits beside another differ by" in take_packed_rows(base(KINDS["llama"]), [1, *range(5, 20)])


def gradients(attend, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of a query (1, 6 heads, 40 tokens, width 16), and a key and value of 2 heads, in float64; `attend` made them."""
    torch.manual_seed(0)
    states = [torch.randn(1, heads, 40, 16).bfloat16().to(dtype).requires_grad_() for heads in (6, 2, 2)]
    output = attend(*states)
    return [of.double() for of in torch.autograd.grad(output, states, torch.randn(output.shape).bfloat16().to(dtype))]


def test_narrow_examples_attend_in_float32():
    """Whose gradients are nearer to those of wider floats than torch's own of bfloat16, and are made sooner."""
    module = SimpleNamespace(is_causal=True, num_key_value_groups=3)
    ours = functools.partial(attention, module, attention_mask=None)
    own = functools.partial(sdpa_attention_forward, module, attention_mask=None)
    exact, narrow, wide, theirs = (
        gradients(lambda *states, way=way: way(*states)[0], dtype)
        for way, dtype in ((own, torch.float64), (ours, torch.bfloat16), (ours, torch.float32), (own, torch.bfloat16))
    )
    for of_narrow, of_wide, of_own, of_exact in zip(narrow, wide, theirs, exact, strict=True):
        error, their_error = ((of - of_exact).abs().max() for of in (of_narrow, of_own))
        assert error < 0.8 * their_error and error < 0.02 * of_exact.abs().max()
        assert torch.allclose(of_wide, of_exact, rtol=0, atol=1e-4)


def test_attention_s_own_dropout_is_not_left_out_of_narrow_examples():
    module = SimpleNamespace(is_causal=True)
    states = [torch.ones(1, 2, 8, 4, dtype=torch.bfloat16)] * 3
    assert attention(module, *states, attention_mask=None)[0].eq(1).all()
    assert not attention(module, *states, attention_mask=None, dropout=0.5)[0].eq(1).all()


class Products(TorchDispatchMode):
    """The names of the products that are made of `weight`."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.memory = weight.untyped_storage().data_ptr()
        self.made: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [tensor for tensor in args if isinstance(tensor, torch.Tensor)]
        if func.overloadpacket.__name__.endswith("mm") and self.memory in {
            tensor.untyped_storage().data_ptr() for tensor in tensors
        }:
            self.made.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def test_the_logits_that_the_model_wants_are_no_batch_of_products():
    """For one, torch copies the head's weight where that is bfloat16, for half as long as a chunk's product takes."""
    model, ids = adapted("llama").train(), torch.tensor([[1, *range(5, 16)]] * 2)
    loss = SupervisedLoss(model, ids[0].tolist())
    with Products(model.get_output_embeddings().weight) as products:
        loss(model, {"input_ids": ids, "labels": ids})[0].backward()
    assert loss.in_chunks and products.made == {"mm"}


def test_validation_has_the_same_loss(tmp_path):
    losses = []
    parted = {"logits": "supervised", "tokens_at_once": AT_ONCE, "padding_side": "right"}
    for way in ({"logits": "all"}, {"logits": "supervised"}, {"padding_free": True}, parted):
        _, _, trainer = trained(adapted("llama"), tmp_path / str(len(losses)), steps=2, **way)
        losses.append(trainer.evaluate(rows(6))["eval_loss"])
    assert losses[1:] == pytest.approx(losses[:1] * 3, rel=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    ],
    ids=["prompt", "prefix", "lora-on-the-head", "trained-head"],
)
def test_virtual_tokens_and_a_head_that_trains(config, tmp_path):
    results = []
    for logits in ("all", "supervised"):
        model = base(KINDS["llama"])
        torch.manual_seed(2)
        results.append(trained(get_peft_model(model, config), tmp_path / logits, steps=6, logits=logits))
    same(results[1], results[0])


@pytest.mark.parametrize("of_head", [head_loss, liger_loss])
def test_chunks_add_up(of_head, monkeypatch):
    """Loss and gradient in chunks of 3 positions are those of one chunk, and of torch's own loss; Liger's too."""
    if of_head is liger_loss:
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # its kernels on a CPU
        pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50)
    head.requires_grad_(False)
    hidden = torch.randn(2, 11, 8, requires_grad=True)
    labels = torch.randint(50, (2, 11))
    labels[0, :6] = -100
    places, targets = supervised(labels)
    assert len(targets) == 15
    logits = head(hidden)[:, :-1]
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    (expected,) = torch.autograd.grad(plain, hidden)
    monkeypatch.setattr("sbora_bench.inputs.supervised_loss.CHUNK_BYTES", 3 * 4 * 50)
    assert chunk_of(50) == 3
    loss = of_head(hidden, head, places, targets)
    (gradient,) = torch.autograd.grad(2 * loss, hidden)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.allclose(gradient, 2 * expected, rtol=0, atol=1e-5)
    assert float(gradient[:, -1].abs().max()) == 0 and float(gradient[0, :5].abs().max()) == 0


def test_a_kernel_is_taken_where_it_can_be_had(tmp_path, monkeypatch):
    """Liger's on a GPU that has it; asked for by name elsewhere, one line."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    module = "sbora_bench.inputs.supervised_loss.find_spec"
    monkeypatch.setattr(module, lambda name: None)
    assert kernel_for("any", cpu) == kernel_for("torch", gpu) == kernel_for("any", gpu) == "torch"
    with pytest.raises(ValueError, match="liger-kernel is not installed; say loss_kernel: any"):
        kernel_for("liger", gpu)
    monkeypatch.setattr(module, lambda name: "installed")
    assert kernel_for("any", gpu) == kernel_for("liger", gpu) == "liger" and kernel_for("torch", gpu) == "torch"
    with pytest.raises(UserError, match="t-m-lora-r4-s0: loss_kernel: liger: it runs on a GPU alone"):
        trained(adapted("llama"), tmp_path, logits="supervised", loss_kernel="liger")


def test_liger_s_loss_is_called_as_it_wants(monkeypatch):
    """A stand-in with its signature, by torch's own loss: the same loss and gradient as ours."""

    def stand_in(input, weight, target, bias=None, reduction="mean"):
        return torch.nn.functional.cross_entropy(input @ weight.T, target, reduction=reduction)

    functional = SimpleNamespace(liger_fused_linear_cross_entropy=stand_in)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", SimpleNamespace(functional=functional))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    outcomes = []
    for kernel in ("torch", "liger"):
        model = adapted("llama")
        loss = SupervisedLoss(model, [1, 5, 6, 7], kernel=kernel)
        assert loss.in_chunks
        labels = torch.tensor([[-100, -100, 8, 9], [-100, 7, 7, 5]])
        value, _ = loss(model, {"input_ids": torch.tensor([[1, 6, 8, 9], [1, 7, 7, 5]]), "labels": labels})
        value.backward()
        outcomes.append((value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (ours, gradients), (theirs, of_theirs) = outcomes
    assert theirs == pytest.approx(ours, rel=1e-6) and len(gradients) > 0
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients, of_theirs, strict=True))


def test_a_model_with_a_loss_of_its_own_goes_the_plain_way(tmp_path, capsys):
    """A mixture of experts adds the loss of its router."""
    config = MixtralConfig(**SIZES, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5)
    losses = []
    for logits in ("all", "supervised"):
        torch.manual_seed(1)
        lora = LoraConfig(r=2, target_modules=["q_proj"])
        curve, _, trainer = trained(get_peft_model(base(config), lora), tmp_path / logits, steps=2, logits=logits)
        losses.append(curve)
    assert trainer.supervised is None and losses[0] == losses[1]
    assert "t-m-lora-r4-s0: logits of all positions, not of supervised ones alone: " in capsys.readouterr().err


def test_a_model_without_a_head_is_unfit():
    with pytest.raises(Unfit, match="names no head"):
        SupervisedLoss(base(KINDS["llama"]).model, [1, 5, 6])


def test_rows_are_dealt_by_length():
    """As many micro-batches of the same sizes, every row once, the longest first."""
    collate = lambda rows: {"input_ids": rows, "labels": [], "attention_mask": []}  # noqa: E731
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]), torch.tensor([[0, 1, 1]])
    ids = torch.tensor([[7, 8, 9, 0], [6, 0, 0, 0]]), torch.tensor([[0, 4, 5]])
    batches = [{"input_ids": i, "labels": i + 10, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]
    dealt = by_length(batches, collate)
    assert [[row["input_ids"] for row in batch["input_ids"]] for batch in dealt] == [[[7, 8, 9], [4, 5]], [[6]]]
    assert dealt[1]["input_ids"] == [{"input_ids": [6], "labels": [16]}]
