"""Prompts by the tokenizer's own chat template: the same text in training and scoring, the loss on the answer alone."""

from pathlib import Path

import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl, write_jsonl
from sbora_bench.inputs.data.chat import written_out
from sbora_bench.inputs.data.prompts import Prompt, prompt_of
from sbora_bench.inputs.prepare import Columns, task_row, training_row
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.data_entries import PromptEntry
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import data_settings
from sbora_bench.results.records import TaskData
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.tasks import score_tasks
from sbora_bench.train.encoding import IGNORED, encode_rows
from tests.factories import toy_runs
from tests.factories.workplace import workplace  # noqa: F401

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' and strict %}{{ raise_exception('no') }}{% endif %}"
    "{{ message.role }} {{ message.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}answer {% endif %}"
)
CHAT = [
    {"role": "system", "content": "{{ tone }}"},
    {"role": "user", "content": "{{ instruction }}{% if input %} {{ input }}{% endif %}"},
]
ROWS = [
    {"tone": "the house", "instruction": "cat is", "input": "", "output": "red", "answer": "1"},
    {"tone": "", "instruction": "dog is", "input": "the blue", "output": "blue 2", "answer": "2"},
]
WRITTEN = ["system the house </s> user cat is </s> answer ", "user dog is the blue </s> answer "]


def tokenizer(template: str | None = TEMPLATE):
    made = toy_runs.tokenizer()
    made.chat_template = template
    return made


def prompt(**keys):
    return prompt_of(Catalog.model_validate({"prompts": {"own": {"chat": CHAT} | keys}}), "own")


def test_training_begins_with_the_very_tokens_of_the_scoring_prompt_and_the_loss_is_on_the_answer(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [training_row(row, prompt()) for row in ROWS])
    protocol = toy_runs.protocol()
    encoded, _ = encode_rows(tokenizer(), tmp_path / "train.jsonl", protocol)
    scorer = Scorer(toy_runs.model(), tokenizer(), 2, 64)
    items = written_out(scorer.tokenizer, [task_row(n, row, prompt(), None) for n, row in enumerate(ROWS)])
    assert [item["prompt"] for item in items] == WRITTEN
    for row, item, source in zip(encoded, items, ROWS, strict=True):
        prompt_ids = scorer.context_ids(item["prompt"])
        assert row["input_ids"][: len(prompt_ids)] == prompt_ids and prompt_ids.count(tokenizer().bos_token_id) == 1
        answer = tokenizer()(source["output"] + " </s>", add_special_tokens=False)["input_ids"]
        assert row["input_ids"][len(prompt_ids) :] == answer
        assert row["labels"] == [IGNORED] * len(prompt_ids) + answer


def test_messages_of_a_row_s_own_are_not_the_prompt_s():
    own = [{"role": "assistant", "content": "red"}]
    rows = [row | {"messages": own, "chat_arguments": {}} for row in ROWS]
    plain = Prompt(lambda row: row["instruction"])
    kept = written_out(tokenizer(), [task_row(n, row, plain, None) for n, row in enumerate(rows)])
    assert [(row["prompt"], row["messages"]) for row in kept] == [("cat is", own), ("dog is", own)]
    ours = written_out(tokenizer(), [task_row(n, row, prompt(), None) for n, row in enumerate(rows)])
    assert [row["prompt"] for row in ours] == WRITTEN
    with pytest.raises(UserError, match="item 3: column messages: the harness writes its own"):
        task_row(3, ROWS[0] | {"messages": own}, prompt(), None, Columns(whole=True))


def test_what_is_generated_for_is_what_the_sample_shows(tmp_path):
    write_jsonl(tmp_path / "count.jsonl", [task_row(n, row, prompt(), None) for n, row in enumerate(ROWS)])
    config = {
        "task": "count",
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_gen_toks": 2, "until": []},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    score_tasks(
        {"count": config},
        {"count": {}},
        {"count": TaskData(n=2)},
        tmp_path,
        toy_runs.protocol(),
        lambda: Scorer(toy_runs.model(), tokenizer(), 2, 64),
        "run",
        tmp_path / "made",
    )
    assert [row["prompt"] for row in read_jsonl(tmp_path / "made" / "samples" / "count.jsonl")] == WRITTEN


def test_arguments_reach_the_template_and_what_it_refuses_is_one_line():
    row = training_row(ROWS[0], prompt(arguments={"strict": True}))
    with pytest.raises(UserError, match="its chat template doesn't take the prompt's messages: .*no"):
        written_out(tokenizer(), [row])


def test_a_template_that_leaves_a_message_out_is_refused():
    user_alone = "{% for m in messages if m.role == 'user' %}{{ m.content | trim }} {% endfor %}answer "
    rows = [training_row(row, prompt()) for row in ROWS]
    assert written_out(tokenizer(user_alone), rows[1:])[0]["prompt"] == "dog is the blue answer "
    with pytest.raises(UserError, match="leaves out or changes the system's message 'the house'; put it into another"):
        written_out(tokenizer(user_alone), rows)


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(UserError, match="its tokenizer has no chat template"):
        written_out(tokenizer(None), [training_row(ROWS[0], prompt())])
    assert written_out(tokenizer(None), [{"prompt": "a"}]) == [{"prompt": "a"}]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, "give either jinja or chat"),
        ({"jinja": "a", "chat": CHAT}, "give either jinja or chat"),
        ({"jinja": "a", "arguments": {"b": 1}}, "of a chat template"),
        ({"chat": [{"role": "assistant", "content": "a"}]}, "found role assistant, allowed user"),
        ({"chat": [{"role": "tool", "content": "a"}]}, "role"),
    ],
)
def test_entries_that_say_nothing_are_refused(entry, expected):
    with pytest.raises(ValueError, match=expected):
        PromptEntry.model_validate(entry)


def test_a_mistake_in_a_message_names_its_place():
    with pytest.raises(UserError, match=r"prompts.own.chat.0.content: not a Jinja template"):
        prompt(chat=[{"role": "user", "content": "{{ a"}])
    with pytest.raises(UserError, match=r"prompts.own.chat: the template can't be filled: 'b' is undefined"):
        prompt(chat=[{"role": "user", "content": "{{ b }}"}])(ROWS[0])


def test_validate_says_so_where_the_tokenizer_is_at_hand_and_prepared_data_follow_the_messages(workplace):  # noqa: F811
    toy_runs.write_base(Path("tiny"))
    workplace.catalog(models={"own": {"title": "Own", "source": {"kind": "folder", "path": "tiny"}}})
    table, over = ("tables", "sums"), {"train_prompt": "chat", "score_prompt": "chat"}
    grid = [{"models": ["own"], "methods": ["lora"], "ranks": [4]}]
    name = workplace.experiment(((*table, "overrides"), over), ((*table, "grids"), grid))
    line = workplace.run("validate", name)[2]
    assert "protocol: train_prompt: chat: model own: tiny: its tokenizer has no chat template" in line
    tokenizer().save_pretrained("tiny")
    assert "chat template" not in workplace.run("validate", name)[2]
    tokenizer(TEMPLATE.replace("and strict", "").replace("system", "user")).save_pretrained("tiny")
    lines = workplace.run("validate", name)[2].splitlines()
    assert "train_prompt: chat: model own: tiny: its chat template doesn't take the prompt's messages: " in lines[0]
    assert len(lines) == 1 + len(load_plan(name).tasks("sums")), lines  # and for the items of each task
    settings = data_settings(load_plan(name), "sums")
    assert settings["own_prompts"]["chat"]["chat"][0]["role"] == "user"
