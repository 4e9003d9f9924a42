"""The roofline's arithmetic by hand, and traces kept by all that they depend on."""

import functools
import shutil
from pathlib import Path

import pytest

from sbora_bench.cost import cell_work, kept_traces, roofline, traced_step
from sbora_bench.inputs import meta_twin
from sbora_bench.plan.catalog import DeviceEntry
from tests.factories import shipped

TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
CARD = DeviceEntry(title="C", memory_gib=1, bandwidth_gb_s=100, tflops={"float32": 1, "bfloat16": 4}, source="by hand")


@pytest.fixture(scope="module")
def catalog():
    return shipped.with_model(TINY)


@pytest.fixture
def protocol(catalog):
    sizes = {"batch_size": 4, "micro_batch": 2, "max_length": 16, "score_batch": 2}
    return catalog.protocol("smollm2", "arithmetic", sizes, "test")


def test_each_operator_is_as_slow_as_its_arithmetic_or_its_memory():
    operations = [
        ("bfloat16", 8 * 10**12, 10**9, 3),  # 2 s of arithmetic against 0.01 s of memory
        ("float32", 10**9, 5 * 10**11, 1),  # 5 s of memory
        ("float16", 10**12, 0, 2),  # the card has no such peak: its slowest, 1 s each
    ]
    work = roofline.Work(peak=7, operations=operations)
    assert work.seconds(CARD) == pytest.approx(3 * 2 + 5 + 2 * 1)
    assert (work.flops, work.moved) == (26 * 10**12 + 10**9, 503 * 10**9)
    assert roofline.repeated_work(work, 4).seconds(CARD) == pytest.approx(4 * work.seconds(CARD))
    assert roofline.repeated_work(work, 4).peak == 7


def test_an_update_is_its_micro_batches(catalog, protocol, tmp_path):
    update = cell_work.update_work(catalog, "tiny", "lora", 2, protocol, tmp_path)
    alone = protocol.model_copy(update={"batch_size": 2})
    assert update.flops == 2 * cell_work.update_work(catalog, "tiny", "lora", 2, alone, tmp_path).flops > 0


