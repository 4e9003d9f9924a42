"""The model that is scored is the one that was trained: whatever of it was trained, tied or not, merged or not."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from sbora_bench.files import read_json, sha256, write_json
from sbora_bench.inputs.models import load
from sbora_bench.inputs.models.logits import logits_of, token_choice
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.results.folders import LOGITS
from sbora_bench.results.records import BaseRecord, ScoresRecord, read_record, write_record
from sbora_bench.score import evaluate as stage
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.load import load_scorer, room_of
from tests.factories import toy_runs
from tests.factories.scorers import requests
from tests.factories.toy_training import house, train

LORA = {"r": "$rank", "lora_alpha": "$alpha", "target_modules": "$target_modules"}
METHODS = {
    "plain": ("LORA", LORA),
    "embeddings": ("LORA", LORA | {"modules_to_save": ["embed_tokens"]}),
    "head": ("LORA", LORA | {"modules_to_save": ["lm_head"]}),
    "adapted-embeddings": ("LORA", LORA | {"target_modules": ["q_proj", "embed_tokens"]}),
    "adapted-head": ("LORA", LORA | {"target_modules": ["q_proj", "lm_head"]}),
    "tokens": ("TRAINABLE_TOKENS", {"token_indices": [1, 5, 6, 7, 8]}),
    "lora-tokens": ("LORA", LORA | {"trainable_token_indices": {"embed_tokens": [1, 5, 6, 7]}}),
    "sbora": ("SBORA", {"variant": "fb", "r": "$rank", "target_modules": ["q_proj", "v_proj"]}),
    "quantized": ("LORA", LORA),
    "quantized-dora": ("LORA", LORA | {"use_dora": True}),
    "prompt": ("PROMPT_TUNING", {"num_virtual_tokens": 4}),
}
FOUR_BIT = {"quantized", "quantized-dora"}
UNMERGED = {"prompt", *FOUR_BIT}


def made(root, method, tied=True, model=None, entry=None, **protocol):
    """A toy experiment, trained: its plan and its one run."""
    plan = house(root, methods=["lora"], learning_rate=0.05, checkpoint_every=None, **protocol)
    kind, arguments = METHODS[method]
    catalog = root / "experiments" / "catalog" / "toy.yaml"
    entries = read_json(catalog)
    quantization = "nf4" if method in FOUR_BIT else None
    entries["methods"] = {
        "lora": {"title": "M", "peft_type": kind, "arguments": arguments, "quantization": quantization} | (entry or {})
    }
    entries["suites"]["toy"]["tasks"] = ["count"]  # what is looked at is the model, not its answers
    catalog.write_text(json.dumps(entries))
    folder = root / "resources" / "models" / "tiny"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128} if quantization else {}
    (model or toy_runs.llama(tie_word_embeddings=tied, initializer_range=0.3, **sizes)).save_pretrained(folder)
    files = {name: sha256(folder / name) for name in ("config.json", "model.safetensors")}
    write_record(folder / "base.json", BaseRecord(model="tiny", source={"kind": "folder"}, files=files))
    load_catalog.cache_clear()
    plan = load_plan(str(root / "experiments" / "toy.yaml"))
    run = plan.run("toy-tiny-lora-r4-s0")
    train(plan, root, run.name)
    return plan, run


def scored_with(root, **protocol):
    """The toy experiment's plan with these settings of its protocol changed."""
    catalog = root / "experiments" / "catalog" / "toy.yaml"
    entries = read_json(catalog)
    entries["protocols"]["toy"] |= protocol
    write_json(catalog, entries)
    load_catalog.cache_clear()
    return load_plan(str(root / "experiments" / "toy.yaml"))


def scorer_of(root, plan, run):
    adapter = root / "results" / "runs" / run.name / "adapter"
    method = plan.catalog.methods[run.method]
    return load_scorer(plan.catalog, "tiny", root / "resources", plan.protocol("toy"), method, adapter, 0)


@pytest.fixture
def checks(monkeypatch):
    """The model checks of the scorers that `evaluate` loads from here on."""
    of_scorers, real = [], stage.load_scorer

    def watched(*arguments):
        scorer = real(*arguments)
        of_scorers.append(scorer.model_check)
        return scorer

    monkeypatch.setattr(stage, "load_scorer", watched)
    return of_scorers


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_scored_model_is_the_trained_one(tmp_path, method, tied, checks):
    """Merged too, where that takes no loss; one training serves both."""
    plan, run = made(tmp_path, method, tied)
    folder = tmp_path / "results" / "runs" / run.name
    stored = load_file(folder / "adapter" / LOGITS)
    moved = (stored["trained"] - stored["begun"]).abs().max()
    for merge in [False] if method in UNMERGED else [False, True]:
        stage.evaluate(scored_with(tmp_path, merge=merge), [run], tmp_path / "resources", tmp_path / "results")
        record, check = read_record(folder / "scores.json", ScoresRecord), checks.pop()
        assert record.status == "ok" and record.model_check == check and not checks
        assert check.status == "as trained" and check.effect > 100 * check.difference
        assert moved > (1 if method in FOUR_BIT else 10) * check.tolerance, "else the check could not tell"


