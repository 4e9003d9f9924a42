"""An exported adapter is LoRA for whoever has never heard of SBoRA, and computes the same."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sbora import export
from tests import forked

VARIANTS = ("fa", "fb")


@pytest.fixture
def saved(tmp_path, llama, adapt):
    """A base model and an adapter of it in folders, and what the adapted model answers."""

    def make(variant, **settings):
        llama.save_pretrained(tmp_path / "base")
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = adapt(base, variant=variant, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", **settings)
        model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        model.save_pretrained(tmp_path / "adapter")
        ids = torch.arange(3, 23).view(2, 10)
        return tmp_path / "adapter", ids, model.eval()(ids).logits.detach()

    return make


@pytest.mark.parametrize("settings", [{}, {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 5}}])
@pytest.mark.parametrize("variant", VARIANTS)
def test_lora_loads_without_sbora(tmp_path, saved, variant, settings):
    adapter, ids, expected = saved(variant, **settings)
    output = export(adapter, "lora", tmp_path / "lora")
    program = (
        "import sys, torch; from peft import AutoPeftModelForCausalLM\n"
        "model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
        "assert not any('sbora' in name for name in sys.modules)\n"
        "torch.save(model(torch.arange(3, 23).view(2, 10)).logits, sys.argv[2])"
    )
    done = forked.python("-c", program, str(output), str(tmp_path / "logits.pt"))
    assert done.returncode == 0, done.stderr
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)
    assert json.loads((output / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_lora_is_written_the_same_way_every_time(tmp_path, saved):
    adapter, *_ = saved("fa")
    first, second = (export(adapter, "lora", tmp_path / name) for name in ("a", "b"))
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_is_a_whole_model(tmp_path, saved, variant):
    adapter, ids, expected = saved(variant)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    output = export(adapter, "merged", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(output).eval()
    assert not isinstance(model, PeftModel)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-6)
    assert (output / "tokenizer.json").read_text() == "{}"


def test_modules_trained_in_full_come_along(tmp_path, saved, llama, adapt):
    adapter, ids, _ = saved("fa")
    model = adapt(llama, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "with_head")
    output = export(tmp_path / "with_head", "lora", tmp_path / "lora")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), output)
    torch.testing.assert_close(loaded.eval()(ids).logits, model.eval()(ids).logits, rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", ["to", "output", "folder", "type", "base", "other base"])
def test_what_cannot_be_exported_leaves_nothing(tmp_path, saved, case, llama):
    adapter, *_ = saved("fa")
    config = json.loads((adapter / "adapter_config.json").read_text())
    arguments = {"adapter": adapter, "to": "lora", "output": tmp_path / "out"}
    if case == "to":
        arguments["to"], message = "gguf", "not to 'gguf'"
    elif case == "output":
        arguments["output"], message = adapter, "exists"
    elif case == "folder":
        arguments["adapter"], message = tmp_path / "base", "no adapter_config.json"
    elif case == "type":
        known = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
        (adapter / "adapter_config.json").write_text(json.dumps(known))
        message = "of type LORA"
    elif case == "base":
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
        message = "which base model"
    else:
        llama.model.layers = llama.model.layers[:1]
        llama.config.num_hidden_layers = 1
        llama.save_pretrained(tmp_path / "small")
        arguments["base"], message = tmp_path / "small", "does not belong.*layers.1"
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises((ValueError, FileExistsError), match=message):
        export(**arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
