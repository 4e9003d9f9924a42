"""Hosts reach a trained matrix through the forward of the module that owns it, as they reach LoRA's."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from safetensors.torch import load_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.func import functional_call, grad, vmap
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

from sbora import SboraConfig
from tests.factories.adapted import adapted

VARIANTS = ("fa", "fb")
KINDS = ("lora", *VARIANTS)
IDS = torch.arange(3, 21).view(2, 9)


def _adapted(model, kind, **settings):
    return adapted(model, kind, **{"target_modules": ["q_proj", "down_proj"]} | settings)


def _owners(model):
    return {n: m for n, m in model.named_modules() if any(p.requires_grad for p in m.parameters(recurse=False))}


@pytest.mark.parametrize("kind", KINDS)
def test_every_owner_of_a_trained_matrix_is_called(llama, kind):
    model = _adapted(llama, kind)
    owners, called = _owners(model), set()
    for name, owner in owners.items():
        owner.register_forward_hook(lambda *_, name=name: called.add(name))
    model(IDS)
    assert called == set(owners)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_copied_by_names_is_the_same_function(tmp_path, llama, kind):
    """TRL copies a trained adapter into a frozen one by the names of its parameters."""
    model = _adapted(llama, kind)
    if kind != "lora":  # what was drawn is not what counts
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        layer.sbora_index["default"].copy_(torch.tensor([0, 3, 5, 31]))
    model.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(copy.deepcopy(llama), tmp_path, is_trainable=True)
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    policy = model(IDS).logits
    model.set_adapter("ref")
    assert torch.equal(model(IDS).logits, policy)


@pytest.mark.parametrize("offload_buffers", [False, True])
@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_weights_are_there_in_the_forward(tmp_path, llama, kind, offload, offload_buffers):
    model = _adapted(llama, kind).eval()
    expected = model(IDS).logits
    settings = {"offload_dir": str(tmp_path)} if offload is disk_offload else {}
    model = offload(model, execution_device=torch.device("cpu"), offload_buffers=offload_buffers, **settings)
    assert all(p.is_meta for p in model.parameters())
    assert torch.equal(model(IDS).logits, expected)


@pytest.fixture
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`", "ignore:When using ``NO_SHARD``")
@pytest.mark.parametrize("use_orig_params", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_fsdp_1_by_peft_s_own_policy(one_process, llama, kind, use_orig_params):
    model = _adapted(llama, kind)
    expected = copy.deepcopy(model)
    expected(input_ids=IDS, labels=IDS).loss.backward()
    wrapped = FullyShardedDataParallel(
        model,
        auto_wrap_policy=fsdp_auto_wrap_policy(model),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    wrapped(input_ids=IDS, labels=IDS).loss.backward()
    wanted = [p.grad.flatten() for p in expected.parameters() if p.requires_grad]
    got = [p.grad.flatten() for p in wrapped.parameters() if p.requires_grad]
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_single_samples_by_hooks(kind):
    """As Opacus takes them: inputs and gradients of outputs of each owner, then its forward anew, sample by sample."""
    torch.manual_seed(0)
    model = _adapted(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)), kind, target_modules=["0", "2"])
    owners, inputs, grads, handles = _owners(model), {}, {}, []
    for name, owner in owners.items():
        hooks = [
            owner.register_forward_hook(lambda _, args, output, name=name: inputs.update({name: args[0].detach()})),
            owner.register_full_backward_hook(lambda _, inp, out, name=name: grads.update({name: out[0]})),
        ]
        handles.extend(hooks)
    x = torch.randn(7, 8)
    model(x).square().sum().backward()
    for handle in handles:
        handle.remove()
    for name, owner in owners.items():

        def loss(weight, one_input, one_grad, owner=owner):
            return (functional_call(owner, {"weight": weight}, (one_input[None],)) * one_grad).sum()

        singles = vmap(grad(loss), (None, 0, 0))(owner.weight.detach(), inputs[name], grads[name])
        for i in range(len(x)):
            alone = copy.deepcopy(model)
            alone.zero_grad()
            alone(x[i : i + 1]).square().sum().backward()
            torch.testing.assert_close(singles[i], alone.get_submodule(name).weight.grad)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_adapter_keeps_its_names_and_old_states_load(tmp_path, llama, variant):
    model = _adapted(llama, variant)
    model.save_pretrained(tmp_path)
    layer = "base_model.model.model.layers.1.mlp.down_proj"
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name for name in saved if name.startswith(layer)} == {f"{layer}.sbora_weight", f"{layer}.sbora_index"}

    old = {}  # as whole states were named when the matrix and the index set had no module of their own
    for name, tensor in model.state_dict().items():
        name = name.replace("sbora_weight.default.weight", "sbora_weight.default")
        old[name.replace("sbora_weight.default.index", "sbora_index.default")] = tensor
    fresh = _adapted(llama, variant, random_seed=5)
    assert f"{layer}.sbora_weight.default" in old and f"{layer}.sbora_index.default" in old
    fresh.load_state_dict(old)
    assert torch.equal(fresh(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_base_that_is_offloaded_already(llama, variant):
    """LoRA's matrices land on `meta`, where nothing is learnt."""
    expected = _adapted(llama, variant)
    expected(input_ids=IDS, labels=IDS).loss.backward()
    cpu_offload(llama, execution_device=torch.device("cpu"))
    torch.manual_seed(1)
    config = SboraConfig(variant=variant, r=4, target_modules=["q_proj", "down_proj"], init_weights=False)
    model = get_peft_model(llama, config)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for one, other in zip(_owners(model).values(), _owners(expected).values(), strict=True):
        assert torch.equal(one.index, other.index)
        torch.testing.assert_close(one.weight.grad, other.weight.grad)


