"""`validate` says of data and tasks what won't work, a line a problem, before anything runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from sbora_bench.inputs import token_counts
from tests.factories.workplace import workplace  # noqa: F401

ROWS = [
    {"instruction": f"What is {i} + 1 ?", "input": "", "output": f"It is {i + 1}", "answer": f"{i + 1}"}
    for i in range(9)
]
TEMPLATE = {
    "output_type": "generate_until",
    "doc_to_text": "prompt",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOICE = TEMPLATE | {"output_type": "multiple_choice", "doc_to_choice": ["1", "2", "3", "4"], "doc_to_target": 0}
TABLE = ["tables", "sums"]


def write(name: str, rows: list[dict]) -> None:
    Path(name).write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def place(workplace):  # noqa: F811
    """An experiment on rows of one's own and a model in a folder whose tokens are words; 32 positions."""
    write("own.jsonl", ROWS)
    write("items.jsonl", ROWS)
    words = ["<unk>", *{word for row in ROWS for text in row.values() for word in text.split()}]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(8)  # a tokenizer.json may say so, and nobody who loads it means it
    tokenizer.enable_padding(length=8)
    Path("model").mkdir()
    tokenizer.save("model/tokenizer.json")
    Path("model/config.json").write_text(json.dumps({"n_positions": 32}))
    Path("model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # of no tensor
    catalog(workplace)
    experiment(workplace)
    return workplace


def catalog(place, template: dict | None = None, **task) -> None:
    entry = {"title": "T", "template": "number", "answer": {"official": "last-number"}, "items": {"ladder": "items"}}
    if template is not None:
        Path("template.yaml").write_text(yaml.safe_dump(template))
        entry |= {"template": "template.yaml", "answer": {}}
    place.catalog(
        models={"words": {"title": "Words", "source": {"kind": "folder", "path": "model"}}},
        data={"own": {"path": "own.jsonl"}, "items": {"path": "items.jsonl"}},
        tasks={"own": entry | task},
        suites={"own": {"title": "Own", "tasks": ["own"]}},
    )


def experiment(place, *edits, **overrides) -> None:
    values = {"train_prompt": "plain", "score_prompt": "plain", "max_length": 20, "max_new_tokens": 8, **overrides}
    place.experiment(
        ([*TABLE, "train"], "own"),
        ([*TABLE, "suite"], "own"),
        ([*TABLE, "overrides"], values),
        ([*TABLE, "grids"], [{"models": ["words"], "methods": ["lora"], "ranks": [4]}]),
        *edits,
    )


def problems(place) -> list[str]:
    before = place.files()
    status, out, err = place.run("validate", "small")
    assert (status, out) == (2, ""), (status, out, err)
    assert place.files() == before
    lines = err.splitlines()
    assert all(line.startswith("sbora-bench: ") for line in lines), err
    return [line.removeprefix("sbora-bench: ") for line in lines]


def test_what_works_passes(place):
    status, out, err = place.run("validate", "small")
    assert (status, err) == (0, ""), err


def test_an_empty_training_set_and_empty_items(place):
    for name in ("own.jsonl", "items.jsonl"):
        Path(name).write_text("\n \n")
    assert problems(place) == [
        "experiments/small.yaml: tables.sums.train: data own has no row; give a training set with rows",
        "experiments/small.yaml: tables.sums: task own: data items has no item; give one with items",
    ]


def test_items_that_all_are_in_the_training_set_are_refused_where_those_are_dropped(place):
    Path("own.jsonl").write_text(Path("items.jsonl").read_text())
    experiment(place, ([*TABLE, "contaminated"], "drop"))
    (problem,) = problems(place)
    assert "task own: data items: the question of every item is in the training set" in problem
    experiment(place, ([*TABLE, "contaminated"], "keep"))
    test_what_works_passes(place)


def test_labels_that_no_question_names(place):
    """The likeliest label is the answer of a choice, so each question must name them."""
    path = Path("experiments/catalog/own.yaml")
    path.write_text(path.read_text().replace("template: number", "template: choice"))
    experiment(place, ([*TABLE, "answer_by"], "likelihood"))
    (line,) = problems(place)
    assert "tables.sums: task own: data items: row 1: its question doesn't name the labels" in line, line


LABELLED = {"instruction": "Is it? Answer format: yes/no", "answer": "yes"}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"output": " "}, "item 1: output: found ' ', allowed a text, whose likelihood is taken"),
        (
            {"output": "It is.", **LABELLED},
            "item 1: output: found 'It is.', allowed a text that names the item's answer",
        ),
    ],
)
def test_an_output_whose_likelihood_cannot_be_taken_is_refused_by_item(place, item, reason):
    write("items.jsonl", [ROWS[0], ROWS[1] | item])
    experiment(place, ([*TABLE, "metric"], "gold_loss"))
    (line,) = problems(place)
    assert f"tables.sums: task own: data items: {reason}" in line, line


