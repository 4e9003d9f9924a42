"""`score_batch: auto`: batches by length and memory, with the order, texts and likelihoods of batches of a number."""

import math
from functools import partial

import pytest

from sbora_bench.errors import UserError
from sbora_bench.inputs.models import scored_rows
from sbora_bench.score.likelihood import gold_answers
from sbora_bench.score.lm_eval_model import Scorer
from tests.factories import shipped, toy_runs
from tests.factories.scorers import requests, scorer

PROMPTS = [" ".join(toy_runs.WORDS[place % 7 : place % 7 + 1 + place % 9]) for place in range(40)]
SETTINGS = {"until": [], "max_gen_toks": 4, "do_sample": False}
ASKED = {
    "texts": lambda ours: ours.generate_until(requests([(prompt, SETTINGS) for prompt in PROMPTS])),
    "letters": lambda ours: ours.loglikelihood(requests([(prompt, letter) for prompt in PROMPTS for letter in "AB"])),
    "continuations": lambda ours: ours.loglikelihood(requests([(prompt, " red cat") for prompt in PROMPTS])),
    "gold answers": lambda ours: gold_answers(
        ours, [{"id": place, "prompt": prompt, "gold": "red cat"} for place, prompt in enumerate(PROMPTS)]
    ),
}


def by_memory(memory: int, shared: bool) -> tuple[Scorer, list[tuple[int, int]]]:
    """A scorer with so many bytes beside the weights, and the shapes of the first pass of each batch."""
    model, shapes = toy_runs.model(), []

    def note(_, inputs, named):
        ids = named["input_ids"] if "input_ids" in named else inputs[0]
        if ids.shape[1] > 1:
            shapes.append(tuple(ids.shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    rows_at = partial(scored_rows.rows_that_fit, model.config, 4, memory)
    ours = Scorer(model, toy_runs.tokenizer(), 1, 256, shared, rows_at)
    return ours, shapes


def numbers(answers: list) -> list[float]:
    values = [value for one in answers for value in (one.values() if isinstance(one, dict) else one)]
    return [float(value) for value in values]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("asked", ASKED)
def test_the_same_answers_in_the_same_order(asked, shared):
    ours, shapes = by_memory(300_000, shared)
    answers, expected = ASKED[asked](ours), ASKED[asked](scorer(4))
    if asked == "texts":
        assert answers == expected
    else:
        assert numbers(answers) == pytest.approx(numbers(expected), abs=1e-5)
    assert 1 < max(rows for rows, _ in shapes) < len(PROMPTS)


def test_short_rows_go_in_larger_batches():
    ours, shapes = by_memory(300_000, shared=False)
    ASKED["texts"](ours)
    full = shapes[:-1]
    assert [width for _, width in full] == sorted((width for _, width in full), reverse=True)
    assert [rows for rows, _ in full] == sorted(rows for rows, _ in full) and full[0][0] < full[-1][0]


def test_out_of_memory_halves_a_batch_as_before(monkeypatch):
    ours, shapes = by_memory(300_000, shared=False)
    whole = ASKED["letters"](scorer(4))
    generated = ASKED["texts"](scorer(4))
    real, most = ours.generate_ids, 2

    def generate_ids(rows, *args, **settings):
        if len(rows) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(rows, *args, **settings)

    monkeypatch.setattr(ours, "generate_ids", generate_ids)
    assert ASKED["texts"](ours) == generated and max(rows for rows, _ in shapes) == most
    assert numbers(ASKED["letters"](ours)) == pytest.approx(numbers(whole), abs=1e-5)


def test_what_a_machine_has_decides_and_not_what_is_free(monkeypatch):
    monkeypatch.setattr(scored_rows.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1000))
    model = toy_runs.model()
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    of_row = scored_rows.row_bytes(model.config, 4, 8)
    assert scored_rows.by_memory(model)(8) == math.floor((4096 * 1000 - held) / 2) // of_row
    assert scored_rows.by_memory(model)(10**6) == 1


@pytest.mark.parametrize("value", [0, "many", 1.5, None])
def test_a_number_or_auto(value):
    with pytest.raises(UserError, match=f"score_batch: allowed a whole number of at least 1, or auto, found {value!r}"):
        shipped.protocol("official", "commonsense", score_batch=value)


def test_a_number_stands_in_a_protocol_as_it_did():
    """Hashes of what was scored with a number hold."""
    assert '"score_batch":8,' in shipped.protocol("official", "commonsense").model_dump_json()
    assert '"score_batch":"auto",' in shipped.protocol("official", "commonsense", score_batch="auto").model_dump_json()
