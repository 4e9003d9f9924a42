"""`sbora-bench init`: a newcomer's own comparison, that validates; or a line, and nothing written."""

import json
import re
from pathlib import Path

import pytest
import yaml

from sbora_bench.cli.init import texts_of
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.plan.catalog import load_catalog
from tests.factories.toy_tasks import write_tasks
from tests.factories.workplace import workplace  # noqa: F401


def rows(folder, name, *lines):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return str(path)


def test_ones_own_data_and_questions_make_an_experiment_that_validates(workplace):  # noqa: F811
    train = rows(
        workplace.folder,
        "mine.jsonl",
        *({"question": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(9)),
    )
    questions = rows(
        workplace.folder, "test.jsonl", *({"question": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(4))
    )
    status, out, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions)
    assert status == 0 and "good, 10 runs" in out, err
    assert workplace.run("validate", "experiments/mine.yaml")[0] == 0
    status, out, _ = workplace.run("plan", "mine")
    assert "mine-ladder-xs-sbora-fa-r8-s{0,1,2}" in out
    assert "is there already" in workplace.refused(
        "init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions
    )


@pytest.mark.parametrize("name", ["no", "null", "12", "010", "2024-01-01"])
def test_a_name_that_yaml_would_read_as_another_kind_of_value(workplace, name):  # noqa: F811
    train = rows(workplace.folder, "mine.jsonl", {"question": "What is 2 + 1?", "response": "It is 3."})
    questions = rows(workplace.folder, "test.jsonl", {"question": "What is 2 + 2?", "answer": "4"})
    status, out, err = workplace.run("init", name, "--model", "ladder-xs", "--train", train, "--tasks", questions)
    assert status == 0 and f"experiments/{name}.yaml" in out, err


@pytest.mark.parametrize(
    ("labels", "response", "answer"),
    [
        (["\N{THUMBS UP SIGN}", "\N{THUMBS DOWN SIGN}"], "It is \N{THUMBS DOWN SIGN}.", "\N{THUMBS DOWN SIGN}"),
        (["no", "yes"], "I know: yes, for nothing", "yes"),
        (["不对", "是"], "答案是", "是"),
        (["c++", "(a)"], "in c++, then", "c++"),
    ],
)
def test_labels_are_read_as_whole_words_whatever_their_signs(workplace, labels, response, answer):  # noqa: F811
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "response": "y"})
    asked = [{"question": f"Is it {label}?", "answer": label} for label in labels]
    questions = rows(workplace.folder, "test.jsonl", *asked)
    status, _, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions)
    assert status == 0, err
    written = yaml.safe_load((workplace.folder / "experiments/catalog/mine.yaml").read_text())
    assert re.findall(written["tasks"]["mine-task"]["answer"]["strict"], response)[0] == answer


def test_questions_in_a_folder_that_datasets_saved(workplace):  # noqa: F811
    import datasets

    datasets.Dataset.from_list([{"question": "What is 2 + 2?", "answer": 4}]).save_to_disk("saved")
    train = rows(workplace.folder, "mine.jsonl", {"question": "What is 2 + 1?", "response": "It is 3."})
    status, _, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", "saved")
    assert status == 0, err


def test_a_downloaded_set_with_splits_trains_on_train_and_asks_test(workplace):  # noqa: F811
    folder = workplace.folder / "set"
    folder.mkdir()
    rows(folder, "train-00000-of-00001.jsonl", {"question": "What is 2 + 1?", "answer": "It is 3."})
    rows(folder, "test-00000-of-00001.jsonl", {"question": "What is 2 + 2?", "answer": "4"})
    status, _, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", "set", "--tasks", "set")
    assert status == 0, err
    written = yaml.safe_load((workplace.folder / "experiments/catalog/mine.yaml").read_text())
    assert [entry["split"] for entry in written["data"].values()] == ["train", "test"]


def test_what_is_wrong_with_the_data_leaves_the_files_to_be_corrected(workplace):  # noqa: F811
    train = rows(
        workplace.folder, "mine.jsonl", {"question": "What is 2 + 1?", "response": "It is 3."}, {"question": 4}
    )
    questions = rows(workplace.folder, "test.jsonl", {"question": "What is 2 + 2?", "answer": "4"})
    command = ("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions)
    status, out, err = workplace.run(*command)
    assert (status, out) == (2, "") and "mine.jsonl: line 2: no column 'response'" in err
    assert "experiments/mine.yaml and experiments/catalog/mine.yaml are written: correct what is said above" in err
    rows(workplace.folder, "mine.jsonl", {"question": "What is 2 + 1?", "response": "It is 3."})
    assert workplace.run("validate", "mine")[0] == 0


def test_entries_that_would_stop_every_command_are_not_left(workplace):  # noqa: F811
    workplace.catalog(data={"mine-train": {"path": "x.jsonl"}})
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "answer": "y"})
    message = workplace.refused("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", "arithmetic")
    assert "data.mine-train: stands in" in message
    assert not list(workplace.folder.glob("experiments/**/mine.yaml"))