def test_a_subject_in_some_items_alone_is_refused_by_item(place):
    write("items.jsonl", [ROWS[0] | {"subject": "sums"}, *ROWS[1:]])
    (line,) = problems(place)
    assert "tables.sums: task own: data items: item 1: no subject, and others have one" in line, line


@pytest.mark.parametrize("column", ["gold", "labels", "chat_arguments"])
def test_a_column_named_as_one_that_the_harness_writes_is_refused_where_a_template_would_find_the_other(place, column):
    write("items.jsonl", [row | {column: ["a"]} for row in ROWS])
    experiment(place, ([*TABLE, "metric"], "gold_loss"))
    assert place.run("validate", "small")[0] == 0  # a template of the harness's doesn't read it
    catalog(place, TEMPLATE)
    (line,) = problems(place)
    assert f"task own: item 0: column {column}: the harness writes its own of that name" in line and "rename it" in line


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_a_training_row_without_an_answer_is_refused_by_line(place, nothing):
    write("own.jsonl", [*ROWS[:3], ROWS[3] | {"output": nothing}, *ROWS[4:]])
    (line,) = problems(place)
    assert f"tables.sums.train: own.jsonl: line 4: output: found {nothing!r}, allowed a text" in line, line
    experiment(place, loss_on="all")  # the text may stand in the instruction
    assert place.run("validate", "small")[0] == 0


@pytest.mark.parametrize("values", [(1, "a"), (2**70, 1), ({"a": 1}, [1]), ("a", {"b": 2}), ([1], ["a"])])
def test_a_column_that_no_table_holds_is_refused_by_item_where_a_template_reads_it(place, values):
    write("items.jsonl", [row | {"x": values[i == 3]} for i, row in enumerate(ROWS)])
    assert place.run("validate", "small")[0] == 0
    catalog(place, TEMPLATE)
    assert place.run("validate", "small")[0] == 0
    catalog(place, TEMPLATE | {"doc_to_text": "{{prompt}} {{x}}"})
    (line,) = problems(place)
    item = 0 if values[0] == 2**70 else 3
    assert f"task own: data items: item {item}: column x: found {values[item == 3]!r}, which" in line, line


