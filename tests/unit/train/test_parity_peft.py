"""Parity with PEFT's comparison on MetaMathQA: prompt by token, order of batches, labels, schedule, optimizer, and how
an answer is read. What is expected is worked out here from the protocol's description and the tokenizer's library.
"""

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from sbora_bench.inputs.data.examples import examples
from sbora_bench.inputs.data.own_files import rows_without_lines
from sbora_bench.inputs.data.prompts import prompt_of
from sbora_bench.inputs.data.sources import rows_where
from sbora_bench.inputs.models.untrained import TOKENIZERS
from sbora_bench.inputs.tasks.local import local_task
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.train.encoding import encode, in_buckets
from sbora_bench.train.split import split
from sbora_bench.train.trainer import build_trainer
from tests.factories import shipped, toy_runs

CATALOG = shipped.catalog()
RUN = Run(Cell("t", "m", "lora", 4), 0)
QUERY, RESPONSE = "What is 2 + 3?", "2 + 3 = 5\nThe answer is: 5"


def peft_protocol(**overrides):
    return CATALOG.protocol("peft-metamath", "gsm8k-alone", {"weights_dtype": "float32"} | overrides, "here")


def rows(lengths):
    """Rows of so many tokens; the second token is the row's number."""
    made = [[1, 4 + row, *([4] * (length - 2))] for row, length in enumerate(lengths)]
    return Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in made])


def trainer_of(folder, lengths, **overrides):
    torch.manual_seed(0)
    model = get_peft_model(toy_runs.model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    protocol = peft_protocol(**overrides)
    train, validation = split(rows(lengths), protocol, RUN.seed)
    assert validation is None
    tokenizer = toy_runs.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token  # Llama-3.2 has none of its own
    return build_trainer(model, tokenizer, train, None, protocol, RUN, folder)


def test_a_row_is_bos_question_and_response_without_an_end_cut_at_768_tokens():
    tokenizer, protocol = TOKENIZERS["llama3"](), peft_protocol()
    prompt = prompt_of(CATALOG, protocol.train_prompt)({"instruction": QUERY, "input": ""})
    assert prompt == f"Question: {QUERY} Think step by step.\nAnswer:"
    assert prompt_of(CATALOG, protocol.score_prompt)({"instruction": QUERY, "input": ""}) == prompt
    plain = lambda text: tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    expected = [tokenizer.bos_token_id, *plain(prompt + RESPONSE)]
    assert encode(tokenizer, prompt, RESPONSE, protocol) == {"input_ids": expected, "labels": expected}
    long = encode(tokenizer, prompt, RESPONSE * 200, protocol)["input_ids"]
    assert long == [tokenizer.bos_token_id, *plain(prompt + RESPONSE * 200)][:768]


def test_rows_of_more_than_1300_characters_are_left_out_and_the_order_stays():
    entry = CATALOG.data["metamath"]
    made = [{"query": "q" * size, "response": "r" * 300, "n": n} for n, size in enumerate([5, 1000, 999, 1, 998])]
    assert [row["n"] for row in rows_where(made, entry, "here")] == [0, 2, 3, 4]
    assert [row["n"] for row in rows_where(made, entry.model_copy(update={"first": 2}), "here")] == [0, 2]
    (example,) = examples(rows_without_lines([{"query": QUERY, "response": RESPONSE}]), "here", dict(entry.columns))
    assert (example["instruction"], example["output"], example["answer"]) == (QUERY, RESPONSE, "5")
    assert entry.first == 5000 * 4 + 200


def test_batches_are_cut_from_buckets_sorted_by_length_and_rows_are_never_shuffled(tmp_path):
    lengths = [3, 9, 5, 5, 7, 4, 8, 3, 6, 6, 9, 4, 5, 8]
    # two buckets of 6 and a rest of 2, longest first, equals as they come
    order = [1, 4, 2, 3, 5, 0, 10, 6, 8, 9, 11, 7, 13, 12]
    assert in_buckets(lengths, 6) == order
    assert in_buckets([1] * 200, 80) == list(range(200))
    trainer = trainer_of(tmp_path, lengths, length_buckets=6, batch_size=2, micro_batch=2)
    seen = [(batch["input_ids"][:, 1] - 4).tolist() for batch in trainer.get_train_dataloader()]
    assert seen == [order[start : start + 2] for start in range(0, 14, 2)]
    assert peft_protocol().length_buckets == 80 and peft_protocol().batch_size == peft_protocol().micro_batch == 4


def test_every_row_that_is_padded_learns_one_end_and_the_longest_none(tmp_path):
    trainer = trainer_of(tmp_path, [6, 6, 4, 3], length_buckets=4)
    (batch,) = trainer.get_train_dataloader()
    eos = 2
    assert batch["input_ids"].shape == (4, 6)
    assert batch["labels"][0].tolist() == [1, 4, 4, 4, 4, 4] and batch["labels"][1].tolist() == [1, 5, 4, 4, 4, 4]
    assert batch["labels"][2].tolist() == [1, 6, 4, 4, eos, -100]
    assert batch["labels"][3].tolist() == [1, 7, 4, eos, -100, -100]
    assert batch["input_ids"][3].tolist() == [1, 7, 4, eos, eos, eos]


def test_the_rate_rises_for_500_updates_and_falls_by_half_a_cosine(tmp_path):
    trainer = trainer_of(tmp_path, [4] * 4)
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    assert trainer.args.max_steps == 5000
    rates = []
    for _ in range(5000):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rise = [1e-4 * step / 500 for step in range(500)]
    fall = [1e-4 * (1 + math.cos(math.pi * step / 4500)) / 2 for step in range(4500)]
    assert rates == pytest.approx(rise + fall, rel=1e-9, abs=1e-18)


def test_adamw_decays_every_matrix_of_the_adapter_and_gradients_are_clipped_at_1(tmp_path):
    trainer = trainer_of(tmp_path, [4] * 4)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.AdamW and trainer.args.max_grad_norm == 1.0
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.1 for p in group["params"]}
    assert decayed == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.9, 0.999), 1e-8)}