def test_a_suite_of_the_catalog_serves_as_tasks(workplace):  # noqa: F811
    train = rows(workplace.folder, "mine.jsonl", *({"instruction": f"Say {n}", "output": str(n)} for n in range(9)))
    status, out, err = workplace.run("init", "sums", "--model", "ladder-xs", "--train", train, "--tasks", "corpus")
    assert status == 0 and "items: ladder" in (workplace.folder / "experiments/sums.yaml").read_text(), err


def test_a_suite_of_lm_evals_tasks_serves_too(workplace):  # noqa: F811
    """Whose items are its own, whatever the experiment's `items`."""
    write_tasks(workplace.folder / "experiments" / "catalog" / "own")
    task = {"lm_eval": "toy_sums", "include_path": "own"}
    workplace.catalog(suites={"sums": {"title": "Sums", "tasks": [task]}})
    train = rows(workplace.folder, "mine.jsonl", *({"instruction": f"Say {n}", "output": str(n)} for n in range(9)))
    status, out, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", "sums")
    assert status == 0 and "good, 10 runs" in out, err


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        ({"text": "x"}, {}, ["mine.jsonl: columns: found text", "allowed for instruction", "in Jinja"]),
        ({"question": "x", "answer": "y"}, {"--model": "no-such"}, ["--model", "'no-such'", "a hub id"]),
        ({"question": "x", "answer": "y"}, {"--tasks": "arithmetics"}, ["--tasks", "did you mean 'arithmetic'"]),
        ({"question": "x", "answer": "y"}, {"--train": "none.jsonl"}, ["none.jsonl", "no such file"]),
    ],
)
def test_what_is_no_good_is_a_line(workplace, row, options, words):  # noqa: F811
    given = {"--model": "ladder-xs", "--train": rows(workplace.folder, "mine.jsonl", row), "--tasks": "arithmetic"}
    arguments = [word for pair in (given | options).items() for word in pair]
    message = workplace.refused("init", "mine", *arguments)
    assert all(word in message for word in words), message


def test_columns_are_known_in_any_letters_and_in_any_row(workplace):  # noqa: F811
    train = workplace.folder / "mine.csv"
    train.write_text("Question,Response\nWhat is 1 + 1?,It is 2.\n")
    questions = rows(workplace.folder, "test.jsonl", {"answer": "3", "note": 1}, {"question": "1 + 2?", "answer": "3"})
    _, entries, _ = texts_of("mine", "ladder-xs", train, questions, load_catalog())
    assert "columns: {instruction: Question, output: Response}" in entries
    assert "columns: {instruction: question, output: answer, answer: answer}" in entries


@pytest.mark.parametrize(
    ("column", "text", "speaker", "speakers"),
    [("messages", "content", "role", ("user", "assistant")), ("conversations", "value", "from", ("human", "gpt"))],
)
def test_a_chat_of_a_question_and_its_answer_is_mapped(workplace, column, text, speaker, speakers):  # noqa: F811
    chat = [{speaker: who, text: said} for who, said in zip(speakers, ("1 + 1?", "It is 2."), strict=True)]
    train = rows(workplace.folder, "mine.jsonl", {column: chat}, {column: chat})
    questions = rows(workplace.folder, "test.jsonl", {"question": "1 + 2?", "answer": "3"})
    given = ("--model", "ladder-xs", "--tasks", questions, "--train")
    status, _, err = workplace.run("init", "mine", *given, train)
    assert status == 0 and "nothing reads" not in err, err
    load_catalog.cache_clear()
    (first, _) = read_examples("mine-train", load_catalog().data["mine-train"])
    assert (first["instruction"], first["output"]) == ("1 + 1?", "It is 2.")
    usual = rows(workplace.folder, "usual.jsonl", {"prompt": "x", "completion": "y", column: [*chat, *chat]})
    assert "output: completion" in texts_of("usual", "ladder-xs", Path(usual), questions, load_catalog()).entries
    longer = rows(workplace.folder, "more.jsonl", {column: chat}, {column: [*chat, *chat]})
    message = workplace.refused("init", "more", *given, longer)
    assert f"more.jsonl: line 2: {column}: found ['{speakers[0]}', " in message and "leave messages out" in message


