"""The two protocols: every field has its note, docs/protocol.md is current, the host's switches do what they say."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, sha256, write_json, write_jsonl
from sbora_bench.inputs.models.host import host_adapter
from sbora_bench.inputs.models.load import load_base, load_tokenizer
from sbora_bench.plan import protocol_table
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.plan.settings import data_settings, run_settings
from sbora_bench.results.records import BaseRecord, read_record, write_record
from sbora_bench.train.kept_rows import training_rows
from sbora_bench.train.split import split
from sbora_bench.train.trainer import build_trainer
from tests.factories import toy_runs
from tests.factories.shipped import ROOT
from tests.factories.workplace import workplace  # noqa: F401

SUITES = ("commonsense", "arithmetic", "mmlu")


@pytest.fixture
def catalog(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_catalog()


def test_the_document_is_current(catalog):
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert text.count(protocol_table.BEGIN) == 1
    block = text.partition(protocol_table.BEGIN)[2].partition(protocol_table.END)[0]
    assert block == f"\n{protocol_table.drawn(catalog)}\n", f"run: {protocol_table.BEGIN[10:-4]}"


def test_every_field_has_a_note_and_none_has_one_in_vain(catalog):
    assert catalog.protocol_notes.keys() == Protocol.model_fields.keys()
    pairs = [[catalog.protocol(name, suite, {}, "") for name in ("official", "clean")] for suite in SUITES]
    differ = {
        field for one, two in pairs for field in Protocol.model_fields if getattr(one, field) != getattr(two, field)
    }
    assert {field for field, note in catalog.protocol_notes.items() if note.clean} == differ - {"title"}


def test_a_suite_for_which_a_protocol_says_too_little_is_named_with_those_it_is_for(catalog):
    with pytest.raises(UserError, match="'official': found suite 'mine', allowed commonsense, arithmetic, mmlu,"):
        catalog.protocol("official", "mine", {}, "--protocol")


def test_the_command_writes_between_the_markers_and_nowhere_else(workplace):  # noqa: F811
    page = workplace.folder / "page.md"
    page.write_text(f"before\n\n{protocol_table.BEGIN}\nto be replaced\n{protocol_table.END}\n\nafter\n")
    assert workplace.run("protocols", "--into", "page.md") == (0, "", "")
    text = page.read_text()
    assert text.startswith("before\n\n<!--") and text.endswith("-->\n\nafter\n") and "to be replaced" not in text
    assert workplace.run("protocols")[1].strip() in text
    page.write_text("no markers\n")
    assert "page.md: expected one line" in workplace.refused("protocols", "--into", "page.md")


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"learning_rat": {"source": "x"}}, "did you mean 'learning_rate'"),
        ({"own": {"sorce": "x"}}, "protocol_notes.own"),
    ],
)
def test_a_note_of_no_field_is_told(workplace, notes, message):  # noqa: F811
    workplace.catalog(protocol_notes=notes)
    assert message in workplace.refused("protocols")


@pytest.mark.parametrize(
    ("note", "message"), [({"source": "x"}, "`clean` is missing"), ({"source": {"mmlu": "x"}}, "source is missing")]
)
def test_a_field_without_its_note_is_told(catalog, note, message):
    notes = catalog.protocol_notes | {"merge": type(catalog.protocol_notes["merge"]).model_validate(note)}
    with pytest.raises(UserError, match=f"protocol_notes.merge: {message} for commonsense"):
        protocol_table.drawn(catalog.model_copy(update={"protocol_notes": notes}))


def test_a_reason_stands_once_and_a_field_once_or_in_each_suite(catalog):
    text = protocol_table.drawn(catalog)
    reasons = {field: note.clean for field, note in catalog.protocol_notes.items() if note.clean}
    assert [field for field, reason in reasons.items() if text.count(f"| `{field}` | {reason} |") != 1] == []
    for field in Protocol.model_fields.keys() - {"title"}:
        rows = [line for line in text.splitlines() if line.startswith(f"| `{field}` |") and line.count(" | ") == 3]
        assert len(rows) == 1 or (len(rows) == len(SUITES) and len(set(rows)) > 1), field


def test_the_clean_paper_is_the_paper_but_for_its_protocol_and_the_mmlu_split(monkeypatch):
    """Run for run; what differs in a protocol has its reason in the catalog."""
    monkeypatch.chdir(ROOT)
    paper, clean = load_plan("paper"), load_plan("paper-clean")
    assert clean.runs == paper.runs
    reasons = {field for field, note in paper.catalog.protocol_notes.items() if note.clean}
    of_both = ([run_settings(plan, run) for run in plan.runs] for plan in (paper, clean))
    for one, two in zip(*of_both, strict=True):
        assert {key for key in one if one[key] != two[key]} == {"experiment", "protocol", "protocol_name"}
        before, after = one["protocol"], two["protocol"]
        assert {key for key in before if before[key] != after[key]} <= reasons | {"title"}
    for table in paper.experiment.tables:
        one, two = data_settings(paper, table), data_settings(clean, table)
        assert {key for key in one if one[key] != two[key]} <= {"items", "train_prompt", "score_prompt"}
        assert (one["items"] != two["items"]) == (one["suite"] == "mmlu")
    assert clean.items("mmlu-alpaca") == {"mmlu": "mmlu-lm-eval"} != paper.items("mmlu-alpaca")


def toy_protocol(**changes) -> Protocol:
    return toy_runs.protocol(**{"num_beams": 1} | changes)


@pytest.fixture
def resources(tmp_path):
    """A prepared base with Llama-3's rotary base."""
    folder = tmp_path / "models" / "tiny"
    toy_runs.write_base(folder)
    config = read_json(folder / "config.json")
    config["rope_parameters"]["rope_theta"] = 500_000.0
    write_json(folder / "config.json", config)
    record = read_record(folder / "base.json", BaseRecord)
    record.files["config.json"] = sha256(folder / "config.json")
    write_record(folder / "base.json", record)
    return tmp_path


