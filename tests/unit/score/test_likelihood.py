"""The gold answer's likelihood: by one pass for all labels, whatever the batch; scored, recorded, counted again."""

import pytest
import torch

from sbora_bench.errors import UserError
from sbora_bench.files import sha256, write_jsonl
from sbora_bench.inputs.prepare import label_place
from sbora_bench.plan.metric import LOSS, SHARE
from sbora_bench.report.verify import from_samples, recomputed
from sbora_bench.results.records import ScoresRecord
from sbora_bench.score.likelihood import gold_answers
from sbora_bench.score.tasks import score_items
from tests.factories import toy_runs
from tests.factories.scorers import scorer

LABELS = ["red", "blue", "cat"]


def items(labels: list[str] | None = None, gold: str = "the answer {} house") -> list[dict]:
    labelled = {"labels": labels} if labels else {}
    return [
        {"id": place, "prompt": prompt, "answer": label, "gold": gold.format(label), "contaminated": False} | labelled
        for place, (prompt, label) in enumerate(zip(toy_runs.prompts(9), LABELS * 3, strict=True))
    ]


def log_probability(prompt: str, text: str) -> tuple[float, int]:
    """Of a text and the end after a prompt, without batch, cache or padding; and its number of tokens."""
    tokenizer = toy_runs.tokenizer()
    begun = tokenizer(prompt)["input_ids"]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = toy_runs.model()(torch.tensor([begun + ids])).logits[0].double().log_softmax(-1)
    places = range(len(begun) - 1, len(begun) + len(ids) - 1)
    return float(sum(logits[place, token] for place, token in zip(places, ids, strict=True))), len(ids)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_loss_is_that_of_the_whole_answer_and_its_end(batch_size):
    for item, answer in zip(items(), gold_answers(scorer(batch_size), items()), strict=True):
        expected, count = log_probability(item["prompt"], item["gold"])
        assert answer == {"gold_loss": pytest.approx(-expected / count, abs=1e-5), "gold_tokens": count}


@pytest.mark.parametrize("labels", [LABELS, ["red", "blue", "cat", "dog cat"]])
def test_the_likeliest_label_is_the_one_whose_place_or_whole_answer_is(labels):
    """Labels of one token are weighed where they stand; others with all of their answer."""
    for item, answer in zip(items(labels), gold_answers(scorer(), items(labels)), strict=True):
        of_whole = [log_probability(item["prompt"], f"the answer {label} house")[0] for label in labels]
        weights = [at_label(item["prompt"], label) for label in LABELS] if labels == LABELS else of_whole
        assert answer["likeliest"] == labels[weights.index(max(weights))]


def test_prompts_go_to_the_tokenizer_in_one_call_and_texts_of_answers_in_another(monkeypatch):
    ours, calls = scorer(), []
    plain = type(ours.tokenizer).__call__
    monkeypatch.setattr(
        type(ours.tokenizer), "__call__", lambda self, *args, **named: calls.append(args) or plain(self, *args, **named)
    )
    to_ask = items(LABELS)
    gold_answers(ours, to_ask)
    prompts = list(dict.fromkeys(item["prompt"] for item in to_ask))
    answers = [f"the answer {label} house" for label in LABELS]
    assert sorted(texts for (texts,) in calls) == sorted([prompts, answers])


def at_label(prompt: str, label: str) -> float:
    tokenizer = toy_runs.tokenizer()
    ids = tokenizer(f"{prompt} the answer")["input_ids"]
    with torch.no_grad():
        return float(toy_runs.model()(torch.tensor([ids])).logits[0, -1][tokenizer.convert_tokens_to_ids(label)])


@pytest.mark.parametrize("labels", [None, LABELS, ["red", "blue", "cat", "dog cat"]])
@pytest.mark.parametrize("max_length", [256, 30])
def test_shots_that_prompts_share_are_read_once(labels, max_length):
    """A subject's shots before its questions, as MMLU has them; cut from the left where they are too long."""
    shots = [" ".join(toy_runs.prompts(9)[start : start + 3]) for start in (0, 4)]
    shot = [item | {"prompt": f"{shots[number % 2]} {item['prompt']}"} for number, item in enumerate(items(labels))]
    together, apart, sizes = scorer(max_length=max_length, shared=True), scorer(max_length=max_length), []
    count = lambda _, inputs, named: sizes.append(named["input_ids"].numel())  # noqa: E731
    with apart.model.register_forward_pre_hook(count, with_kwargs=True):
        plain = gold_answers(apart, shot)
    ours = gold_answers(together, shot)
    assert [one["gold_loss"] for one in ours] == pytest.approx([one["gold_loss"] for one in plain], abs=1e-5)
    assert [one.get("likeliest") for one in ours] == [one.get("likeliest") for one in plain]
    if max_length == 256:
        assert 0 < together.read < 0.75 * sum(sizes)