def test_gpt2_whose_head_is_its_embeddings(tmp_path):
    torch.manual_seed(0)
    words = len(toy_runs.WORDS) + 4
    model = GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=32, n_layer=2, n_head=4, n_positions=128))
    arguments = LORA | {"target_modules": ["c_attn", "wte"], "modules_to_save": ["wpe"], "fan_in_fan_out": True}
    plan, run = made(tmp_path, "plain", model=model, entry={"arguments": arguments}, merge=True, max_length=64)
    assert scorer_of(tmp_path, plan, run).model_check.status == "as trained"


@pytest.mark.parametrize("tied", [True, False])
def test_scoring_leaves_the_model_as_it_was(tied):
    from peft import LoraConfig, get_peft_model

    saved = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    model = get_peft_model(toy_runs.llama(tie_word_embeddings=tied), saved)
    with torch.no_grad():
        model.base_model.model.model.embed_tokens.modules_to_save["default"].weight += 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shared = [tensor.data_ptr() for tensor in model.state_dict().values()]
    scorer = Scorer(model, toy_runs.tokenizer(), 4, 256)
    assert "tie_weights" not in vars(model)
    assert [tensor.data_ptr() for tensor in scorer.model.state_dict().values()] == shared
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.model.state_dict().items())


@pytest.mark.parametrize("change", ["another base", "no effect", "another adapter"])
def test_another_model_fails_its_run_with_the_reason(tmp_path, change, monkeypatch):
    plan, run = made(tmp_path, "plain")
    real = load.load_adapter

    def changed(base, adapter, merge):
        model = real(base, adapter, merge)
        if change == "no effect":
            return model.unload()
        weight = "embed_tokens" if change == "another base" else "lora_B"
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if weight in name).mul_(3)
        return model

    monkeypatch.setattr("sbora_bench.score.load.load_adapter", changed)
    stage.evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    record = read_record(tmp_path / "results" / "runs" / run.name / "scores.json", ScoresRecord)
    assert record.status == "failed" and "not the one that was trained: logits differ by" in record.reason


def test_an_adapter_that_training_left_without_effect_fails(tmp_path):
    method = {"arguments": {"token_indices": [3]}}  # padding: never seen
    plan, run = made(tmp_path, "tokens", tied=False, entry=method)
    stage.evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    record = read_record(tmp_path / "results" / "runs" / run.name / "scores.json", ScoresRecord)
    assert record.status == "failed" and "has no effect" in record.reason


def test_an_adapter_from_elsewhere_has_its_effect_recorded(tmp_path):
    plan, run = made(tmp_path, "plain")
    (tmp_path / "results" / "runs" / run.name / "adapter" / LOGITS).unlink()
    check = scorer_of(tmp_path, plan, run).model_check
    assert check.status == "no logits of training" and check.effect > 0


def test_what_is_looked_at_is_deterministic_and_leaves_modes_alone():
    model = toy_runs.model().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    ids, columns = token_choice(range(100), len(toy_runs.WORDS) + 4)
    state = torch.get_rng_state()
    first, second = logits_of(model, ids, columns), logits_of(model, ids, columns)
    assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())
    assert first.shape == (len(ids), len(columns)) and max(ids) < len(toy_runs.WORDS) + 4
    assert [module.training for module in model.modules()] == modes


def test_prompts_beyond_the_positions_are_cut_not_an_index_error(tmp_path):
    words = len(toy_runs.WORDS) + 4
    model = GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=32, n_layer=1, n_head=4, n_positions=8))
    scorer = Scorer(model.eval(), toy_runs.tokenizer(), 4, min(2048, room_of(model)))
    prompt = " ".join(["cat"] * 30)
    settings = {"until": [], "max_gen_toks": 20, "num_beams": 1}
    assert len(scorer.generate_until(requests([(prompt, settings)]))) == 1
    pairs = [(prompt, " A"), (prompt, " blue red")]
    assert len(scorer.loglikelihood(requests(pairs))) == 2


def test_a_look_at_a_4_bit_model_amid_training_does_not_end_its_learning(tmp_path):
    _, run = made(tmp_path, "quantized", validation_rows=4, validation_every=1)
    curve = read_json(tmp_path / "results" / "runs" / run.name / "train.json")["happened"]["loss_curve"]
    norms = [point["grad_norm"] for point in curve if "grad_norm" in point]
    assert len(norms) == 3 and min(norms) > 0.1