def test_a_row_that_cannot_be_read_is_named_by_its_line(place):
    Path("own.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"text": 1}\n')
    (line,) = problems(place)
    assert line.startswith("experiments/small.yaml: tables.sums.train: own.jsonl: line 2: found text; allowed are"), (
        line
    )


def test_a_file_that_is_not_there(place):
    Path("own.jsonl").unlink()
    (line,) = problems(place)
    assert "data own: experiments/catalog/own.jsonl, own.jsonl: no such file" in line


def test_more_validation_rows_than_rows(place):
    experiment(place, validation_rows=9, validation_every=1)
    (line,) = problems(place)
    assert "tables.sums.protocol: validation_rows: found 9, and data own has 9 rows" in line
    experiment(place, validation_rows=8, validation_every=1)
    assert place.run("validate", "small")[0] == 0


def test_rows_that_all_are_too_long_for_max_length(place):
    write("own.jsonl", [row | {"instruction": "What " * 20} for row in ROWS])
    (line,) = problems(place)
    assert "no row of data own fits: the shortest prompt has 20 tokens of words and max_length is 20" in line
    write("own.jsonl", [row | {"instruction": "What " * 20} for row in ROWS] + ROWS[:1])
    assert place.run("validate", "small")[0] == 0
    write("own.jsonl", [row | {"instruction": "What " * 20} for row in ROWS])
    experiment(place, loss_on="all")
    assert place.run("validate", "small")[0] == 0
    write("own.jsonl", [row | {"instruction": "What " * 40} for row in ROWS])
    experiment(place, max_length=32)
    (line,) = problems(place)
    assert "has 40 tokens of words and max_length is 32; shorten them (the model has 32 positions)" in line


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_rows_that_a_protocol_refuses_or_leaves_out_as_too_long(place, loss_on):
    """Rows have 6 + 3 words and an end; with loss on all the text is one, in which two words touch, without it."""
    tokens = 10 if loss_on == "answer" else 8
    write("own.jsonl", [*ROWS, ROWS[0] | {"output": "It is " * 9}])
    experiment(place, loss_on=loss_on, too_long="fail", max_length=20)
    (line,) = problems(place)
    assert f"train: a row of data own is too long, and too_long is fail: it has {tokens + 15} tokens of words" in line
    assert "max_length is 20; raise max_length under `overrides`, or set too_long: drop or cut" in line
    experiment(place, loss_on=loss_on, too_long="drop", max_length=tokens)
    assert place.run("validate", "small")[0] == 0
    write("own.jsonl", ROWS)
    experiment(place, loss_on=loss_on, too_long="fail", max_length=tokens)
    assert place.run("validate", "small")[0] == 0
    if tokens > 8:  # the least max_length
        experiment(place, loss_on=loss_on, too_long="drop", max_length=tokens - 1)
        (line,) = problems(place)
        assert f"no row of data own fits, and too_long is drop: the shortest has {tokens} tokens of words" in line


def test_prompts_beyond_the_model_s_positions(place):
    write("items.jsonl", [*ROWS, ROWS[0] | {"instruction": "What " * 25}])
    (line,) = problems(place)
    assert "prompts of 25 tokens and up to 8 new ones follow, and model words has 32 positions" in line
    experiment(place, score_max_length=32)
    assert place.run("validate", "small")[0] == 0


def test_room_for_an_answer_that_leaves_none_for_a_prompt(place):
    experiment(place, max_new_tokens=30)
    (line,) = problems(place)
    assert "32 positions; lower max_new_tokens under `overrides`" in line and "score_max_length" not in line


def test_a_misspelt_field_of_columns_is_named_as_it_is_written(place):
    place.catalog(data={"own": {"path": "own.jsonl", "columns": {"instrution": "output"}}})
    line = place.refused("validate", "small")
    assert "own.yaml: data.own.columns.instrution: unknown key 'instrution', did you mean 'instruction'" in line


def test_training_rows_beyond_the_model_s_positions(place):
    write("own.jsonl", [*ROWS, ROWS[0] | {"output": "What " * 30}])
    experiment(place, max_length=64)
    (line,) = problems(place)
    assert "rows of 35 tokens and model words has 32 positions; set max_length: 32" in line


def test_positions_of_a_model_of_several_parts_are_its_text_model_s(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"n_positions": 32}}))
    assert token_counts.Tokenizer(tmp_path).positions == 32


