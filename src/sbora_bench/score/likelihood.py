"""The likelihood of the right answer: its loss and, of a choice, the likeliest label. Nothing is generated.

The answer is the item's whole `gold` text, as a training row has it, and the token that ends it. All labels of a choice
are asked in that text's words, so that a model is asked what it knows, not whether it knows the words.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of
from sbora_bench.inputs.prepare import NO_LABELS, label_place
from sbora_bench.plan.metric import GOLD_LOSS, LOSS
from sbora_bench.results.aggregate import CUT, LIKELIEST, clean_mean, mean_and_stderr
from sbora_bench.results.records import TaskScore
from sbora_bench.score.shared_prefixes import Row, halving

if TYPE_CHECKING:
    from sbora_bench.score.lm_eval_model import Scorer


@dataclass
class Answer:
    """Token ids of a prompt and an answer; at one `place` of the answer, others are compared with what stands there."""

    prompt: list[int]
    answer: list[int]
    place: int = 0
    others: list[int] = field(default_factory=list)
    log_probability: float = 0.0  # of the whole answer, in nats
    of_others: list[float] = field(default_factory=list)  # of each of the others, at its place


def gold_answers(scorer: "Scorer", items: list[dict]) -> list[dict[str, Any]]:
    """Of each item `gold_loss`, in nats a token of its gold answer, `gold_tokens` and, of a choice, `likeliest`; `cut`
    where not all of its prompt goes through the model.
    """
    of_items = []
    answers: list[Answer] = []
    texts_of = [[item["gold"], *(_with_label(item, label) for label in item.get("labels") or [])] for item in items]
    ended = _ended(scorer, [text for texts in texts_of for text in texts])
    prompts = scorer.ids_of_contexts(item["prompt"] for item in items)
    for item, texts in zip(items, texts_of, strict=True):
        prompt = prompts[item["prompt"]]
        gold, *named = (ended[text] for text in texts)
        place = _only_difference(named)
        of_item = [Answer(prompt, gold)]
        if place is not None:
            of_item[0].place, of_item[0].others = place, [ids[place] for ids in named]
        else:
            of_item += [Answer(prompt, ids) for ids in named]
        answers += of_item
        of_items.append((item.get("labels") or [], of_item))
    weigh(scorer, answers)
    return [_figures(labels, of_item) | _cut(scorer, of_item) for labels, of_item in of_items]


def _cut(scorer: "Scorer", answers: list[Answer]) -> dict[str, bool]:
    too_long = any(len(one.prompt) + len(one.answer) > scorer.max_length for one in answers)
    return {CUT: True} if too_long else {}


def _figures(labels: list[str], answers: list[Answer]) -> dict[str, Any]:
    gold, *named = answers
    weights = gold.of_others or [answer.log_probability for answer in named]
    likeliest = {"likeliest": labels[weights.index(max(weights))]} if labels else {}
    count = len(gold.answer)
    return {GOLD_LOSS: -gold.log_probability / count, "gold_tokens": count} | likeliest


def _ended(scorer: "Scorer", texts: list[str]) -> dict[str, list[int]]:
    """Text -> its token ids and the EOS. One call for all: a call takes several times as long as a text."""
    distinct = list(dict.fromkeys(texts))
    ids = scorer.tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
    return {text: [*of_text, scorer.tokenizer.eos_token_id] for text, of_text in zip(distinct, ids, strict=True)}


def _with_label(item: dict, label: str) -> str:
    """The gold answer with another label in the place of its own. Raises UserError where it doesn't name its own."""
    place = label_place(item["gold"], item["answer"])
    if place is None:
        raise UserError(f"item {item['id']}: its output {item['gold']!r} doesn't name its answer {item['answer']!r}")
    return item["gold"][:place] + label + item["gold"][place + len(item["answer"]) :]


