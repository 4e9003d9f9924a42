"""Pre-training goes on from its last whole checkpoint to the same bits; one that diverges or must stop says so."""

import signal
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from sbora_bench.errors import Terminated, UserError
from sbora_bench.files import read_json, sha256, write_json
from sbora_bench.inputs.data import corpus
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.results import store
from sbora_bench.train import pretrain as stage
from sbora_bench.train.checkpoints import step_of
from tests import forked
from tests.factories import toy_runs
from tests.factories.interruptions import Killed, flip, kill
from tests.factories.toy_pretraining import BUCKET, RECIPE, at_step, begun, entry, kept, killed, tokenizer, train
from tests.factories.workplace import workplace  # noqa: F401


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(corpus, "tokenizer", tokenizer)
    monkeypatch.setattr(stage, "BUCKET", BUCKET)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Digests and summary of a base that nothing happened to."""
    root = tmp_path_factory.mktemp("undisturbed")
    digests = train(root)
    return digests, read_json(root / "toy" / "base.json")["summary"]


@pytest.mark.parametrize("steps", [(2,), (4, 8), (9,)])
def test_a_killed_pretraining_ends_in_the_bits_of_an_undisturbed_one(tmp_path, undisturbed, steps, capsys):
    for step in steps:
        killed(tmp_path, step)
    stood = step_of(kept(tmp_path)[0]) if kept(tmp_path) else 0
    capsys.readouterr()
    assert train(tmp_path) == undisturbed[0]
    assert begun(capsys.readouterr().err) == stood == (steps[-1] - 1) // 2 * 2
    summary = read_json(tmp_path / "toy" / "base.json")["summary"]
    assert summary.pop("seconds") > 0
    assert summary == {key: value for key, value in undisturbed[1].items() if key != "seconds"}
    assert not list(tmp_path.glob("*.checkpoints"))


def test_checkpoints_change_no_bit(tmp_path, undisturbed):
    assert train(tmp_path, checkpoint_every=1000)["model.safetensors"] == undisturbed[0]["model.safetensors"]


@pytest.mark.parametrize("dropped", ["generator", "moments", "rate"])
def test_what_is_dropped_would_be_seen(tmp_path, undisturbed, monkeypatch, dropped):
    """The comparison above can fail."""
    killed(tmp_path, 7)
    real = stage._restore
    if dropped == "generator":
        monkeypatch.setattr(torch, "set_rng_state", lambda _: None)
    elif dropped == "moments":
        monkeypatch.setattr(stage, "_restore", lambda at, model, optimizer: real(at, model, SimpleNamespace(state={})))
    else:
        monkeypatch.setattr(torch.optim.lr_scheduler, "LambdaLR", anew(torch.optim.lr_scheduler.LambdaLR))
    assert train(tmp_path)["model.safetensors"] != undisturbed[0]["model.safetensors"]


def anew(schedule):
    return lambda optimizer, rate, last_epoch: schedule(optimizer, rate)


def test_a_base_is_finished_with_its_record(tmp_path, undisturbed, monkeypatch, capsys):
    """Killed between the weights and `base.json`: no step is done twice but those after the last checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_record", kill)
        with pytest.raises(Killed):
            train(tmp_path)
    capsys.readouterr()
    assert train(tmp_path) == undisturbed[0] and begun(capsys.readouterr().err) == 8


def test_a_base_is_shipped_in_half_precision(workplace):  # noqa: F811
    workplace.catalog(models={"toy": entry()})
    workplace.experiment()
    try:
        status, out, err = workplace.run(
            "pretrain", "-e", "small", "toy", "--output", "base", "--ship", "toy.safetensors"
        )
    finally:
        torch.use_deterministic_algorithms(False)  # other tests' trainings are not
    assert status == 0, err
    assert out.splitlines()[-1] == f"toy.safetensors: SHA-256 {sha256(workplace.folder / 'toy.safetensors')}"
    trained, held = (load_file(workplace.folder / name) for name in ("base/model.safetensors", "toy.safetensors"))
    assert trained.keys() == held.keys()
    assert all(torch.equal(held[name], tensor.half()) for name, tensor in trained.items())


