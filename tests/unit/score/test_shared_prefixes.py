"""Prompts that begin alike: the same letters and log-likelihoods as one by one, for fewer tokens read."""

import random
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, ShadowConfig, get_peft_model

from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.shared_prefixes import WORTH, Group, Row, groups, halving
from tests.factories import toy_runs
from tests.factories.architectures import KINDS, base

DRAW = random.Random(3)
WORDS = toy_runs.WORDS


def words(count: int) -> str:
    return " ".join(DRAW.choice(WORDS) for _ in range(count))


SHOTS = {subject: words(30) for subject in ("birds", "maths", "rivers")}
PROMPTS = [f"{shots} {words(1 + place)}" for place in range(5) for shots in SHOTS.values()]
LETTERS = [(prompt, letter) for prompt in PROMPTS for letter in "ABCD"]
QUESTIONS = [words(12 + place) for place in range(6)]
ANSWERS = [(question, f" {words(1 + answer % 3)}") for question in QUESTIONS for answer in range(4)]


def likelihoods(model, pairs, batch_size=4, **settings):
    scorer = Scorer(model.eval(), toy_runs.tokenizer(), batch_size, 200, **settings)
    return scorer.loglikelihood([SimpleNamespace(args=pair) for pair in pairs]), scorer


def adapted(config, kind="llama-grouped-queries"):
    torch.manual_seed(1)
    return get_peft_model(base(KINDS[kind]), config)