def test_the_switch_rope_base_gives_the_old_positions_and_is_off_by_default(resources):
    frequencies = {}
    for defects, theta in ((), 500_000.0), (("rope-base-10000",), 10_000.0):
        loaded = load_base(resources, "tiny", toy_protocol(host_defects=defects), None)
        frequencies[theta] = loaded.model.rotary_emb.inv_freq
        width = toy_runs.ARCHITECTURE["hidden_size"] // toy_runs.ARCHITECTURE["num_attention_heads"]
        expected = theta ** -(torch.arange(0, width, 2) / width)
        torch.testing.assert_close(frequencies[theta], expected)
    assert toy_protocol().host_defects == ()
    assert not torch.allclose(*frequencies.values())


def test_the_switch_qdora_norm_drops_the_scaling_from_the_norm_alone():
    torch.manual_seed(0)
    answers, expected = {}, {}
    for defects in ((), ("qdora-norm-unscaled",)):
        base = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False))
        torch.nn.init.normal_(base[0].weight, generator=torch.Generator().manual_seed(1))
        config = LoraConfig(r=2, lora_alpha=0.5, target_modules=["0"], use_dora=True)  # s = 0.25
        model = host_adapter(get_peft_model(base, config), toy_protocol(host_defects=defects))
        layer = model.base_model.model[0]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        for weight, seed in ((a, 2), (b, 3)):
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(seed))
        x = torch.randn(3, 6, generator=torch.Generator().manual_seed(4))
        w, magnitude = layer.base_layer.weight, layer.lora_magnitude_vector["default"].weight
        norm = torch.linalg.norm(w + (1.0 if defects else 0.25) * b @ a, dim=1)
        expected[defects] = x @ (w + 0.25 * b @ a).T * magnitude / norm
        answers[defects] = model(x)
        torch.testing.assert_close(answers[defects], expected[defects])
    assert not torch.allclose(*answers.values(), atol=1e-2)


def test_the_switch_qdora_norm_needs_an_unmerged_adapter(catalog):
    defects = {"host_defects": ["qdora-norm-unscaled"]}
    assert catalog.protocol("official", "mmlu", defects, "here").host_defects == ("qdora-norm-unscaled",)
    with pytest.raises(UserError, match="qdora-norm-unscaled needs merge: false"):
        catalog.protocol("official", "commonsense", defects, "here")
    with pytest.raises(UserError, match="host_defects"):
        catalog.protocol("official", "mmlu", {"host_defects": ["rope"]}, "here")