@pytest.mark.parametrize("shared", [False, True])
def test_memory_that_does_not_suffice_halves_the_answers(shared):
    reader, sizes = scorer(batch_size=8, shared=shared), []

    def check(_, inputs, named):
        sizes.append(len(named["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    reader.model.register_forward_pre_hook(check, with_kwargs=True)
    halved, whole = gold_answers(reader, items(LABELS)), gold_answers(scorer(), items(LABELS))
    assert max(sizes) == 8 and [one["likeliest"] for one in halved] == [one["likeliest"] for one in whole]
    assert [one["gold_loss"] for one in halved] == pytest.approx([one["gold_loss"] for one in whole], abs=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_long_prompt_loses_its_beginning_and_an_answer_alone_too_long_is_told(shared):
    whole, cut = gold_answers(scorer(), items()), gold_answers(scorer(max_length=9, shared=shared), items())
    assert [one["gold_tokens"] for one in whole] == [one["gold_tokens"] for one in cut] and whole != cut
    lengths = [len(toy_runs.tokenizer()(item["prompt"])["input_ids"]) + 5 for item in items()]
    assert ["cut" in one for one in cut] == [length > 9 for length in lengths] and max(lengths) > 9
    assert not any("cut" in one for one in whole)
    with pytest.raises(UserError, match="an answer has 5 tokens and 5 go"):
        gold_answers(scorer(max_length=5, shared=shared), items())


@pytest.mark.parametrize("answered", ["template", "loss", "label"])
@pytest.mark.parametrize(("max_length", "some"), [(256, False), (12, True)])
def test_items_whose_prompt_was_cut_are_marked_and_counted(tmp_path, answered, max_length, some):
    template = GENERATED if answered != "template" else GENERATED | {"generation_kwargs": {"max_gen_toks": 9}}
    score, rows = score_items(scorer(max_length=max_length), template, items(LABELS), True, {}, answered)
    cut = sum("cut" in row for row in rows)
    assert bool(cut) == some and cut == score.extra.get("cut", 0)
    path = tmp_path / "own.jsonl"
    write_jsonl(path, rows)
    assert from_samples(path, score, rows).extra == pytest.approx(score.extra)


@pytest.mark.parametrize(
    ("text", "label", "place"),
    [
        ("it is true, truely", "true", 6),
        ("untrue", "true", 2),
        ("true or true", "true", 8),
        ("答案是A", "A", 3),
        ("no", "A", None),
    ],
)
def test_a_label_is_a_word_of_its_own_where_it_can_be(text, label, place):
    assert label_place(text, label) == place


def test_a_gold_answer_that_does_not_name_its_label_is_told():
    with pytest.raises(UserError, match="item 0: its output 'the' doesn't name its answer 'red'"):
        gold_answers(scorer(), items(LABELS, "the"))


GENERATED = toy_runs.TEMPLATE | {"task": "own", "generation_kwargs": {"until": [], "max_gen_toks": 4}}


@pytest.mark.parametrize(
    ("labels", "answered", "metric"),
    [
        (None, "template", "exact_match"),
        (LABELS, "template", "exact_match"),
        (None, "loss", "gold_loss"),
        (LABELS, "loss", "gold_loss"),
        (LABELS, "label", "by_likelihood"),
    ],
)
def test_scores_hold_both_and_are_counted_again_from_samples(tmp_path, labels, answered, metric):
    score, rows = score_items(scorer(), GENERATED, items(labels), True, {}, answered)
    losses = [answer["gold_loss"] for answer in gold_answers(scorer(), items(labels))]
    right = sum(row.get("likeliest") == row["answer"] for row in rows) / len(rows)
    assert score.extra["gold_loss"] == pytest.approx(sum(losses) / 9)
    assert score.extra.get("by_likelihood", 0.0) == pytest.approx(right)
    assert score.metric == metric and score.measured == (LOSS if metric == "gold_loss" else SHARE)
    assert score.value == pytest.approx({"exact_match": score.value}.get(metric, score.extra.get(metric)))
    assert ("response" in rows[0]) is (metric != "gold_loss")
    path = tmp_path / "samples" / "own.jsonl"
    write_jsonl(path, rows)
    record = ScoresRecord(
        **dict.fromkeys(("experiment", "table", "run", "model", "method", "suite", "protocol"), "x"),
        rank=4,
        seed=0,
        train=None,
        settings_sha256="",
        tasks={"own": score.model_copy(update={"samples_sha256": sha256(path)})},
    )
    assert recomputed(tmp_path, record) == (record, [])


def test_a_choice_without_labels_is_told():
    with pytest.raises(UserError, match="task own: item 0: its question doesn't name the labels"):
        score_items(scorer(), GENERATED, items(), True, {}, "label")


def test_without_a_gold_answer_nothing_is_added():
    bare = [{key: item[key] for key in ("id", "prompt", "answer", "contaminated")} for item in items()]
    score, rows = score_items(scorer(), GENERATED, bare, True, {}, None)
    assert "gold_loss" not in score.extra and "gold_loss" not in rows[0]
