"""What of a method can't work is a line before anything runs: its type, arguments, targets, rank, and merging."""

import json
import subprocess
import sys

import pytest

from sbora_bench.files import read_json, write_json
from sbora_bench.inputs import check_methods
from sbora_bench.plan.load import load_plan
from tests.factories import toy_runs
from tests.factories.shipped import ROOT
from tests.factories.toy_files import toy
from tests.factories.workplace import workplace  # noqa: F401

GRID = ("tables", "sums", "grids")
LORA = {"r": "$rank", "target_modules": "$target_modules"}
WIDTHS = {"hidden_size": 128, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
EXPERTS = {
    **WIDTHS,
    "model_type": "deepseek_v3",
    "vocab_size": 99,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
HEAVY = {"torch", "transformers", "peft", "numpy"}
LOADED = """
import json, sys
from sbora_bench.inputs.check_methods import method_problems
from sbora_bench.plan.load import load_plan
print(json.dumps([method_problems(load_plan("small")), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def method(peft_type, **arguments):
    return {"title": "Mine", "peft_type": peft_type, "arguments": arguments}


WRONG = {
    "a type": (method("LORAA", r="$rank"), {}, ["own.yaml: methods.own", "unknown PEFT method 'LORAA'", "'LORA'"]),
    "an argument": (method("LORA", lora_alhpa=4, **LORA), {}, ["methods.own", "'lora_alhpa'", "mean 'lora_alpha'"]),
    "a task": (method("LORA", task_type="SEQ_CLS", **LORA), {}, ["task_type: found 'SEQ_CLS', allowed is CAUSAL_LM"]),
    "a word for a number": (
        method("LORA", **LORA | {"r": "four"}),
        {},
        ["arguments: r: found 'four', allowed is a whole number"],
    ),
    "a target": (
        method("LORA", r="$rank", target_modules=["q_proj", "v_prj"]),
        {},
        ["tables.sums.grids: own on ladder-xs, rank 4", "'v_prj', did you mean 'v_proj'"],
    ),
    "a module to save": (method("LORA", modules_to_save=["lm_haed"], **LORA), {}, ["modules_to_save", "'lm_head'"]),
    "a pattern of ranks": (method("LORA", rank_pattern={"q_prj": 8}, **LORA), {}, ["rank_pattern", "mean 'q_proj'"]),
    "a parameter": (
        method("LORA", target_parameters=["mlp.gate_prj.weight"], **LORA),
        {},
        ["target_parameters: unknown parameter of the model", "did you mean 'gate_proj.weight'"],
    ),
    "a layer": (method("LORA", layers_to_transform=[0, 9], **LORA), {}, ["layers_to_transform: found 9, allowed 0 to"]),
    "no target at all": (
        method("SBORA", r="$rank", target_modules="$target_modules"),
        {
            "overrides": {"target_modules": ["c_attn"]},
            "grids": [{"models": ["ladder-xs"], "methods": ["own"], "ranks": [4]}],
        },
        ["own on ladder-xs", "target_modules: unknown module of the model 'c_attn'", "v_proj"],
    ),
    "a rank": (
        method("LORA", **LORA),
        {"grids": [{"models": ["ladder-xs"], "methods": ["own"], "ranks": [4, 64, 65]}]},
        ["rank"],
    ),
    "a size that does not divide": (method("ROAD", group_size=48, target_modules=["q_proj"]), {}, ["divisible"]),
    "tokens beyond the vocabulary": (
        method("TRAINABLE_TOKENS", token_indices=[0, 9999]),
        {},
        ["own on ladder-xs", "token_indices: found 9999, allowed 0 to"],
    ),
    "tokens of a module beyond its rows": (
        method("LORA", trainable_token_indices={"embed_tokens": [-1]}, **LORA),
        {},
        ["trainable_token_indices: found -1, allowed 0 to"],
    ),
    "4 bits under C3A": (
        method("C3A", block_size=8, target_modules=["q_proj"]) | {"quantization": "nf4"},
        {},
        ["own on ladder-xs", "quantization: found nf4, and C3A needs weights that are not packed; take"],
    ),
    "4 bits under LoRA-GA": (
        method("LORA", init_lora_weights="lora_ga", **LORA) | {"quantization": "nf4"},
        {},
        ["quantization: found nf4, and LORA with init_lora_weights: lora_ga needs weights"],
    ),
    "merging a prompt": (method("PROMPT_TUNING", num_virtual_tokens="$rank"), {}, None),
    "no padding before virtual tokens": (
        method("PROMPT_TUNING", num_virtual_tokens="$rank"),
        {"overrides": {"padding_free": True}},
        ["own on ladder-xs", "padding_free: virtual tokens would stand", "say padding_free: false"],
    ),
    "parts of a loss of the method's own": (
        method("ADALORA", init_r=4, target_r=2, total_step=9, target_modules=["q_proj"]),
        {"overrides": {"tokens_at_once": 64}},
        ["own on ladder-xs", "tokens_at_once: ADALORA has a loss of its own", "say tokens_at_once: 0"],
    ),
    "merging lily": (
        method("LILY", r="$rank", target_modules=["q_proj"]),
        {"overrides": {"merge": True}},
        ["merge: true", "can't be merged", "say merge: false"],
    ),
    "merging an adaption prompt": (
        method("ADAPTION_PROMPT", adapter_len="$rank", adapter_layers=1),
        {"overrides": {"merge": True}},
        ["merge: true", "no weights to merge"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_method_that_cannot_work_is_a_line(workplace, case):  # noqa: F811
    entry, table, words = WRONG[case]
    workplace.catalog(methods={"own": entry})
    changes = {"grids": [{"models": ["ladder-xs"], "methods": ["lora", "own"], "ranks": [4]}]} | table
    file = workplace.experiment(*((("tables", "sums", key), value) for key, value in changes.items()))
    if words is None:
        assert workplace.run("validate", file)[0] == 0
        return
    message = workplace.refused("validate", file)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("peft_type", ["DELORA", "HRA", "LOHA", "LOKR", "PEANUT", "SUPERTUNING"])
def test_a_method_that_reads_weights_is_refused_on_those_of_4_bits_alone(workplace, peft_type):  # noqa: F811
    grid = [{"models": ["ladder-xs"], "methods": ["own"], "ranks": [4]}]
    entry = method(peft_type, r="$rank", target_modules=["q_proj"])
    workplace.catalog(methods={"own": entry | {"quantization": "nf4"}})
    assert f"quantization: found nf4, and {peft_type} needs" in workplace.refused(
        "validate", workplace.experiment((GRID, grid))
    )
    workplace.catalog(methods={"own": entry})
    assert workplace.run("validate", workplace.experiment((GRID, grid)))[0] == 0


@pytest.mark.parametrize(
    ("architecture", "method", "targets", "words"),
    [
        (EXPERTS, "lora", "all-linear", "lora_dropout"),  # its first layer has none
        ({"model_type": "bert", "vocab_size": 99, **WIDTHS}, "sbora-fa", "all-linear", "bert is an encoder"),
        (
            {"model_type": "mamba", "vocab_size": 99, **WIDTHS},
            "sbora-fa",
            ["in_proj"],
            "",
        ),  # kinds of layers by their number
    ],
)
def test_a_model_that_a_method_does_not_fit_is_a_line(workplace, architecture, method, targets, words):  # noqa: F811
    source = {"kind": "folder", "path": "not here"}
    workplace.catalog(models={"own": {"title": "Own", "source": source, "architecture": architecture}})
    file = workplace.experiment(
        (GRID, [{"models": ["own"], "methods": [method], "ranks": [4]}]),
        (("tables", "sums", "overrides"), {"target_modules": targets, "dropout": 0.05}),
    )
    problems = check_methods.method_problems(load_plan(file))
    assert (words in problems[0]) if words else problems == [], problems


def test_weights_that_are_not_of_their_config_are_one_line(workplace):  # noqa: F811
    """Before anything is prepared, though the same folder was good before."""
    folder = workplace.folder / "own"
    toy().save_pretrained(folder)
    workplace.catalog(models={"own": {"title": "Own", "source": {"kind": "folder", "path": str(folder)}}})
    plan = load_plan(workplace.experiment((GRID, [{"models": ["own"], "methods": ["lora", "dora"], "ranks": [4]}])))
    assert check_methods.method_problems(plan) == []
    write_json(folder / "config.json", read_json(folder / "config.json") | {"num_hidden_layers": 1})
    problems = check_methods.method_problems(plan)
    assert len(problems) == 1 and "own.yaml: models.own: " in problems[0], problems
    assert "its files hold model.layers.1.input_layernorm.weight" in problems[0]
    write_json(folder / "config.json", read_json(folder / "config.json") | {"num_hidden_layers": 2})
    toy_runs.tokenizer().save_pretrained(folder)
    assert check_methods.method_problems(plan) == []
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {key: settings[key] for key in settings if key != "eos_token"})
    (problem,) = check_methods.method_problems(plan)
    assert "own: its tokenizer names no EOS" in problem


def test_each_wrong_method_has_its_line(workplace):  # noqa: F811
    workplace.catalog(methods={"one": method("LORAA"), "two": method("LORA", s=3)})
    file = workplace.experiment((GRID, [{"models": ["ladder-xs"], "methods": ["one", "two"], "ranks": [4, 8]}]))
    status, out, err = workplace.run("validate", file)
    assert (status, out) == (2, "") and len(err.splitlines()) == 2, err


def test_what_was_good_is_remembered_and_imports_nothing(workplace):  # noqa: F811
    file = workplace.experiment()
    assert workplace.run("validate", file)[0] == 0
    command = [sys.executable, "-c", LOADED]
    again = subprocess.run(command, cwd=workplace.folder, capture_output=True, text=True, check=True)
    problems, modules = json.loads(again.stdout.splitlines()[-1])
    assert problems == [] and not HEAVY & set(modules)
    workplace.experiment((("tables", "sums", "overrides"), {"target_modules": ["nothing"]}))
    status, _, err = workplace.run("validate", file)
    assert status == 2 and err.count("unknown module of the model 'nothing'") == 2


def test_the_shipped_experiments_are_good(monkeypatch, tmp_path):
    """All methods on all models, the paper's at true shape."""
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        assert check_methods.method_problems(load_plan(path.stem), tmp_path) == []
    assert len(list(tmp_path.iterdir())) > 40