@pytest.mark.parametrize(
    "response, gold, right",
    [
        ("so 5.\nThe answer is: 5", "5", True),
        ("The answer is: 4. No. The answer is: 5", "5", True),  # the last of the first phrase that occurs
        ("The answer is 5\n#### 6", "5", True),  # an earlier phrase goes before a later one
        ("#### 6\nThe final answer is 7 ", "7", True),
        ("The final answer is: 7", "7", True),
        ("The answer is: 5\nThe answer follows: 6", "5", True),  # the first line alone
        ("The answer is: \n\n5", "5", True),
        ("The answer is: $50%.", "50", True),
        ("The answer is: 5.0", "5", True),
        ("The answer is: 20/35", "0.5714285714285714", True),
        ("The answer is: 1/0", "1", False),
        ("The answer is: 1,000", "1000", False),  # no number to their reading, and another text
        ("The answer is: five", "five", True),
        ("The answer is: 5 apples", "5", False),
        ("It is 5.", "5", False),
        ("", "5", False),
    ],
)
def test_an_answer_is_read_and_compared_as_there(response, gold, right):
    config = task_config("gsm8k-stated", CATALOG.tasks["gsm8k-stated"], peft_protocol())
    task = local_task(config, [{"prompt": "x", "answer": gold}])
    task.build_all_requests()
    (request,) = task.instances
    request.resps.append(response)
    task.apply_filters()
    (read,) = request.filtered_resps.values()
    assert task.process_results(request.doc, [read]) == {"same_answer": float(right)}


def test_scoring_is_greedy_in_batches_of_50_with_300_new_tokens_of_800():
    protocol = peft_protocol()
    config = task_config("gsm8k-stated", CATALOG.tasks["gsm8k-stated"], protocol)
    assert (
        config["generation_kwargs"] | {"max_gen_toks": 300, "num_beams": 1, "do_sample": False}
        == (config["generation_kwargs"])
    )
    assert (protocol.score_batch, protocol.score_max_length, protocol.merge) == (50, 800, False)


@pytest.mark.parametrize(
    "overrides, key",
    [
        ({"validation_rows": 4}, "length_buckets: found 80"),
        ({"group_by_length": "tokens"}, "length_buckets: found 80"),
        ({"sort_by_length": True}, "length_buckets: found 80"),
        ({"loss_on": "answer"}, "end_of_text: found padded"),
    ],
)
def test_what_contradicts_an_order_of_its_own_is_refused(overrides, key):
    from sbora_bench.errors import UserError

    with pytest.raises(UserError, match=key):
        peft_protocol(**overrides)
