"""MMLU as it is scored: QLoRA's five-shot prompts and bare letters under `official`, lm-eval's task under `clean`."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import git_blob_id
from sbora_bench.hub import Unreachable
from sbora_bench.inputs.data.lm_eval_items import lm_eval_rows
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.inputs.models.untrained import TOKENIZERS
from sbora_bench.inputs.prepare import read_reachable
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.data_entries import FileData, HubData
from sbora_bench.plan.load import load_plan
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.tasks import score_task
from tests.factories import shipped, toy_runs
from tests.factories.scorers import Canned
from tests.factories.shipped import ROOT

FIVE_SHOTS = re.compile(
    r"The following are multiple choice questions \(with answers\) about {1,2}[a-z ]+\.\n\n"
    r"(.+\nA\. .+\nB\. .+\nC\. .+\nD\. .+\nAnswer: [A-D]\n\n){5}"
    r".+\nA\. .+\nB\. .+\nC\. .+\nD\. .+\nAnswer:"
)


def question(subject: str, number: int, answer: str = "") -> str:
    return f"Which {subject} is {number}?\nA. {number}\nB. 0\nC. 1\nD. 2\nAnswer:{answer}"


def five_shot(number: int) -> str:
    """As in QLoRA's file (protocol section 4): two spaces before the subject."""
    header = "The following are multiple choice questions (with answers) about  birds.\n\n"
    return header + "".join(question("bird", shot, " A\n\n") for shot in range(5)) + question("bird", number)