@pytest.mark.parametrize("answer", [None, "", " ", True, {"text": ["2"]}])
def test_a_question_without_an_answer_is_refused_before_anything_is_written(workplace, answer):  # noqa: F811
    """It was taken for a label: `None`, or an empty one, which stands in every response."""
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "response": "y"})
    asked = [{"question": "1 + 1?", "answer": "2"}, {"question": "1 + 2?", "answer": answer}]
    questions = rows(workplace.folder, "test.jsonl", *asked)
    message = workplace.refused("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions)
    assert "test.jsonl: line 2: answer: found" in message and "allowed the right answer" in message
    assert not list(workplace.folder.rglob("mine.yaml"))


@pytest.mark.parametrize("answers", [("Yes", "yes", "no"), ("no", "yes", "no ")])
def test_labels_that_differ_in_letters_case_or_spaces_alone_are_refused(workplace, answers):  # noqa: F811
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "response": "y"})
    asked = [{"question": f"{answer}?", "answer": answer} for answer in answers]
    questions = rows(workplace.folder, "test.jsonl", *asked)
    message = workplace.refused("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions)
    assert "test.jsonl: answer: found" in message and "two labels; write them alike" in message


def test_columns_that_nothing_reads_are_said(workplace):  # noqa: F811
    """The choices of a question, which a model is not shown."""
    train = rows(workplace.folder, "mine.jsonl", {"id": 1, "instruction": "x", "input": "z", "output": "y"})
    questions = rows(workplace.folder, "test.jsonl", {"question": "Which?", "choices": ["a", "b"], "answer": 1})
    status, _, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", questions)
    assert status == 0 and "note: " in err and "test.jsonl: columns that nothing reads: choices;" in err
    assert "mine.jsonl: columns" not in err


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "llama", "max_position_embeddings": 4096}, 512),
        ({"model_type": "bloom"}, 512),
    ],
)
def test_rows_are_no_longer_than_the_model_s_positions(workplace, config, length):  # noqa: F811
    folder = workplace.folder / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "answer": "y"})
    texts = texts_of("mine", str(folder), Path(train), "corpus", load_catalog())
    assert f"    max_length: {length}\n" in texts[1]


def test_a_task_of_lm_eval_serves_by_its_name(workplace):  # noqa: F811
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "answer": "y"})
    experiment, entries, _ = texts_of("mine", "ladder-xs", Path(train), "arc_easy", load_catalog())
    assert "suite: mine-suite" in experiment and "    tasks: [{lm_eval: arc_easy}]\n" in entries
    message = workplace.refused("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", "arc_eazy")
    assert "did you mean 'arc-easy'" in message and "a task of lm-eval" in message


def test_data_of_lm_eval_that_cannot_be_had_are_said(workplace):  # noqa: F811
    """And no more: another machine may have them."""
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "response": "y"})
    status, out, err = workplace.run("init", "mine", "--model", "ladder-xs", "--train", train, "--tasks", "arc_easy")
    assert status == 0 and "good, 10 runs" in out
    assert "note: experiments/mine.yaml: tables.mine: task lm-eval-arc-easy: " in err
    assert "allenai/ai2_arc can't be fetched here (HF_HUB_OFFLINE is set)" in err and "there is no score" in err
    assert workplace.run("validate", "mine") == (0, "experiments/mine.yaml: good, 10 runs\n", err)


def test_a_length_beyond_the_model_s_positions_is_said(workplace):  # noqa: F811
    """And no more: rows may be shorter, which is looked at as well."""
    status, out, err = workplace.run(
        "validate", workplace.experiment((["tables", "sums", "overrides"], {"max_length": 9999}))
    )
    assert status == 0 and "good" in out
    assert "note: " in err and "max_length: found 9,999, and model ladder-xs has" in err and "set max_length:" in err
    assert workplace.run("validate", workplace.experiment())[2] == ""


def test_a_warm_up_that_takes_all_updates_is_said(workplace):  # noqa: F811
    warm = {"steps": 5, "epochs": None, "warmup_steps": 5, "schedule": "linear"}
    file = workplace.experiment((["tables", "sums", "overrides"], warm))
    status, _, err = workplace.run("validate", file)
    assert status == 0 and "warmup_steps: found 5 of 5 updates, so the learning rate is never reached" in err
    workplace.experiment((["tables", "sums", "overrides"], warm | {"warmup_steps": 4}))
    assert workplace.run("validate", file)[2] == ""


def test_a_folder_that_is_not_there_is_said_to_be_taken_for_a_model_of_the_hub(workplace, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    train = rows(workplace.folder, "mine.jsonl", {"question": "x", "answer": "y"})
    status, _, err = workplace.run("init", "mine", "--model", "models/none", "--train", train, "--tasks", "arithmetic")
    assert status == 0 and err == "note: --model models/none: no such folder or file here, so a model of the hub\n"
