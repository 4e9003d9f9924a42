"""Training a toy LLaMA: the same bytes each time, alone or beside a sibling; a crash costs only its own run."""

import json
import shutil

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_jsonl
from sbora_bench.results.folders import ADAPTER_FILES
from sbora_bench.results.records import TrainRecord, read_record
from sbora_bench.train import finetune as stage
from tests.factories import shipped
from tests.factories.architectures import SIZES
from tests.factories.toy_runs import write_base
from tests.factories.toy_training import FILES, SETTINGS, digests, house, train

CANARY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both seeds of both methods, each method's seeds in one call."""
    root = tmp_path_factory.mktemp("trained")
    plan = house(root)
    for method in ("lora", "sbora-fa"):
        train(plan, root, f"toy-tiny-{method}-r4-s0", f"toy-tiny-{method}-r4-s1")
    return plan, root


@pytest.mark.parametrize("name", ["toy-tiny-lora-r4-s1", "toy-tiny-sbora-fa-r4-s1"])
def test_a_run_alone_has_the_bytes_of_a_run_beside_its_sibling(trained, tmp_path, name):
    root = trained[1]
    train(house(tmp_path), tmp_path, name)
    assert digests(tmp_path, name) == digests(root, name)
    assert digests(root, name) != digests(root, name.replace("s1", "s0"))
    one, two = (read_record(at / "results" / "runs" / name / "train.json", TrainRecord) for at in (root, tmp_path))
    assert one.happened.loss_curve == two.happened.loss_curve
    assert one.asked == two.asked and one.on.train_sha256 == two.on.train_sha256


def test_the_record_tells_what_was_asked_and_what_happened(trained):
    root = trained[1]
    folder = root / "results" / "runs" / "toy-tiny-lora-r4-s0"
    record = read_record(folder / "train.json", TrainRecord)
    assert record.status == "ok" and record.asked["protocol"]["steps"] == 3 and record.rank == 4
    assert record.happened.steps == 3 and record.happened.examples == 12
    assert [row.step for row in record.happened.loss_curve] == [1, 2, 3]
    assert record.happened.trainable_parameters == 2 * 4 * (2 * 32 + 32 + 16)
    assert {"torch", "peft", "python"} <= set(record.on.versions) and record.on.algorithms
    config = read_json(folder / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] == "tiny" and config["target_modules"] == ["q_proj", "v_proj"]
    assert str(root) not in (folder / "train.json").read_text() + json.dumps(config)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "logits.safetensors",
        "train.json",
    ]


def test_a_model_with_a_tower_for_images_trains_on_text(tmp_path):
    """Its sizes stand in the config of its text model."""
    plan = house(tmp_path)
    text = SIZES | {"head_dim": 8}
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = tower | {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=images, mm_tokens_per_image=4)
    write_base(tmp_path / "resources" / "models" / "tiny", weights=Gemma3ForConditionalGeneration(config))
    train(plan, tmp_path, "toy-tiny-lora-r4-s0")
    record = read_record(tmp_path / "results/runs/toy-tiny-lora-r4-s0/train.json", TrainRecord)
    assert record.status == "ok" and record.happened.steps == 3, record.reason


def test_no_card_of_peft_is_made_to_be_thrown_away(tmp_path, monkeypatch):
    monkeypatch.setattr("peft.PeftModel.create_or_update_model_card", lambda *_: pytest.fail("made"))
    train(house(tmp_path), tmp_path, "toy-tiny-lora-r4-s0")
    assert read_record(tmp_path / "results/runs/toy-tiny-lora-r4-s0/train.json", TrainRecord).status == "ok"


def test_a_finished_run_is_taken_from_the_store(trained, monkeypatch):
    plan, root = trained
    name = "toy-tiny-lora-r4-s0"
    before = digests(root, name)
    for file in FILES:
        (root / "results" / "runs" / name / file).unlink()

    def never(*_):
        pytest.fail("it was trained before")

    monkeypatch.setattr(stage, "train_run", never)
    train(plan, root, name)
    assert digests(root, name) == before


def test_a_siblings_crash_is_told_and_leaves_the_other_finished(tmp_path, monkeypatch, capsys):
    plan = house(tmp_path)
    real = stage.train_run

    def crashing(plan, run, *rest):
        if run.seed == 0:
            raise RuntimeError("went\nwrong")
        return real(plan, run, *rest)

    monkeypatch.setattr(stage, "train_run", crashing)
    train(plan, tmp_path, "toy-tiny-lora-r4-s0", "toy-tiny-lora-r4-s1")
    errors = capsys.readouterr().err
    assert "Traceback" in errors and "toy-tiny-lora-r4-s0: failed: RuntimeError: went wrong" in errors
    record, other = (
        read_record(tmp_path / "results" / "runs" / f"toy-tiny-lora-r4-s{seed}" / "train.json", TrainRecord)
        for seed in (0, 1)
    )
    assert (record.status, record.reason) == ("failed", "RuntimeError: went wrong")
    assert other.status == "ok" and len(digests(tmp_path, "toy-tiny-lora-r4-s1")) == len(FILES)


def test_damaged_base_weights_are_named(tmp_path):
    plan = house(tmp_path)
    weights = tmp_path / "resources" / "models" / "tiny" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 .*, expected .*prepare it again"):
        train(plan, tmp_path, "toy-tiny-lora-r4-s0")
    assert not (tmp_path / "results" / "runs").exists()


