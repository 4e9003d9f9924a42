"""Every kind of model that people tune, tiny and random, with SBoRA-FA from training to export."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

import sbora
from sbora_bench.results.records import ScoresRecord, TrainRecord, read_record
from sbora_bench.score import evaluate as stage
from tests.factories import toy_runs
from tests.factories.toy_training import house, train

WORDS = {"vocab_size": len(toy_runs.tokenizer()), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
WORDS |= {"initializer_range": 0.3}
SIZES = WORDS | toy_runs.ARCHITECTURE
OLD = WORDS | {"hidden_size": 32, "n_layer": 2, "n_head": 4}
KINDS = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 16},
    "gemma3_text": SIZES | {"head_dim": 8, "sliding_window": 6},
    "smollm3": SIZES | {"no_rope_layers": [1, 0]},
    "olmo2": SIZES,
    "phi": SIZES,
    "mistral": SIZES,
    "gpt2": WORDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": SIZES,
    "bloom": OLD,
    "falcon": SIZES | {"new_decoder_architecture": False},
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
TARGETS = {"gpt2": ["c_attn"]} | dict.fromkeys(("gpt_neox", "bloom", "falcon"), ["query_key_value"])
IDS = torch.arange(4, 16).view(1, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_trained_scored_and_exported(tmp_path, kind):
    """Scored as trained; and the exported LoRA and model say what base and adapter said."""
    targets = TARGETS.get(kind, ["q_proj", "v_proj"])
    plan = house(tmp_path, methods=["sbora-fa"], target_modules=targets, learning_rate=0.05, steps=2, dropout=0.0)
    run, adapter = plan.run("toy-tiny-sbora-fa-r4-s0"), tmp_path / "results/runs/toy-tiny-sbora-fa-r4-s0/adapter"
    base = tmp_path / "resources" / "models" / "tiny"
    torch.manual_seed(0)
    toy_runs.write_base(base, weights=AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind])))

    train(plan, tmp_path, run.name)
    record = read_record(adapter.parent / "train.json", TrainRecord)
    assert (record.status, record.reason, record.happened.steps) == ("ok", "", 2)
    stage.evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    scores = read_record(adapter.parent / "scores.json", ScoresRecord)
    assert (scores.status, scores.reason, scores.model_check.status) == ("ok", "", "as trained")

    def logits(model):
        with torch.no_grad():
            return model.eval()(input_ids=IDS).logits

    load = AutoModelForCausalLM.from_pretrained
    untuned, tuned = logits(load(base)), logits(PeftModel.from_pretrained(load(base), adapter))
    assert (tuned - untuned).abs().max() > 1e-2
    for to in ("lora", "merged"):
        sbora.export(adapter, to, tmp_path / to, base)
    lora = logits(PeftModel.from_pretrained(load(base), tmp_path / "lora"))
    for exported in (lora, logits(load(tmp_path / "merged"))):
        torch.testing.assert_close(exported, tuned, rtol=0, atol=1e-4)