def test_batches_that_were_seen_are_skipped_unencoded(monkeypatch):
    recipe = stage.Recipe(**RECIPE)
    whole = list(stage.batches(recipe, tokenizer()))
    real, encoded = stage._encoded, []

    def encode(documents, tokenizer):
        encoded.append(len(documents))
        return real(documents, tokenizer)

    monkeypatch.setattr(stage, "_encoded", encode)
    for first in range(10):
        rest = list(stage.batches(recipe, tokenizer(), first))
        assert len(rest) == 9 - first
        for ours, theirs in zip(rest, islice(whole, first, None), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert sum(encoded) == 4 * (9 - first // BUCKET * BUCKET) * (first < 9)
        encoded.clear()


DAMAGE = {
    "half written": (lambda at: (at / store.DONE).unlink(), "was not written to its end"),
    "weights flipped": (lambda at: flip(at / stage.TENSORS), "damaged"),
    "counts gone": (lambda at: (at / stage.COUNTS).unlink(), "damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, undisturbed, capsys, case):
    damage, message = DAMAGE[case]
    killed(tmp_path, 9)
    assert [checkpoint.name for checkpoint in kept(tmp_path)] == ["checkpoint-8", "checkpoint-6", "checkpoint-4"]
    damage(kept(tmp_path)[0])
    assert train(tmp_path) == undisturbed[0]
    said = capsys.readouterr().err
    assert f"checkpoint-8: {message}" in said and begun(said) == 6


def test_with_every_checkpoint_damaged_it_starts_anew(tmp_path, undisturbed, capsys):
    killed(tmp_path, 7)
    for checkpoint in kept(tmp_path):
        flip(checkpoint / stage.TENSORS)
    assert train(tmp_path) == undisturbed[0] and begun(capsys.readouterr().err) == 0


@pytest.mark.parametrize("other", [{"learning_rate": 0.1}, {"threads": 2}, {"code": "edited"}, {"packages": "newer"}])
def test_nothing_else_goes_on_from_it(tmp_path, undisturbed, capsys, monkeypatch, other):
    with monkeypatch.context() as patch:
        if "code" in other:
            patch.setattr(stage, "code_hash", lambda _: "edited")
        if "packages" in other:
            patch.setattr(stage.provenance, "versions", lambda: {"torch": "newer"})
        killed(tmp_path, 7, **{key: value for key, value in other.items() if key in ("learning_rate", "threads")})
    assert kept(tmp_path)
    assert train(tmp_path) == undisturbed[0] and begun(capsys.readouterr().err) == 0
    assert not list(tmp_path.glob("*.checkpoints"))


@pytest.mark.parametrize("every", [2, 1000])
def test_a_diverging_loss_stops_within_one_interval(tmp_path, monkeypatch, every):
    monkeypatch.setattr(stage, "LOGGED", 3)
    with pytest.raises(UserError, match=r"^toy: pre-training failed: loss .* at step [24]\b.*; lower") as raised:
        train(tmp_path, learning_rate=1e30, checkpoint_every=every)
    assert f"at step {2 if every == 2 else 4}" in str(raised.value)
    assert not (tmp_path / "toy").exists() and not kept(tmp_path)


def test_weights_that_diverge_in_the_last_update_are_no_base(tmp_path):
    with pytest.raises(UserError, match="^toy: pre-training failed: weights are not finite at step 1;"):
        train(tmp_path, steps=1, learning_rate=1e40)
    assert not (tmp_path / "toy").exists()


def test_sigterm_saves_a_checkpoint_at_once(tmp_path, undisturbed, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), at_step(5, lambda: signal.raise_signal(signal.SIGTERM)):
        train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before and not (tmp_path / "toy").exists()
    assert kept(tmp_path)[0].name == "checkpoint-5" and store.is_whole(kept(tmp_path)[0])
    assert train(tmp_path) == undisturbed[0] and begun(capsys.readouterr().err) == 5


SCRIPT = """
import os, signal, sys
from sbora_bench.cli import main as cli
from sbora_bench.train import pretrain
real, number = pretrain.batches, int(sys.argv.pop())

def batches(*arguments):
    for step, batch in enumerate(real(*arguments), 1):
        if step == 5:
            os.kill(os.getpid(), number)
        yield batch

pretrain.batches, pretrain.BUCKET = batches, 4
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job may have it ignored
sys.argv[:1] = ["sbora-bench", "pretrain", "--experiment", "experiments/toy.yaml", "--output", "toy"]
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "status", "line", "newest"),
    [
        (signal.SIGTERM, 143, "sbora-bench: terminated; the same command goes on from here", 5),
        (signal.SIGINT, 130, "sbora-bench: interrupted; the same command goes on from here", 4),
        (signal.SIGKILL, -9, "", 4),
    ],
)
def test_a_process_that_gets_a_signal(tmp_path, undisturbed, capsys, number, status, line, newest):
    toy_runs.write_experiment(tmp_path)
    catalog = tmp_path / "experiments" / "catalog" / "toy.yaml"
    entries = read_json(catalog)
    entries["models"]["toy"] = entry()
    write_json(catalog, entries)
    load_catalog.cache_clear()
    done = forked.python("-c", SCRIPT, "toy", str(int(number)), folder=tmp_path)
    assert done.returncode == status, done.stderr
    ours = [text for text in done.stderr.splitlines() if text.startswith("sbora-bench")]
    assert ours == ([line] if line else []) and "Traceback" not in done.stderr
    assert step_of(kept(tmp_path)[0]) == newest and not (tmp_path / "toy").exists()
    assert train(tmp_path) == undisturbed[0] and begun(capsys.readouterr().err) == newest