def test_the_validation_rows_are_the_protocols_and_the_order_the_runs():
    from datasets import Dataset

    rows = Dataset.from_list([{"row": row} for row in range(300)])
    protocol = shipped.protocol("official", "commonsense")
    (train0, held0), (train1, held1) = (stage.split(rows, protocol, seed) for seed in (0, 1))
    assert len(held0) == 120 and set(held0["row"]) == set(held1["row"])
    assert set(train0["row"]).isdisjoint(held0["row"]) and len(train0) == 180
    assert list(train0["row"]) != list(train1["row"]) and set(train0["row"]) == set(train1["row"])
    whole, none = stage.split(rows, protocol.model_copy(update={"validation_rows": 0}), 0)
    assert none is None and sorted(whole["row"]) == list(range(300))


@pytest.mark.parametrize("average", ["tokens", "micro-batch"])
def test_the_loss_is_averaged_as_the_protocol_says(tmp_path, average):
    """One update over two micro-batches with answers of unlike length: the logged loss is the formula's."""
    from peft import get_peft_model

    from sbora_bench.inputs.adapters import adapter_config
    from sbora_bench.inputs.models.load import load_base, load_tokenizer

    plan = house(tmp_path, rows=4, loss_average=average, steps=1, dropout=0.0, checkpoint_every=None)
    run = plan.run("toy-tiny-lora-r4-s0")
    protocol = plan.protocol("toy")
    tokenizer = load_tokenizer(tmp_path / "resources", "tiny", protocol)
    base = load_base(tmp_path / "resources", "tiny", protocol, None, tokenizer)
    model = get_peft_model(base, adapter_config(plan.catalog.methods["lora"], 4, 0, protocol))
    texts = [
        ("cat", "1"),
        ("dog", "2 3"),
        ("house", "4 5 6 7"),
        ("red", "1 2 3 4 5 6 7"),
    ]  # unlike sums, however paired
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"prompt": prompt, "response": response} for prompt, response in texts])
    rows, _ = stage.training_rows(tokenizer, path, protocol, "toy")
    trainer = stage.build_trainer(model, tokenizer, rows, None, protocol, run, tmp_path / "checkpoints")
    seen = []
    plain = trainer.data_collator

    def collate(features):
        seen.append([list(feature["labels"]) for feature in features])
        return plain(features)

    trainer.data_collator = collate
    means, counts = [], []
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            means.append(model.eval()(input_ids=ids, labels=labels).loss.item())
            counts.append(sum(label >= 0 for label in row["labels"]))
    trainer.train()
    by_labels = {tuple(row["labels"]): (mean, count) for row, mean, count in zip(rows, means, counts, strict=True)}
    batches = [[by_labels[tuple(labels)] for labels in batch] for batch in seen]
    assert len(batches) == 2 and {count for batch in batches for _, count in batch} == {2, 3, 5, 8}
    sums = [sum(mean * count for mean, count in batch) for batch in batches]
    tokens = [sum(count for _, count in batch) for batch in batches]
    expected = {
        "tokens": sum(sums) / sum(tokens),
        "micro-batch": sum(total / count for total, count in zip(sums, tokens, strict=True)) / 2,
    }
    logged = stage.logged_losses(trainer.state.log_history)[0]["loss"]
    assert logged == pytest.approx(expected[average], abs=1e-4)
    assert abs(expected["tokens"] - expected["micro-batch"]) > 1e-3


def wandb_log(path):
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB, a record may span several)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def wandb_file(folder) -> dict:
    """Name, group, settings' names and summary of an offline wandb run."""
    entry = {"settings": set(), "summary": {}}
    for record in wandb_log(next(folder.glob("*.wandb"))):
        if record.HasField("run"):
            entry |= {"name": record.run.display_name, "group": record.run.run_group}
        for config in (record.run.config, record.config):
            entry["settings"] |= {item.key for item in config.update}
        for update in record.summary.update:
            entry["summary"][update.key or update.nested_key[0]] = json.loads(update.value_json)
    return entry


def test_each_run_is_a_wandb_run_of_its_own_where_that_is_asked_for_and_no_token_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    plan = house(tmp_path)
    runs = ["toy-tiny-lora-r4-s0", "toy-tiny-sbora-fa-r4-s0"]
    monkeypatch.delenv("WANDB_MODE", raising=False)
    train(plan, tmp_path, runs[0])
    assert not (tmp_path / "wandb").exists()
    shutil.rmtree(tmp_path / "results" / "store")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(plan, tmp_path, *runs)
    entries = {entry["name"]: entry for entry in map(wandb_file, (tmp_path / "wandb").glob("offline-run-*"))}
    assert sorted(entries) == runs
    for name, entry in entries.items():
        assert entry["group"] == f"toy/{plan.run(name).group}"
        assert {"protocol", "seed", "learning_rate"} <= entry["settings"]
        assert entry["summary"]["steps"] == SETTINGS["steps"] and entry["summary"]["trainable_parameters"] > 0
        assert "train/loss" in entry["summary"]
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in left)
    assert [path for path in left if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("method", ["lora", "sbora-fa"])
def test_what_an_adapter_holds_is_what_the_workflow_declares_of_it(tmp_path, method):
    plan = house(tmp_path, methods=[method])
    train(plan, tmp_path, f"toy-tiny-{method}-r4-s0")
    record = read_json(tmp_path / "results" / "runs" / f"toy-tiny-{method}-r4-s0" / "train.json")
    assert record["happened"]["adapter_sha256"].keys() == set(ADAPTER_FILES)