def protocol(name: str):
    return shipped.protocol(name, "mmlu")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_official_prompt_is_bos_and_the_file_s_own_text_and_letters_are_bare(kind, tmp_path):
    rows = [{"subject": "birds", "input": five_shot(number), "output": "A"} for number in (7, 8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "mmlu.json").write_text(text)
    entry = FileData(kind="file", path="mmlu.json", url="http://127.0.0.1:9/x", blob=git_blob_id(text.encode()), rows=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBORA_DATA_ROOT", str(tmp_path))
        examples = read_examples("mmlu", entry)
    assert FIVE_SHOTS.fullmatch(examples[0]["input"])
    official = protocol("official")
    config = task_config("mmlu", shipped.catalog().tasks["mmlu"], official)
    items = [
        {"id": i, "prompt": e["input"], "answer": e["answer"], "subject": e["subject"], "contaminated": False}
        for i, e in enumerate(examples)
    ]
    model = Canned({items[0]["prompt"]: "A", items[1]["prompt"]: "B"})
    task_score, _ = score_task(model, config, items, official.macro_average)
    assert model.requests == [(item["prompt"], letter) for item in items for letter in "ABCD"]
    assert (task_score.value, task_score.metric, task_score.mean_over) == (0.5, "acc", "subjects")

    tokenizer = TOKENIZERS[kind]()
    tokenizer.pad_token_id = 0
    scorer = Scorer(toy_runs.model(), tokenizer, 1, official.score_max_length)
    text_ids = tokenizer.backend_tokenizer.encode(five_shot(7), add_special_tokens=False).ids
    assert scorer.context_ids(five_shot(7)) == [tokenizer.bos_token_id, *text_ids]
    bare = [tokenizer.convert_ids_to_tokens(scorer.letter_id(letter)) for letter in "ABCD"]
    spaced = [tokenizer.convert_ids_to_tokens(scorer.letter_id(f" {letter}")) for letter in "ABCD"]
    if kind == "llama":
        assert bare == spaced == ["▁A", "▁B", "▁C", "▁D"]
    else:
        assert (bare, spaced) == (["A", "B", "C", "D"], ["ĠA", "ĠB", "ĠC", "ĠD"])


def test_a_prompt_over_2048_tokens_loses_its_end(monkeypatch):
    """Authors' code cuts on the right, so the question goes and the shots stay."""
    assert protocol("official").score_max_length == 2048
    scorer = Scorer(toy_runs.model(), toy_runs.tokenizer(), 1, 2048)
    requests = []
    monkeypatch.setattr(
        scorer, "_loglikelihood_tokens", lambda rows, *_: requests.extend(rows) or [(0.0, False)] * len(rows)
    )
    scorer.loglikelihood([SimpleNamespace(args=("cat " * 3000 + "dog", "A"))])
    ((_, context, letter),) = requests
    cat = scorer.tokenizer.convert_tokens_to_ids("cat")
    assert context == [1] + [cat] * 2047 and len(letter) == 1


# --- lm-eval's own task ---------------------------------------------------------------------------------------------


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A folder like cais/mmlu with one subject."""
    folder = tmp_path / "cais" / "mmlu"
    (folder / "anatomy").mkdir(parents=True)
    for split, count in (("test", 6), ("dev", 5)):
        rows = [
            {
                "question": f" Which bone is {split} {i}? ",
                "subject": "anatomy",
                "choices": list("wxyz"),
                "answer": i % 4,
            }
            for i in range(count)
        ]
        (folder / "anatomy" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - split: {split}\n    path: anatomy/{split}.jsonl\n" for split in ("test", "dev"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: anatomy\n  data_files:\n{files}---\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path))
    return folder


def hub_entry(**changes) -> HubData:
    fields = {"id": "cais/mmlu", "revision": "r", "lm_eval_task": "mmlu_anatomy", "shots": 5, "rows": 6}
    return HubData(kind="hub", **(fields | changes))


def test_clean_asks_what_lm_eval_asks_and_scores_as_it_does(stub, monkeypatch):
    """Requests, right answers and accuracy of our items are those of lm-eval's own run of its own task."""
    from lm_eval import tasks
    from lm_eval.evaluator import evaluate

    examples = read_examples("mmlu-lm-eval", hub_entry())
    assert all(FIVE_SHOTS.fullmatch(example["input"]) for example in examples)
    assert [example["answer"] for example in examples] == list("ABCDAB")
    says = {example["input"]: letter for example, letter in zip(examples, "ABCCCC", strict=True)}

    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *rest, **more: load(str(stub), *rest, **more))
    own = Path(tasks.__file__).parent / "mmlu" / "default"  # to index all of lm-eval's tasks takes seconds
    manager = tasks.TaskManager(include_path=str(own), include_defaults=False)
    (theirs,) = manager.load("mmlu_anatomy")["tasks"].values()
    theirs.set_config("num_fewshot", 5)
    reference = Canned(says)
    run = evaluate(reference, {"tasks": {"mmlu_anatomy": theirs}, "groups": {}})

    clean = protocol("clean")
    config = task_config("mmlu", shipped.catalog().tasks["mmlu"], clean)
    items = [
        {"id": i, "prompt": e["input"], "answer": e["answer"], "subject": e["subject"], "contaminated": False}
        for i, e in enumerate(examples)
    ]
    ours = Canned(says)
    task_score, _ = score_task(ours, config, items, clean.macro_average)
    assert ours.requests == reference.requests and ours.requests[0][1] == " A"
    assert task_score.value == run["results"]["mmlu_anatomy"]["acc,none"] == pytest.approx(3 / 6)
    assert (task_score.metric, task_score.extra) == ("acc", {"micro": task_score.value, "macro": task_score.value})


def test_the_whole_group_has_57_subjects(monkeypatch):
    """Without their data: each subject's task is built over two made-up rows."""
    loaded = []

    def load(path, name=None, **_):
        loaded.append((path, name))
        row = {"question": f"{name}?", "subject": name, "choices": list("wxyz"), "answer": 1}
        return datasets.DatasetDict({split: datasets.Dataset.from_list([row] * 5) for split in ("test", "dev")})

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = lm_eval_rows("mmlu-lm-eval", "mmlu", 5, ROOT / "nowhere")
    assert len({name for _, name in loaded}) == len({row["subject"] for row in rows}) == 57
    assert {path for path, _ in loaded} == {str(ROOT / "nowhere")}
    assert {row["output"] for row in rows} == {"B"} and len(rows) == 57 * 5


def test_paper_clean_takes_it_and_another_file_stands_in(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    plan = load_plan("paper-clean")
    assert plan.items("mmlu-alpaca") == plan.items("mmlu-flanv2") == {"mmlu": "mmlu-lm-eval"}
    entry = plan.catalog.data["mmlu-lm-eval"]
    assert (entry.lm_eval_task, entry.shots, entry.rows, entry.otherwise) == ("mmlu", 5, 14_042, "mmlu-test")
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unreachable, match=r"cais/mmlu/tree/c30699e8.*; nor data mmlu-test: .*five_shot_mmlu_test.json"):
        read_reachable(plan.catalog, "mmlu-lm-eval")
    text = json.dumps({"subject": "birds", "input": five_shot(7), "output": "A"})
    (tmp_path / "other.json").write_text(text)
    other = FileData(kind="file", path="other.json", url="http://127.0.0.1:9/x", blob=git_blob_id(text.encode()))
    catalog = plan.catalog.model_copy(update={"data": plan.catalog.data | {"mmlu-test": other}})
    assert read_reachable(catalog, "mmlu-lm-eval") == ("mmlu-test", read_examples("mmlu-test", other))


def test_an_unknown_task_of_lm_eval_is_told(stub):
    with pytest.raises(UserError, match="data x: task: found 'mmlu_antomy', allowed are the names in .*mmlu/default"):
        lm_eval_rows("x", "mmlu_antomy", 5, stub)
