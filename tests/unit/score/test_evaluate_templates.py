"""From the catalog to lm-eval task configurations."""

import pytest
import yaml

from sbora_bench.errors import UserError
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.data_entries import TaskEntry
from tests.factories import shipped, toy_runs


def entry(**fields) -> TaskEntry:
    return TaskEntry(**({"title": "T", "template": "choice", "answer": {"official": "yes|no"}, "items": {}} | fields))


def test_the_suites_are_the_paper_s():
    catalog = shipped.catalog()
    titles = {name: [catalog.tasks[task].title for task in suite.tasks] for name, suite in catalog.suites.items()}
    assert titles["commonsense"] == ["BoolQ", "PIQA", "SIQA", "HellaSwag", "WinoGrande", "ARC-e", "ARC-c", "OBQA"]
    assert titles["arithmetic"] == ["MultiArith", "GSM8K", "AddSub", "AQuA", "SingleEq", "SVAMP"]
    assert catalog.suites["mmlu"].tasks == ["mmlu"]


@pytest.mark.parametrize("extraction", ["official", "strict"])
@pytest.mark.parametrize("task", sorted(shipped.catalog().tasks))
def test_every_task_of_the_catalog_is_filled_in(task, extraction):
    catalog = shipped.catalog()
    config = task_config(task, catalog.tasks[task], toy_runs.protocol(extraction=extraction))
    assert "$" not in yaml.safe_dump({key: value for key, value in config.items() if key != "filter_list"})
    assert config["task"] == task
    if config["output_type"] == "generate_until":
        (pipeline,) = config["filter_list"]
        assert pipeline["name"] == extraction
        assert "$" not in str([value for step in pipeline["filter"] for value in step.values() if value != {}][:1])
    for items in catalog.tasks[task].items.values():
        assert items in catalog.data


def test_official_labels_are_the_authors_expressions():
    tasks = shipped.catalog().tasks
    assert tasks["boolq"].answer["official"] == "true|false"
    assert tasks["piqa"].answer["official"] == "solution1|solution2"
    assert tasks["hellaswag"].answer["official"] == "ending1|ending2|ending3|ending4"
    assert tasks["winogrande"].answer["official"] == "option1|option2"
    for task in ("social_i_qa", "ARC-Easy", "ARC-Challenge", "openbookqa"):
        assert tasks[task].answer["official"] == "answer1|answer2|answer3|answer4|answer5"


def test_decoding_comes_from_the_protocol_and_the_task():
    config = task_config("t", entry(), toy_runs.protocol(num_beams=4, max_new_tokens=32))
    assert config["generation_kwargs"] == {
        "do_sample": False,
        "until": [],
        "skip_special_tokens": True,
        "num_beams": 4,
        "max_gen_toks": 32,
    }
    for extraction, skip in (("official", False), ("strict", True)):
        number = entry(template="number", answer={extraction: "last-number"})
        config = task_config("t", number, toy_runs.protocol(extraction=extraction))
        assert config["generation_kwargs"]["skip_special_tokens"] is skip
    longer = task_config("t", entry(max_new_tokens=256), toy_runs.protocol(max_new_tokens=32))
    assert longer["generation_kwargs"]["max_gen_toks"] == 256


def test_the_letter_s_space_comes_from_the_protocol():
    letters = entry(template="letter", answer={})
    assert task_config("t", letters, toy_runs.protocol())["target_delimiter"] == ""
    assert task_config("t", letters, toy_runs.protocol(letters="spaced"))["target_delimiter"] == " "


def test_a_template_of_one_s_own_is_named_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("output_type: generate_until\ndoc_to_text: prompt\nmetadata: {version: 7}\n")
    absolute = task_config("t", entry(template=str(tmp_path / "mine.yaml")), toy_runs.protocol())
    config = task_config("t", entry(template="mine.yaml"), toy_runs.protocol())
    assert config["metadata"] == {"version": 7} and config == absolute
    assert config["generation_kwargs"]["max_gen_toks"] == 6


@pytest.mark.parametrize(
    ("fields", "extraction", "words"),
    [
        ({"template": "chioce"}, "official", ["tasks.t.template", "'chioce'", "'choice'", ".yaml"]),
        ({"template": "none.yaml"}, "official", ["experiments/catalog/none.yaml, none.yaml: no such file"]),
        ({"template": "number", "answer": {"official": "last-numbr"}}, "official", ["tasks.t.answer", "'last-number'"]),
        ({}, "strict", ["tasks.t.answer", "'strict'", "official"]),
        ({"template": "lists.yaml"}, "strict", ["lists.yaml", "filter_list", "'strict'", "official"]),
        ({"template": "dollar.yaml"}, "official", ["dollar.yaml", "'$anser'", "'$answer'"]),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, fields, extraction, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists.yaml").write_text("filter_list: [{name: official, filter: []}]\n")
    (tmp_path / "dollar.yaml").write_text("doc_to_text: $anser\n")
    with pytest.raises(UserError) as raised:
        task_config("t", entry(**fields), toy_runs.protocol(extraction=extraction))
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