@pytest.mark.parametrize("name", ["task.a", "keys", "training", ""])
def test_names_that_no_module_can_have(toy, adapt, name):
    model = adapt(toy)
    before = set(model.state_dict())
    with pytest.raises(ValueError, match="cannot be named"):
        model.add_adapter(name, SboraConfig(r=2, target_modules=["lin"]))
    assert set(model.state_dict()) == before and set(model.peft_config) == {"default"}


@pytest.mark.parametrize("kind", KINDS)
def test_merging_weights_that_are_shared_out(one_process, llama, kind):
    """FSDP 2 makes them DTensors, which take no plain index."""
    model = _adapted(llama, kind).eval()
    expected, plain = model(IDS).logits, copy.deepcopy(model)
    for layer in model.base_model.model.model.layers:
        fully_shard(layer)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    before = layer.base_layer.weight.full_tensor().clone()
    model.merge_adapter(safe_merge=kind != "lora")  # which loses it then
    plain.merge_adapter()
    merged = plain.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    torch.testing.assert_close(layer.base_layer.weight.full_tensor(), merged)
    torch.testing.assert_close(model(IDS).logits, expected)
    if kind != "lora":  # which has lost its merge by then
        for block in model.base_model.model.model.layers:
            block.reshard()
        model.unmerge_adapter()
        assert torch.equal(layer.base_layer.weight.full_tensor(), before)


def _by_torch(model, mesh):
    parallelize_module(model, mesh, {"model.layers.0.self_attn.q_proj": ColwiseParallel()})


def _by_transformers(model, mesh):
    plan = {"model.layers.0.self_attn.q_proj": "colwise", "model.layers.0.self_attn.q_proj.weight": "colwise"}
    apply_tensor_parallelism(model, mesh, plan)


@pytest.mark.parametrize("divide", [_by_torch, _by_transformers])
@pytest.mark.parametrize("how", [{"target_modules": ["q_proj"]}, {"target_parameters": ["q_proj.weight"]}])
def test_layers_of_which_each_process_computes_a_part_are_refused(one_process, llama, divide, how):
    divide(llama, init_device_mesh("cpu", (1,)))
    names = [name for name, _ in llama.named_modules()]
    with pytest.raises(ValueError, match=r"q_proj.*: each process computes a part"):
        get_peft_model(llama, SboraConfig(r=4, **{"target_modules": []} | how))
    assert [name for name, _ in llama.named_modules()] == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_fsdp_2_has_shared_out_already(one_process, llama, kind):
    whole = _adapted(llama, kind)
    for layer in llama.model.layers:
        fully_shard(layer)
    fully_shard(llama)
    torch.manual_seed(1)
    shared_out = get_peft_model(llama, copy.deepcopy(whole.peft_config["default"]))
    torch.testing.assert_close(shared_out(IDS).logits, whole(IDS).logits)