def test_the_new_pad_row_is_the_mean_of_the_others(resources):
    protocol = toy_protocol(pad="add")
    tokenizer = load_tokenizer(resources, "tiny", protocol)
    plain, grown = (load_base(resources, "tiny", protocol, None, given) for given in (None, tokenizer))
    for before, after in zip(*([m.get_input_embeddings(), m.lm_head] for m in (plain, grown)), strict=True):
        assert torch.equal(after.weight[:-1], before.weight)
        torch.testing.assert_close(after.weight[-1], before.weight.mean(dim=0))
    assert tokenizer.pad_token_id == len(tokenizer) - 1 == plain.config.vocab_size


def test_a_tokenizer_without_a_pad_token_takes_the_catalogs(resources):
    folder = resources / "models" / "tiny"
    config = read_json(folder / "tokenizer_config.json")
    del config["pad_token"]
    write_json(folder / "tokenizer_config.json", config)
    record = read_record(folder / "base.json", BaseRecord)
    record.files["tokenizer_config.json"] = sha256(folder / "tokenizer_config.json")
    write_record(folder / "base.json", record)
    assert load_tokenizer(resources, "tiny", toy_protocol()).pad_token == "</s>"
    assert load_tokenizer(resources, "tiny", toy_protocol(), "<unk>").pad_token == "<unk>"
    assert load_tokenizer(resources, "tiny", toy_protocol(pad="zero"), "<unk>").pad_token_id == 0
    with pytest.raises(UserError, match="models.tiny.pad_token: its tokenizer has no token '<nil>'"):
        load_tokenizer(resources, "tiny", toy_protocol(), "<nil>")
    del config["eos_token"]
    write_json(folder / "tokenizer_config.json", config)
    record.files["tokenizer_config.json"] = sha256(folder / "tokenizer_config.json")
    write_record(folder / "base.json", record)
    with pytest.raises(UserError, match="model tiny: its tokenizer names no EOS"):
        load_tokenizer(resources, "tiny", toy_protocol())


def test_updates_are_grouped_by_characters_as_the_authors_count_them(resources, tmp_path):
    """A long word is one token here, so the two counts order the rows differently."""
    protocol = toy_protocol(group_by_length="characters", steps=2, betas=[0.8, 0.95], epsilon=1e-6)
    tokenizer = load_tokenizer(resources, "tiny", protocol)
    rows = [{"prompt": f"{'house ' * (1 + index % 5)}is", "response": "red"} for index in range(40)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    examples, _ = training_rows(tokenizer, tmp_path / "train.jsonl", protocol, "tiny")
    assert examples["length"] == [len(row["prompt"]) + len(row["response"]) for row in rows]
    by_tokens = protocol.model_copy(update={"group_by_length": "tokens"})
    others, _ = training_rows(tokenizer, tmp_path / "train.jsonl", by_tokens, "tiny")
    assert "length" not in others.column_names
    backwards = examples.remove_columns("length").add_column("length", [-length for length in examples["length"]])
    run = Run(Cell("toy", "tiny", "lora", 4), 0)
    model = get_peft_model(toy_runs.model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer = build_trainer(model, tokenizer, backwards, None, protocol, run, tmp_path / "checkpoints")
    first = next(iter(trainer.get_train_dataloader()))
    shortest = min(map(len, examples["input_ids"]))  # the sampler begins with the longest: here the fewest characters
    assert set(first) == {"input_ids", "attention_mask", "labels"} and first["attention_mask"].sum(-1)[0] == shortest
    trainer.train()
    settings = trainer.optimizer.param_groups[0]
    assert trainer.state.global_step == 2 and tuple(settings["betas"]) == (0.8, 0.95) and settings["eps"] == 1e-6


def test_a_validation_reads_as_many_rows_as_the_protocol_says(catalog):
    rows = Dataset.from_list([{"row": row} for row in range(1500)])
    parts = [split(rows, catalog.protocol(name, "mmlu", {}, ""), 0) for name in ("official", "clean")]
    assert [len(train) for train, _ in parts] == [476, 476] and [len(held) for _, held in parts] == [1000, 1024]