def shadowed():
    """With a network beside the base that has a cache of its own; its values far from those that change nothing."""
    model = adapted(ShadowConfig(r=2, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for _, parameter in (named for named in model.named_parameters() if "shadow_" in named[0]):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


MODELS = {
    **{kind: (lambda kind=kind: base(KINDS[kind])) for kind in KINDS},
    "lora": lambda: adapted(LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)),
    "shadow": shadowed,
    "virtual tokens": lambda: adapted(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_likelihoods(kind):
    """Letters after shots, and answers of some tokens after a question, in one list."""
    pairs, virtual = LETTERS + ANSWERS, kind == "virtual tokens"
    theirs, _ = likelihoods(MODELS[kind](), pairs, batch_size=1)
    ours, scorer = likelihoods(MODELS[kind](), pairs, batch_size=1 if virtual else 4, shared_prefixes=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-5)
    assert len({round(value, 3) for value, _ in ours}) > 40 and (scorer.read == 0) == virtual


@pytest.mark.parametrize("beams", [1, 3])
def test_a_shadow_generates_in_batches_what_it_generates_alone(beams):
    scorer = Scorer(shadowed().eval(), toy_runs.tokenizer(), 4, 64)
    rows = [[5, 6, 7], [5, 6, 7, 8, 9, 10], [8], [9, 10, 11, 12]]
    made = scorer.generate_ids(rows, 8, num_beams=beams)
    assert made == [scorer.generate_ids([row], 8, num_beams=beams)[0] for row in rows]
    assert made == scorer.generate_ids(rows, 8, num_beams=beams, use_cache=False) and len({*map(tuple, made)}) > 1


def test_shared_tokens_are_read_once():
    model = base(KINDS["llama"])
    _, shared = likelihoods(model, LETTERS, batch_size=64, shared_prefixes=True)
    lengths = [len(toy_runs.tokenizer()(prompt)["input_ids"]) for prompt in PROMPTS]
    assert shared.read < 3 * 31 + 15 * 6 + 30 < sum(lengths) / 2
    _, answers = likelihoods(model, ANSWERS, batch_size=64, shared_prefixes=True)
    assert answers.read < 0.6 * sum(len((question + answer).split()) for question, answer in ANSWERS)


def test_memory_that_does_not_suffice_halves_the_rows(monkeypatch):
    model = base(KINDS["llama"])
    expected, _ = likelihoods(model, LETTERS + ANSWERS, shared_prefixes=True)
    sizes = []

    def check(_, inputs, named):
        sizes.append(len(named["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(check, with_kwargs=True)
    actual, _ = likelihoods(model, LETTERS + ANSWERS, batch_size=32, shared_prefixes=True)
    assert max(sizes) > 2
    assert [value for value, _ in actual] == pytest.approx([value for value, _ in expected], abs=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_all_prompts_are_encoded_in_one_call_and_a_letter_once(shared):
    scorer = Scorer(base(KINDS["llama-grouped-queries"]).eval(), toy_runs.tokenizer(), 4, 200, shared)
    encode, texts = scorer.tokenizer, []

    class Counting:
        def __getattr__(self, name):
            return getattr(encode, name)

        def __call__(self, text, **settings):
            texts.append(text)
            return encode(text, **settings)

    scorer.tokenizer = Counting()
    scorer.loglikelihood([SimpleNamespace(args=pair) for pair in LETTERS])
    assert sorted(text for text in texts if isinstance(text, str)) == list("ABCD")
    assert [text for text in texts if isinstance(text, list)] == [PROMPTS]


def test_whether_a_model_can_share_is_asked_once():
    scorer = Scorer(base(KINDS["llama-grouped-queries"]).eval(), toy_runs.tokenizer(), 4, 200, True)
    passes = []
    scorer.model.register_forward_pre_hook(lambda *_: passes.append(1))
    requests = [SimpleNamespace(args=pair) for pair in LETTERS]
    scorer.loglikelihood(requests)
    with_question = len(passes)
    scorer.loglikelihood(requests)
    assert len(passes) == 2 * with_question - 1


def test_one_row_that_does_not_fit_is_an_error():
    def work(parts):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError):
        list(halving(work, [1, 2, 3]))
    with pytest.raises(ValueError, match="other"):
        list(halving(lambda parts: (_ for _ in ()).throw(ValueError("other")), [1, 2]))


def tokens_read(grouped: list[Group], rows: list[Row]) -> int:
    return sum(g.shared + sum(len(rows[number].ids) - g.shared for number in g.members) for g in grouped)


def fewest(rows: list[Row]) -> int:
    """Of all ways to cut the sorted rows into neighbours that share as much as they can."""
    order = sorted(rows, key=lambda row: row.ids)
    best = [0]
    for end in range(1, len(order) + 1):
        ways = []
        for start in range(end):
            part = order[start:end]
            shared = 0
            if len(part) > 1:
                most = min(len(row.ids) - row.needed for row in part)
                while shared < most and len({row.ids[shared] for row in part}) == 1:
                    shared += 1
            shared = shared if shared >= WORTH else 0
            ways.append(best[start] + shared + sum(len(row.ids) - shared for row in part))
        best.append(min(ways))
    return best[-1]


@pytest.mark.parametrize("seed", range(12))
def test_groups_read_no_more_than_the_best_cut_into_neighbours(seed):
    draw = random.Random(seed)
    stems = [[draw.randrange(3) for _ in range(draw.randrange(5, 30))] for _ in range(3)]
    stems += [stems[0] + [draw.randrange(3) for _ in range(20)]]
    rows = []
    for _ in range(14):
        own = [draw.randrange(3) for _ in range(draw.randrange(1, 6))]
        rows.append(Row(tuple(draw.choice(stems) + own), len(own)))
    grouped = groups(rows)
    assert sorted(number for group in grouped for number in group.members) == list(range(14))
    for group in grouped:
        starts = {rows[number].ids[: group.shared] for number in group.members}
        assert len(starts) == 1 or not group.shared
        assert all(group.shared <= len(rows[n].ids) - rows[n].needed for n in group.members)
    assert tokens_read(grouped, rows) <= fewest(rows)


def test_a_part_that_shares_more_is_read_by_itself():
    """Two subjects with the same opening words, and a row that has those alone."""
    opening, birds, maths = range(10), range(100, 150), range(200, 250)
    rows = [Row((*opening, *subject, 900 + item), 1) for subject in (birds, maths) for item in range(5)]
    rows.append(Row((*opening, 7), 1))
    assert sorted((group.shared, sorted(group.members)) for group in groups(rows)) == [
        (0, [10]),
        (60, [0, 1, 2, 3, 4]),
        (60, [5, 6, 7, 8, 9]),
    ]


def test_prompts_within_prompts_make_no_deep_recursion():
    rows = [Row(tuple(range(length)), 1) for length in range(1, 3000)]
    assert sum(len(group.members) for group in groups(rows)) == 2999