def test_a_trace_is_kept_by_what_it_depends_on(catalog, protocol, tmp_path, monkeypatch):
    first = cell_work.update_work(catalog, "tiny", "sbora-fa", 2, protocol, tmp_path)
    assert first != cell_work.update_work(catalog, "tiny", "sbora-fa", 4, protocol, tmp_path)
    assert first != cell_work.update_work(catalog, "tiny", "lora", 2, protocol, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr("sbora_bench.inputs.meta_twin.build", None)  # from here on a trace would raise
    assert cell_work.update_work(catalog, "tiny", "sbora-fa", 2, protocol, tmp_path) == first
    other = protocol.model_copy(update={"learning_rate": 1.0, "train_prompt": "plain"})
    assert cell_work.update_work(catalog, "tiny", "sbora-fa", 2, other, tmp_path) == first
    with pytest.raises(cell_work.NotTraced, match="not callable"):
        longer = protocol.model_copy(update={"max_length": 24})
        cell_work.update_work(catalog, "tiny", "sbora-fa", 2, longer, tmp_path)
    for another in ({"tokens_at_once": 16}, {"padding_free": True}):
        with pytest.raises(cell_work.NotTraced, match="not callable"):
            cell_work.update_work(catalog, "tiny", "sbora-fa", 2, protocol.model_copy(update=another), tmp_path)


def test_an_update_in_parts_has_the_same_arithmetic_and_a_lower_peak(catalog, protocol, tmp_path):
    """Its weights are read once a part, so that more bytes move; and the head is passed a token in each."""
    whole, parted = (
        cell_work.update_work(
            catalog, "tiny", "lora", 2, protocol.model_copy(update={"micro_batch": 4, "tokens_at_once": n}), tmp_path
        )
        for n in (0, 16)
    )
    assert whole.flops < parted.flops < 1.01 * whole.flops and parted.moved > whole.moved and parted.peak < whole.peak


def test_scoring_is_the_prompts_and_a_step_a_token(catalog, protocol, tmp_path):
    one, two, five = (
        cell_work.scoring_work(catalog, "tiny", "base", None, protocol, 16, n, tmp_path) for n in (1, 2, 5)
    )
    step = two.flops - one.flops
    assert 0 < step < one.flops, "a token costs less than a prompt"
    assert 4 * step <= five.flops - one.flops < 4.2 * step, "and a little more, the longer the cache"
    assert five.peak > two.peak - 1 and five.seconds(CARD) > two.seconds(CARD)


@pytest.mark.parametrize(("new_tokens", "passes"), [(1, 1), (2, 3), (9, 3)])
def test_a_pass_of_scoring_is_traced_once(catalog, protocol, tmp_path, monkeypatch, new_tokens, passes):
    """The prompts, the middle token and the last, as far as they are different; the peak is that of generation."""
    steps, step = [], traced_step.decoding_step
    monkeypatch.setattr(traced_step, "decoding_step", lambda *args: steps.append(args) or step(*args))
    work = cell_work.scoring_work(catalog, "tiny", "lora", 2, protocol, 16, new_tokens, tmp_path)
    assert len(steps) == passes
    twin = meta_twin.build_scored(catalog, "tiny", catalog.methods["lora"], 2, protocol)
    whole = traced_step.trace_generation(twin, 2, 16, new_tokens, protocol.num_beams, "cuda")
    assert work.peak == whole["peak"]


def test_counts_serve_every_batch_and_optimizer(catalog, protocol, tmp_path, monkeypatch):
    first = cell_work.cell_counts(catalog, "tiny", "lora", 2, protocol, tmp_path)
    monkeypatch.setattr("sbora_bench.cost.counting.counts_and_twin", None)  # from here on a count would raise
    for another in ({"micro_batch": 1}, {"batch_size": 8}, {"optimizer": "adamw_8bit"}, {"tokens_at_once": 16}):
        assert cell_work.cell_counts(catalog, "tiny", "lora", 2, protocol.model_copy(update=another), tmp_path) == first


@pytest.mark.parametrize("method", ["lora", "dora", "sbora-fa", "qsbora-fb"])
def test_the_twin_that_was_counted_is_traced_once(catalog, protocol, tmp_path, monkeypatch, method):
    alone = cell_work.update_work(catalog, "tiny", method, 2, protocol, tmp_path / "alone")
    cell_work.cell_counts(catalog, "tiny", method, 2, protocol, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("sbora_bench.inputs.meta_twin.build", None)  # a second twin would raise
        assert cell_work.update_work(catalog, "tiny", method, 2, protocol, tmp_path) == alone
    smaller = protocol.model_copy(update={"micro_batch": 1})
    again = cell_work.update_work(catalog, "tiny", method, 2, smaller, tmp_path)
    assert again == cell_work.update_work(catalog, "tiny", method, 2, smaller, tmp_path / "alone")


def test_published_traces_serve_code_that_made_them_alone(tmp_path, monkeypatch):
    """Nothing is made where the name is known; other code has other names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept_traces, "_used", set())
    monkeypatch.setattr(kept_traces, "published", functools.cache(kept_traces.published.__wrapped__))
    made = []

    def make():
        made.append(1)
        return {"peak": 7}

    assert kept_traces.remembered(Path("cache"), "memory", ["x"], make) == {"peak": 7}
    assert kept_traces.publish_traces() == 1 and len(made) == 1
    shutil.rmtree("cache")
    assert kept_traces.remembered(Path("cache"), "memory", ["x"], make) == {"peak": 7} and len(made) == 1
    assert not Path("cache").exists()
    kept_traces.remembered(Path("cache"), "memory", ["y"], make)
    monkeypatch.setattr(kept_traces, "_made_by", lambda: ("other code",))
    kept_traces.remembered(Path("cache"), "memory", ["x"], make)
    assert len(made) == 3