NO_MODEL = (
    "experiments/small.yaml: tables.sums.grids: model words: model: no config.json here; expected a model's folder with"
    " safetensors and tokenizer"
)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda: Path("model/model.safetensors").unlink(), "model: model.safetensors is missing"),
        (lambda: Path("model/tokenizer.json").unlink(), "model: neither tokenizer.json nor tokenizer.model"),
        (lambda: Path("model/tokenizer.json").write_text("{"), "model: its tokenizer can't be read (EOF"),
    ],
)
def test_a_folder_that_is_no_model(place, spoil, expected):
    spoil()
    (line,) = problems(place)
    assert line.startswith("experiments/small.yaml: tables.sums.grids: model words: ") and expected in line, line


def test_rows_held_out_to_pick_a_rate_leave_some_to_train_on(place):
    experiment(place, ([*TABLE, "learning_rates"], [3e-3, 5e-3]), ([*TABLE, "validation_items"], 9), learning_rate=3e-3)
    (line,) = problems(place)
    assert "tables.sums.validation_items: found 9, and data own has 9 rows" in line


def test_a_folder_by_its_variable(place, monkeypatch):
    Path("model").rename("elsewhere")
    write("own.jsonl", [row | {"instruction": "What " * 20} for row in ROWS])
    assert problems(place) == [NO_MODEL]  # and no tokenizer is at hand
    monkeypatch.setenv("SBORA_MODEL_WORDS", "elsewhere")
    assert len(problems(place)) == 1


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE | {"metric_list": [{"metric": "no-such-metric"}]}, "unknown metric"),
        (
            TEMPLATE | {"metric_list": [{"metric": "f1", "aggregation": "f1"}]},
            "f1 gives no number for an item (found list): it is counted over all items at once",
        ),
        (TEMPLATE | {"doc_to_text": "{{nothing}}"}, "'nothing' is undefined"),
        (TEMPLATE | {"doc_to_target": "{{nothing}}"}, "'nothing' is undefined"),
        (TEMPLATE | {"num_fewshot": 9}, "num_fewshot: found 9, and there are 9 items"),
        (TEMPLATE | {"dataset_path": "json"}, "dataset_path: not read here"),
        (TEMPLATE | {"output_type": "loglikelihood_rolling"}, "allowed generate_until, multiple_choice, loglikelihood"),
        (TEMPLATE | {"output_type": "generate"}, "output_type: found 'generate'"),
        (TEMPLATE | {"no_such_key": 1}, "no_such_key"),
        (
            TEMPLATE | {"filter_list": [{"name": "x", "filter": [{"function": "regex", "regex_pattern": "("}]}]},
            "lm-eval",
        ),
        (CHOICE | {"doc_to_target": 7}, "list index out of range"),
        (CHOICE | {"metric_list": [{"metric": "f1", "aggregation": "f1"}]}, "f1 gives no number for an item"),
        (CHOICE | {"doc_to_choice": "{{choices}}"}, "'choices' is undefined"),
    ],
)
def test_a_template_that_cannot_work(place, template, expected):
    catalog(place, template)
    (line,) = problems(place)
    assert line.startswith("experiments/small.yaml: tables.sums") and expected in line, line


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        TEMPLATE | {"num_fewshot": 8},
        CHOICE | {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "f1", "aggregation": "f1"}]},
        CHOICE | {"metric_list": [{"metric": "acc_mutual_info"}]},
        TEMPLATE | {"output_type": "loglikelihood", "metric_list": [{"metric": "acc"}]},
        TEMPLATE | {"metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}, {"metric": "chrf"}]},
    ],
)
def test_templates_that_work(place, template):
    catalog(place, template)
    status, out, err = place.run("validate", "small")
    assert (status, err) == (0, ""), err


def test_metrics_that_the_template_does_not_have(place):
    catalog(place, TEMPLATE, metrics={"exact_mach": {}})
    (line,) = problems(place)
    assert "tasks.own.metrics: unknown metric of the template 'exact_mach', did you mean 'exact_match'" in line
    catalog(place, metrics={"acc": {}})  # of a template of the harness
    assert "tasks.own.metrics: unknown metric of the template 'acc'; known: within_tolerance" in problems(place)[0]