def _only_difference(texts: list[list[int]]) -> int | None:
    """The one place at which these differ; None where they differ in length or at several."""
    if not texts or len({len(ids) for ids in texts}) > 1:
        return None
    places = [place for place, ids in enumerate(zip(*texts, strict=True)) if len(set(ids)) > 1]
    one_token = len(places) == 1 and len({ids[places[0]] for ids in texts}) == len(texts)
    return places[0] if one_token else None


@torch.inference_mode()
def weigh(scorer: "Scorer", answers: list[Answer]) -> None:
    """Fill in the log-probabilities: batches alike in length, halves of them where memory doesn't suffice; where the
    scorer shares prefixes, what prompts share is read once.

    A prompt that is too long loses its beginning. Raises UserError for an answer that is too long alone.
    """
    width = max((len(one.answer) for one in answers), default=0)
    if width >= scorer.max_length:
        raise UserError(f"an answer has {width:,} tokens and {scorer.max_length:,} go through the model at most")
    if scorer.shared_prefixes and answers:
        rows = [Row(tuple(_ids(scorer, one)[:-1]), len(one.answer)) for one in answers]
        reader = scorer.prefix_reader(rows)
        reader.each_row(rows, lambda number, values: _fill_in(answers[number], values))
        scorer.read += reader.read
        return
    order = sorted(answers, key=lambda one: (-len(one.prompt) - len(one.answer), one.prompt, one.answer))
    for batch in scorer.in_batches(order, lambda one: len(one.prompt) + len(one.answer), width + 1):
        for _ in halving(lambda part: _weigh(scorer, part), batch):
            pass


def _weigh(scorer: "Scorer", batch: list[Answer]) -> None:
    """One pass: logits at the answers alone."""
    width = max(len(one.answer) for one in batch)
    rows = scorer.padded([_ids(scorer, one) for one in batch])
    logits = scorer.model(**rows, logits_to_keep=width + 1, use_cache=False).logits
    for one, of_row in zip(batch, logits[:, -width - 1 : -1], strict=True):
        _fill_in(one, of_row[-len(one.answer) :].double().log_softmax(-1).cpu())


def _ids(scorer: "Scorer", one: Answer) -> list[int]:
    return (one.prompt + one.answer)[-scorer.max_length :]


def _fill_in(one: Answer, values: torch.Tensor) -> None:
    """`values` (tokens of the answer, vocabulary): the log-probabilities at each."""
    one.log_probability = float(values[range(len(one.answer)), one.answer].sum())
    one.of_others = values[one.place, one.others].tolist() if one.others else []


def by_likelihood(
    config: dict, items: list[dict], answers: list[dict[str, Any]], choice: bool
) -> tuple[TaskScore, list[dict]]:
    """The score of a task and its samples without a generated text: of a choice the share of items whose likeliest
    label is right, else the loss. Raises UserError for an item of a choice that names no labels.
    """
    bare = [item for item, answer in zip(items, answers, strict=True) if choice and "likeliest" not in answer]
    if bare:
        raise UserError(f"task {config['task']}: item {bare[0]['id']}: {NO_LABELS}")
    values = [
        float(answer["likeliest"] == item["answer"]) if choice else answer[GOLD_LOSS]
        for item, answer in zip(items, answers, strict=True)
    ]
    value, stderr = mean_and_stderr(values)
    score = TaskScore(
        metric=LIKELIEST if choice else GOLD_LOSS,
        value=value,
        stderr=stderr,
        n=len(items),
        task_hash=hash_of({"task": config["task"], "answer_by": "likelihood"}),
        extra=clean_mean(values, items),
        **({} if choice else {"measured": LOSS}),
    )
    rows = [
        {key: item[key] for key in ("id", "prompt", "answer", "contaminated")}
        | (
            {"correct": value == 1.0, "response": answer["likeliest"], "extracted": answer["likeliest"], "tokens": 1}
            if choice
            else {"value": value}
        )
        for item, value, answer in zip(items, values, answers, strict=True)
    ]
    return score, rows
