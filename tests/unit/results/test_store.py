"""The store of finished runs: whole or not at all, checked before use, put in the place of what stands there."""

import pytest

from sbora_bench.files import read_json
from sbora_bench.results import store


def fill(folder, text="one"):
    with store.new_entry(folder) as made:
        (made / "adapter").mkdir()
        (made / "adapter" / "weights").write_text(text)
        (made / "train.json").write_text("{}")


def test_an_entry_is_keyed_by_run_stage_and_hash(tmp_path):
    folder = store.entry_folder(tmp_path, "t-m-lora-r4-s0", "finetune", "ab" * 32)
    assert folder == tmp_path / "store" / "t-m-lora-r4-s0" / "finetune-abababababababab"
    assert not store.is_whole(folder)
    fill(folder)
    assert store.is_whole(folder)
    assert set(read_json(folder / store.DONE)) == {"adapter/weights", "train.json"}
    other = store.entry_folder(tmp_path, "t-m-lora-r4-s0", "finetune", "ba" * 32)
    assert not store.is_whole(other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "adapter" / "weights").write_text("onf"),
        lambda folder: (folder / "adapter" / "weights").write_text("on"),
        lambda folder: (folder / "train.json").unlink(),
        lambda folder: (folder / store.DONE).unlink(),
        lambda folder: (folder / store.DONE).write_text('{"train.json": '),
        lambda folder: (folder / store.DONE).write_text("[]"),
        lambda folder: (folder / store.DONE).write_text(""),
    ],
    ids=["bit flipped", "truncated", "file gone", "never finished", "list truncated", "list of another kind", "empty"],
)
def test_a_damaged_entry_is_not_used_and_is_made_again(tmp_path, damage):
    folder = store.entry_folder(tmp_path, "run", "finetune", "0" * 64)
    fill(folder)
    damage(folder)
    assert not store.is_whole(folder)
    fill(folder, "two")
    assert store.is_whole(folder) and (folder / "adapter" / "weights").read_text() == "two"


def test_a_crash_leaves_nothing(tmp_path):
    folder = store.entry_folder(tmp_path, "run", "finetune", "0" * 64)
    with pytest.raises(ZeroDivisionError), store.new_entry(folder) as made:
        (made / "train.json").write_text("{}")
        raise ZeroDivisionError
    assert list(folder.parent.iterdir()) == []


def test_a_crash_leaves_the_older_entry(tmp_path):
    folder = store.entry_folder(tmp_path, "run", "finetune", "0" * 64)
    fill(folder)
    with pytest.raises(ZeroDivisionError), store.new_entry(folder):
        raise ZeroDivisionError
    assert store.is_whole(folder) and list(folder.parent.iterdir()) == [folder]


def test_taking_replaces_what_is_there_and_shares_nothing_written_later(tmp_path):
    folder, target = store.entry_folder(tmp_path, "run", "finetune", "0" * 64), tmp_path / "runs" / "run"
    fill(folder)
    (target / "adapter").mkdir(parents=True)
    (target / "adapter" / "weights").write_text("old")
    (target / "scores.json").write_text("mine")
    store.take(folder, target)
    store.take(folder, target)
    assert (target / "adapter" / "weights").read_text() == "one"
    assert (target / "scores.json").read_text() == "mine"
    assert sorted(path.name for path in target.rglob("*")) == ["adapter", "scores.json", "train.json", "weights"]
    (target / "adapter" / "weights").unlink()
    assert store.is_whole(folder)


def test_where_links_cannot_be_made_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    folder = store.entry_folder(tmp_path, "run", "finetune", "0" * 64)
    fill(folder)
    store.take(folder, tmp_path / "runs")
    assert (tmp_path / "runs" / "adapter" / "weights").read_text() == "one"
    assert (tmp_path / "runs" / "adapter" / "weights").stat().st_nlink == 1