def test_an_answer_s_expression_is_compiled_and_letters_are_letters(place):
    catalog(place, template=None, answer={"official": "(yes"})
    own = yaml.safe_load(Path("experiments/catalog/own.yaml").read_text())
    own["tasks"]["own"]["template"] = "choice"
    place.catalog(**own)
    (line,) = problems(place)
    assert "task own: answer: '(yes' is no regular expression" in line
    own["tasks"]["own"] |= {"template": "letter", "answer": {}}
    place.catalog(**own)
    (line,) = problems(place)
    assert "task own: item 0: answer: found '1', allowed A, B, C or D" in line


@pytest.mark.parametrize(
    ("template", "rule", "answer", "expected"),
    [
        ("number", "last-number", "three", "answer: found 'three', allowed a number"),
        ("number", "last-number", "", "answer: found '', allowed a number"),
        ("number", "last-number", "1/0", "allowed a number"),
        ("number", "last-number", None, "found 'It is 3', allowed a number as 12, -3.5 or 3/4, alone; give it in a"),
        ("choice", "true|false", "maybe", "found 'maybe', allowed what `answer: true|false` reads"),
        ("choice", "true|false", "true.", "found 'true.', allowed what"),
        ("choice", "true|false", "", "found '', allowed a text: a response of which nothing is read would be right"),
        ("option", "first-capital", "F", "found 'F', allowed what the task's extraction rule"),
    ],
)
def test_an_answer_that_no_response_can_be_right_for_is_refused_by_item(place, template, rule, answer, expected):
    good = {"number": "3/4", "choice": "true", "option": "B"}[template]
    rows = [row | {"answer": good} for row in ROWS]
    catalog(place, answer={"official": rule})
    path = Path("experiments/catalog/own.yaml")
    path.write_text(path.read_text().replace("template: number", f"template: {template}"))
    write("items.jsonl", rows)
    assert place.run("validate", "small")[0] == 0
    rows[2] = {key: value for key, value in ROWS[2].items() if key != "answer"}
    write("items.jsonl", [*rows[:2], rows[2] | ({} if answer is None else {"answer": answer}), *rows[3:]])
    (line,) = problems(place)
    assert "task own: data items: item 2: answer: " in line and expected in line, line


def test_an_item_that_asks_nothing_is_refused(place):
    catalog(place)
    write("items.jsonl", [*ROWS[:2], ROWS[2] | {"instruction": " ", "input": ""}, *ROWS[3:]])
    (line,) = problems(place)
    assert "task own: data items: item 2: instruction and input are empty; give the item a question" in line


def test_an_expression_that_asks_for_words_around_the_answer_is_taken_as_it_is(place):
    catalog(place, answer={"official": "answer: (yes|no)"})
    path = Path("experiments/catalog/own.yaml")
    path.write_text(path.read_text().replace("template: number", "template: choice"))
    write("items.jsonl", [row | {"answer": "yes"} for row in ROWS])
    assert place.run("validate", "small")[0] == 0


def test_nothing_heavy_is_imported_for_the_shipped_experiments():
    code = (
        "import sys; from sbora_bench.inputs.check import checked_plan; checked_plan('tiny');"
        "print({'torch', 'transformers', 'lm_eval', 'datasets', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done


def test_an_experiment_may_lie_anywhere(place, tmp_path_factory, monkeypatch):
    """Its catalog is the one beside it, else the repository's; elsewhere the line says where to go."""
    text = Path("experiments/small.yaml").read_text()
    for name in ("mine.yaml", "far/mine.yaml", str(tmp_path_factory.mktemp("far") / "mine.yaml")):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        assert place.run("validate", name)[:2] == (0, f"{name}: good, 3 runs\n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert "run this in the root of the repository" in place.run("validate", "small")[2]
    (Path.cwd() / "mine.yaml").write_text(text)
    assert "experiments/catalog: no catalog here; run this in the root" in place.run("validate", "mine.yaml")[2]
