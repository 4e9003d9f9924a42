"""Columns of a source's own that are named as the harness names some of its own are only columns."""

from sbora_bench.files import read_jsonl, sha256, write_jsonl
from sbora_bench.results.records import ContaminationRecord, ScoresRecord, TaskData, read_record, write_record
from sbora_bench.score.evaluate import evaluate
from tests.factories import toy_runs

LEAK = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "the answer is 1"}]


def test_own_messages_seed_and_gold_change_neither_what_is_asked_nor_how_many_nor_what_is_measured(
    tmp_path, monkeypatch
):
    chats, plain = toy_runs.tokenizer(), toy_runs.tokenizer
    chats.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    monkeypatch.setattr(toy_runs, "tokenizer", lambda: chats)
    plan = toy_runs.write_experiment(tmp_path, tasks={"count": toy_runs.TASKS["count"]}, seeds=(0,))
    monkeypatch.setattr(toy_runs, "tokenizer", plain)
    data = tmp_path / "results" / "data" / "toy"
    rows = [
        row | {"messages": LEAK, "seed": 99, "labels": ["a"], "x": row["id"][-1:] * 2}
        for row in read_jsonl(data / "count.jsonl")
    ]
    rows[0]["gold"], rows[1]["x"] = "x", 2**70  # and what no table of one type a column holds
    write_jsonl(data / "count.jsonl", rows)
    record = read_record(data / "contamination.json", ContaminationRecord)
    tasks = {"count": TaskData(sha256=sha256(data / "count.jsonl"), n=10)}
    write_record(data / "contamination.json", record.model_copy(update={"tasks": tasks}))
    run = plan.runs[-1]
    toy_runs.write_adapter(plan, tmp_path, run)
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    folder = tmp_path / "results" / "runs" / run.name
    score = read_record(folder / "scores.json", ScoresRecord).tasks["count"]
    assert (score.status, score.n) == ("ok", 10) and "gold_loss" not in score.extra
    samples = read_jsonl(folder / "samples" / "count.jsonl")
    assert [sample["prompt"] for sample in samples] == [row["prompt"] for row in rows]
