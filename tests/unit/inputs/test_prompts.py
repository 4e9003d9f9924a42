"""The prompts, byte for byte (protocol section 4)."""

import hashlib

import pytest

from sbora_bench.errors import UserError
from sbora_bench.inputs.data.prompts import TEMPLATES, render
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan

BELOW = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
PAD = " " * 16
MMLU = (
    "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
    "<question>\nA. ..\nB. ..\nC. ..\nD. ..\nAnswer:"
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_training_prompt_with_an_input():
    assert render("llm-adapters-train", "<I>", "<X>") == (
        f"{BELOW}, paired with an input that provides further context. {REQUEST} \n\n"
        f"{PAD}### Instruction:\n{PAD}<I>\n{PAD}\n{PAD}### Input:\n{PAD}<X>\n{PAD}\n{PAD}### Response:\n{PAD}"
    )


def test_scoring_prompt_with_an_input_has_empty_lines_and_no_trailing_space():
    assert render("llm-adapters-score", "<I>", "<X>") == (
        f"{BELOW}, paired with an input that provides further context. {REQUEST}\n\n"
        f"{PAD}### Instruction:\n{PAD}<I>\n\n{PAD}### Input:\n{PAD}<X>\n\n{PAD}### Response:\n{PAD}"
    )


# SHA-256 of the texts that protocol section 4 prints, placeholders included; taken from the text, not from our code.
PRINTED = [
    ("llm-adapters-train", "<I>", "", "<O>", "66db46a3a7230179bd90a761334131a1e8ec0c18f3110f81c581f82c2b68320a"),
    ("llm-adapters-score", "<I>", "", "", "2c5ce8775ca0a8abef641a8db417e75b3446afb8c7a01a682dbbbbce8ef2259e"),
    ("llm-adapters-train", "<I>", "<X>", "<O>", "6a679f40a6306f99c776be35d9e86651a54fcb759d2ce0aa19c9ff71035f30d5"),
    ("alpaca", "{instruction}", "{input}", "", "8b24c1d0c55d40f1f5af377ddeaa952d9bf2edd062db97f4c0f69caa1df8e992"),
    ("alpaca", "{instruction}", "", "", "a1b69f862f7831a2ab09cf66284726dafd2a67985c514b4e88e8a9a5766bc901"),
    ("mmlu", "", MMLU, "", "e63aaabacfa3ec06883cbfa7dc163a9a00d91c2711f8ad11dc620db68d2a177d"),
]


@pytest.mark.parametrize(("template", "instruction", "given", "answer", "digest"), PRINTED)
def test_every_printed_prompt_has_its_sha256(template, instruction, given, answer, digest):
    assert sha256(render(template, instruction, given) + answer) == digest


def test_official_and_clean_name_their_prompts():
    """Training and scoring differ under `official`, and are one text under `clean`; Flan v2 has no template."""
    catalog = load_catalog()
    for suite in ("commonsense", "arithmetic"):
        official, clean = (catalog.protocol(name, suite, {}, "here") for name in ("official", "clean"))
        assert (official.train_prompt, official.score_prompt) == ("llm-adapters-train", "llm-adapters-score")
        assert clean.train_prompt == clean.score_prompt
    for name, training in (("official", "alpaca"), ("clean", "clean")):
        suite3 = catalog.protocol(name, "mmlu", {}, "here")
        assert (suite3.train_prompt, suite3.score_prompt) == (training, "mmlu")
    flan = load_plan("paper").protocol("mmlu-flanv2")
    assert (flan.train_prompt, flan.score_prompt) == ("plain", "mmlu")


def test_alpaca_ends_with_a_space_and_no_newline():
    assert render("alpaca", "<I>") == f"{BELOW}. {REQUEST}\n\n### Instruction:\n<I>\n\n### Response: "
    assert render("alpaca", "<I>", "<X>") == (
        f"{BELOW}, paired with an input that provides further context. {REQUEST}\n\n"
        "### Instruction:\n<I>\n\n### Input:\n<X>\n\n### Response: "
    )


def test_clean_ends_its_last_line():
    assert render("clean", "<I>") == f"{BELOW}. {REQUEST}\n\n### Instruction:\n<I>\n\n### Response:\n"


@pytest.mark.parametrize("template", ["plain", "mmlu"])
def test_raw_templates_add_nothing(template):
    text = "The following are multiple choice questions (with answers) about  anatomy.\n\nQ {x}\nA. 1\nAnswer:"
    assert render(template, "", text) == text
    assert render(template, text) == text


@pytest.mark.parametrize("template", TEMPLATES)
def test_braces_and_percent_signs_stay_as_they_are(template):
    assert "f(x) = {x} %s {0}" in render(template, "f(x) = {x} %s {0}")


def test_an_unknown_template_names_the_nearest():
    with pytest.raises(UserError, match="'alpcaa', did you mean 'alpaca'"):
        render("alpcaa", "<I>")


def test_the_catalog_names_known_templates_only():
    catalog = load_catalog()
    named = set()
    for name in catalog.protocols:
        for suite in catalog.suites:
            needed = {"steps": 1, "epochs": None, "batch_size": 1, "micro_batch": 1, "keep_best": False}
            protocol = catalog.protocol(name, suite, needed, name)
            named |= {protocol.train_prompt, protocol.score_prompt}
    assert named and named <= {*TEMPLATES, *catalog.prompts}
