"""Files of a user's own: every format, every way to spoil one, and the line that says what to do."""

import bz2
import datetime
import gzip
import json
import lzma
from pathlib import Path

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import yaml

from sbora_bench.errors import UserError
from sbora_bench.inputs.data.own_files import read_rows
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.plan.catalog import Catalog, load_catalog

ROW = {"instruction": "What is 1 + 1?", "input": "", "output": "It is 2.", "answer": "2"}
LINE = json.dumps(ROW)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SBORA_DATA_ROOT", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(content: str | bytes, name: str = "own.jsonl", **entry):
    """What an entry that names nothing but the file gives."""
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_examples("own", Catalog.model_validate({"data": {"own": {"path": name, **entry}}}).data["own"])


@pytest.mark.parametrize(
    "content",
    [
        LINE,
        f"{LINE}\n",
        f"\ufeff{LINE}\n",
        f"\n  \n{LINE}\r\n\t\r\n",
        f"{LINE}\r",
        f"[{LINE}]",
        f" \n[\n{LINE}\n]\n",
        f"\ufeff[{LINE}]",
    ],
)
def test_text_is_read_whatever_its_ends_of_lines_mark_and_blanks(content):
    assert read(content) == [ROW]
    assert read(content, "own.json") == [ROW]


def test_an_empty_file_has_no_rows_and_no_encoding():
    for name, content in (("own.jsonl", b""), ("own.jsonl", b"\n \n"), ("own.csv", b"a,b\n")):
        Path(name).write_bytes(content)
        assert read_rows(Path(name)).values == []


def test_a_separator_of_unicode_ends_no_line():
    row = ROW | {"output": "a\u2028b\x85c"}
    assert read(json.dumps(row, ensure_ascii=False)) == [row]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", 'instruction,input,output,answer\n"What is 1 + 1?",,It is 2.,2\n'),
        ("own.CSV", '\ufeffinstruction;input;output;answer\r\n\r\n"What is 1 + 1?";;It is 2.;2\r\n'),
        ("own.csv", '"more; or; less",instruction,input,output,answer\n,"What is 1 + 1?",,It is 2.,2\n'),
        ("own.tsv", "instruction\tinput\toutput\tanswer\nWhat is 1 + 1?\t\tIt is 2.\t2"),
    ],
)
def test_a_table_of_cells(name, content):
    (row,) = read(content, name)
    assert {key: row[key] for key in ROW} == ROW


@pytest.mark.parametrize("row", [{k: v for k, v in ROW.items() if k != "input"}, ROW | {"input": None}])
def test_an_input_that_is_left_out_or_null_is_empty_and_the_answer_stays(row):
    assert read(json.dumps([row]), "own.json") == [ROW]


def test_an_answer_is_the_rows_own_whatever_its_other_keys():
    (row,) = read(json.dumps([{"prompt": "What is 1 + 1?", "completion": "It is 2.", "answer": 2}]), "own.json")
    assert {key: row[key] for key in ROW} == ROW


def test_a_saved_folder_of_one_split_is_that_split():
    datasets.DatasetDict({"train": datasets.Dataset.from_list([{"a": "x"}])}).save_to_disk("one")
    assert read_rows(Path("one")).values == [{"a": "x"}]


def test_parquet_and_a_saved_folder():
    rows = datasets.Dataset.from_list([ROW])
    rows.to_parquet("own.parquet")
    rows.save_to_disk("saved")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk("splits")
    entries = {
        "a": {"path": "own.parquet"},
        "b": {"path": "saved"},
        "c": {"path": "splits", "split": "test"},
        "d": {"path": "splits"},
        "e": {"path": "empty"},
        "f": {"path": "saved", "split": "test"},
    }
    Path("empty").mkdir()
    own = Catalog.model_validate({"data": entries}).data
    assert all(read_examples(name, own[name]) == [ROW] for name in "abc")
    with pytest.raises(UserError, match="say `split:` with one of train, test"):
        read_examples("d", own["d"])
    with pytest.raises(UserError, match="empty: found no data files of one set in it .* name such a folder, or a file"):
        read_examples("e", own["e"])
    with pytest.raises(UserError, match="found split 'test'; say `split:` with one of train"):
        read_examples("f", own["f"])
    Path("saved/dataset_info.json").unlink()
    with pytest.raises(UserError, match="saved: not whole as save_to_disk"):
        read_examples("b", own["b"])


def of_output(text: str) -> dict[str, str]:
    return {"instruction": "a", "input": "", "output": text, "answer": text}


def shards(folder: str, form: str) -> None:
    """Three rows in two files, as programs of that form write them; named so that the last one written is the first."""
    rows = [of_output(text) for text in "xyz"]
    Path(folder).mkdir(parents=True)
    for number, part in ((1, rows[1:]), (0, rows[:1])):
        path, table = f"{folder}/train-{number:05}-of-00002.{form}", pyarrow.Table.from_pylist(part)
        if form == "parquet":
            pyarrow.parquet.write_table(table, path)
        elif form == "feather":
            pyarrow.feather.write_feather(table, path)
        elif form == "arrow":
            with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        else:
            lines = "".join(json.dumps(row) + "\n" for row in part).encode()
            Path(path).write_bytes(gzip.compress(lines) if form.endswith(".gz") else lines)


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl", "jsonl.gz"])
def test_a_folder_of_files_is_read_in_the_order_of_their_names(form):
    """As a downloaded set of the hub is laid out, or what a program wrote in parts."""
    shards("set/data", form)
    Path("set/README.md").write_text("---\nlicense: mit\n---\n# A set\n")
    Path("set/data/dataset_infos.json").write_text("{}")
    rows = read_rows(Path("set"))
    assert [row["output"] for row in rows.values] == ["x", "y", "z"]
    unit = "line {}" if "jsonl" in form else "row {}"
    assert rows.place(2) == f"data/train-00001-of-00002.{form}: {unit.format(1 + ('jsonl' in form))}"
    assert [row["output"] for row in read_rows(Path("set"), "train").values] == ["x", "y", "z"]
    with pytest.raises(UserError, match="set: found split 'test'; say `split:` with one of train"):
        read_rows(Path("set"), "test")


def test_an_arrow_file_of_either_kind():
    for form in ("arrow", "feather"):
        shards(form, form)
        assert [row["output"] for row in read_rows(Path(f"{form}/train-00001-of-00002.{form}")).values] == ["y", "z"]
    Path("own.arrow").write_bytes(b"ARROW1\0\0")
    with pytest.raises(UserError, match="own.arrow: not a whole Arrow file"):
        read_rows(Path("own.arrow"))


def test_splits_of_a_folder_of_files():
    shards("set", "jsonl")
    Path("set/test.jsonl").write_text(LINE)
    assert read_rows(Path("set"), "test").values == [ROW]
    with pytest.raises(UserError, match="it holds several splits and none is named; say `split:` with one of train, t"):
        read_rows(Path("set"))


def test_a_row_of_a_folder_that_cannot_be_read_is_named_with_its_file():
    shards("set", "jsonl")
    entry = Catalog.model_validate({"data": {"own": {"path": "set"}}}).data["own"]
    last = Path("set/train-00001-of-00002.jsonl")
    last.write_text(f'{LINE}\n{{"instruction": "a"}}\n')
    with pytest.raises(UserError, match="set: train-00001-of-00002.jsonl: line 2: found instruction; allowed"):
        read_examples("own", entry)
    last.write_text(f"{LINE}\n{LINE[:9]}\n")
    with pytest.raises(UserError, match="set/train-00001-of-00002.jsonl, line 2: not JSON"):
        read_examples("own", entry)


@pytest.mark.parametrize("name", ["rows.csv", "more.jsonl"])
def test_no_file_of_a_folder_is_left_out_silently(name):
    shards("set", "jsonl")
    (Path("set") / name).write_text(LINE)
    with pytest.raises(UserError, match=f"set: {name} would be left out: .*; take it out of the folder, or name it so"):
        read_rows(Path("set"))


def test_a_set_of_several_parts_is_not_joined():
    """As gsm8k's main and socratic."""
    for name in ("main", "other"):
        shards(f"set/{name}", "jsonl")
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("main", "other")]
    Path("set/README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    with pytest.raises(UserError, match=r"set: found no data files of one set in it .*\['main', 'other'\]"):
        read_rows(Path("set"))
    assert len(read_rows(Path("set/main")).values) == 3


def test_a_card_names_no_file_of_another_place():
    shards("set", "jsonl")
    Path("x.jsonl").write_text(LINE)
    Path("set/README.md").write_text('---\nconfigs:\n- {config_name: a, data_files: "../x.jsonl"}\n---\n')
    with pytest.raises(UserError, match="set: its card names /.*x.jsonl, allowed are files in the folder"):
        read_rows(Path("set"))


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", LINE), ("a.json", f"[{LINE}]"), ("a.csv", "output\nx\n")])
def test_a_packed_text_is_read_as_what_is_in_it(pack, suffix, name, text):
    Path(name).write_text(text)
    packed = Path(f"{name}{suffix}")
    packed.write_bytes(pack(text.encode()))
    assert read_rows(packed).values == read_rows(Path(name)).values
    packed.write_bytes(pack(text.encode())[:-9])
    with pytest.raises(UserError, match=f"{packed}: can't be unpacked .*; fetch or pack it again"):
        read_rows(packed)


def test_a_packed_text_of_another_encoding():
    Path("own.csv.gz").write_bytes(gzip.compress("output\né\n".encode("latin-1")))
    with pytest.raises(UserError, match="line 2: .* unpack and convert it: iconv -f LATIN1 -t UTF-8 own.csv > new.csv"):
        read_rows(Path("own.csv.gz"))


def test_a_missing_number_of_parquet_is_null_and_no_word():
    missing = pyarrow.table({"instruction": ["a", "b"], "output": [1.5, float("nan")], "more": [[float("nan")], [2.5]]})
    pyarrow.parquet.write_table(missing, "own.parquet")
    assert [row["more"] for row in read_rows(Path("own.parquet")).values] == [[None], [2.5]]
    with pytest.raises(UserError, match="own.parquet: row 1: output: found null, allowed are text and numbers"):
        read(Path("own.parquet").read_bytes(), "own.parquet")


def test_bytes_of_parquet_are_the_text_that_they_are():
    """Hive and older Spark write text so; a picture beside it is passed over."""
    pyarrow.parquet.write_table(pyarrow.table({"output": ["né".encode()], "picture": [b"\xff\xd8"]}), "own.parquet")
    assert read_rows(Path("own.parquet")).values == [{"output": "né", "picture": None}]


@pytest.mark.parametrize("kind", [pyarrow.list_, pyarrow.large_list, lambda value: pyarrow.list_(value, 1)])
def test_single_precision_in_lists_of_every_kind(kind):
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([[0.1]], kind(pyarrow.float32()))}), "own.parquet")
    assert read_rows(Path("own.parquet")).values == [{"a": [0.1]}]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            pyarrow.table([["a"], ["b"], ["c"]], names=["instruction", "output", "output"]),
            "column 'output' stands twice",
        ),
        (pyarrow.table({"at": pyarrow.array([2**58], pyarrow.timestamp("us"))}), "a value can't be read .*as text"),
    ],
)
def test_a_parquet_file_that_is_whole_and_cannot_be_read(table, expected):
    pyarrow.parquet.write_table(table, "own.parquet")
    with pytest.raises(UserError, match=f"own.parquet: {expected}"):
        read_rows(Path("own.parquet"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ '%(b)s' % instruction }}", "format requires a mapping"),
        ("{{ '{b}'.format(a=1) }}", "KeyError: 'b'"),
        ("{{ '{} {}'.format(1) }}", "IndexError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_whatever_a_template_raises_names_the_row(template, reason):
    with pytest.raises(
        UserError, match=f"own.jsonl: line 1: the template can't be filled: {reason}.*; found instruction"
    ):
        read(LINE, columns={"output": template})


SPOILT = {
    "a number beyond all": ('{"instruction": "a", "output": 1e999}', ["line 1: not JSON (1e999 is beyond", "as text"]),
    "UTF-16": (LINE.encode("utf-16"), ["own.jsonl: is UTF-16", "iconv -f UTF-16 -t UTF-8 own.jsonl"]),
    "UTF-16 without a mark": (LINE.encode("utf-16-le"), ["is UTF-16", "iconv -f UTF-16LE"]),
    "UTF-16 the other way round": (LINE.encode("utf-16-be"), ["is UTF-16", "iconv -f UTF-16BE"]),
    "UTF-32": (LINE.encode("utf-32"), ["is UTF-32", "iconv -f UTF-32 -t UTF-8"]),
    "a spreadsheet": (b"PK\x03\x04\x14\x00\x06", ["own.jsonl: is a zip archive (or a spreadsheet)"]),
    "Arrow": (b"ARROW1\0\0\xff\xff", ["own.jsonl: is Arrow under another suffix", "export it"]),
    "Parquet": (b"PAR1\x15\x00", ["is Parquet under another suffix"]),
    "a zero": (f"{LINE}\n\0\n", ["line 2: not JSON"]),
    "a key twice": ('{"instruction": "a", "output": "b", "output": "c"}', ["line 1", "key 'output' stands twice"]),
    "true": ('{"instruction": "a", "output": true}', ["line 1: output: found bool, allowed are text and numbers"]),
    "Latin-1": (f"{LINE}\n".encode() + b'{"instruction": "caf\xe9"}', ["line 2: byte 0xe9", "iconv -f LATIN1"]),
    "CSV": ("instruction,output\na,b\n", ["line 1: not JSON", "found 'instruction,output'", "named .csv"]),
    "half a line": (f"{LINE}\n\n{LINE[:20]}\n", ["line 3: not JSON", "correct or remove that line"]),
    "over several lines": (json.dumps(ROW, indent=1), ["line 1", "write each object on one line"]),
    "a list with an end too few": (f"[\n{LINE},\n", ["line 3: not JSON"]),
    "not a number": ('{"instruction": NaN}', ["line 1", "NaN"]),
    "another thing": (f"{LINE}\n3\n", ["line 2: found int"]),
    "a missing field": (f'{LINE}\n\n{{"instruction": "a"}}', ["line 3: found instruction; allowed are the keys"]),
    "an empty answer": (LINE.replace('"2"', "null"), ["line 1: answer: found null"]),
    "half a sign in another column": (
        LINE + "\n" + json.dumps(ROW | {"x": ["a\ud83d"]}),
        ["line 2: x: half of a surrogate pair"],
    ),
    "a number of too many digits": (
        f'{LINE}\n{{"instruction": "a", "output": {"7" * 5000}}}',
        ["line 2: not JSON (a whole number of 5,000 digits; write it as text)"],
    ),
    "such a number in a list": (f'[{LINE},\n{{"x": {"7" * 5000}}}]', ["line 2: not JSON (a whole number of 5,000"]),
    "half a sign": ('{"instruction": "\\ud800", "output": "b"}', ["line 1: instruction", "surrogate"]),
    "an id twice": (
        "\n".join(json.dumps(ROW | {"id": i}) for i in (1, 2, 1)),
        ["line 3: id 1 stands at line 1 too"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_cannot_be_read_is_one_line_with_its_place_and_cure(what):
    content, expected = SPOILT[what]
    with pytest.raises(UserError) as raised:
        read(content)
    for part in expected:
        assert part in str(raised.value), raised.value
    assert "fetch it again" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("instruction,output\na,b,c\n", "line 2: found 3 cells, allowed 2"),
        ("instruction,output\na,b\n\na\n", "line 4: found 1 cells"),
        ("instruction,instruction\na,b\n", "line 1: a column's name stands twice"),
        ('instruction,output\na,"b"c\n', "line 2: not CSV"),
    ],
)
def test_a_spoilt_table_of_cells(content, expected):
    with pytest.raises(UserError, match=expected):
        read(content, "own.csv")


def test_columns_are_parted_by_what_the_first_line_has_most_of_and_those_without_a_name_are_passed_over():
    for sign, text in (("\t", "a, b; c"), (";", "a, b\tc"), (",", "a; b\tc")):
        (row,) = read(f"instruction{sign}output\n{text}{sign}d\n", "own.csv")
        assert (row["instruction"], row["output"]) == (text, "d")
    (row,) = read(",instruction,output,,\n0,a,b,,\n", "own.csv")
    assert row == {"instruction": "a", "input": "", "output": "b", "answer": "b"}


def test_a_typed_file_gives_what_json_can_hold():
    day = datetime.datetime(2020, 1, 2)
    datasets.Dataset.from_list([ROW | {"day": day, "part": {"of": [1, None]}}]).to_parquet("own.parquet")
    (row,) = read(Path("own.parquet").read_bytes(), "own.parquet")
    assert json.loads(json.dumps(row)) == row == ROW | {"day": "2020-01-02 00:00:00", "part": {"of": [1, None]}}


def test_numbers_of_single_precision_are_read_as_they_were_written():
    values = {"answer": 0.1, "steps": [0.2, 3.0], "of": {"share": 1e-7, "unit": "kg"}, "whole": 7, "double": 0.3}
    kinds = {
        "answer": datasets.Value("float32"),
        "steps": datasets.List(datasets.Value("float32")),
        "double": datasets.Value("float64"),
    }
    kinds |= {
        "of": {"share": datasets.Value("float32"), "unit": datasets.Value("string")},
        "whole": datasets.Value("int64"),
    }
    rows = datasets.Dataset.from_list([values, dict.fromkeys(values)], features=datasets.Features(kinds))
    rows.to_parquet("own.parquet")
    rows.save_to_disk("saved")
    for path in ("own.parquet", "saved"):
        assert read_rows(Path(path)).values[0] == values


def test_a_split_of_a_file_is_refused():
    with pytest.raises(UserError, match="own.jsonl: split: found 'train', and a file has no splits"):
        read(LINE, split="train")


def test_a_damaged_parquet_file():
    with pytest.raises(UserError, match=r"own.parquet: not a whole Parquet file"):
        read("PAR1", "own.parquet")


def test_columns_are_mapped_by_name_or_template_and_the_others_stay():
    row = {"question": "Which?", "choices": ["a", "b"], "label": 1, "hint": "é"}
    columns = {"instruction": "{{question}} {{choices | join(' or ')}}", "input": "hint", "answer": "label"}
    assert read(json.dumps(row), columns=columns) == [
        {**row, "instruction": "Which? a or b", "input": "é", "output": "1", "answer": "1"}
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"instruction": "question"}, "line 1: no column 'question'; found q, a"),
        ({"instruction": "q"}, "nothing gives output"),
        ({"instruction": "{{question}}", "output": "a"}, "'question' is undefined"),
        ({"instruction": "{{q", "output": "a"}, "columns.instruction: not a Jinja template"),
        ({"instruction": "{{''.__class__.__mro__}}", "output": "a"}, "unsafe"),
    ],
)
def test_a_map_that_does_not_fit(columns, expected):
    with pytest.raises(UserError, match=expected):
        read('{"q": "1", "a": "2"}', columns=columns)


def test_a_null_is_no_word_of_a_template():
    text = '{"q": "1", "a": "2"}\n{"q": "1", "a": null}'
    with pytest.raises(UserError, match=r"line 2: the template can't be filled: a value is null; write \{\{ column or"):
        read(text, columns={"instruction": "q", "output": "The answer is {{ a }}"})
    rows = read(text, columns={"instruction": "q", "output": "{% if a %}{{ a }}{% endif %}{{ a or ' none' }}"})
    assert [row["output"] for row in rows] == ["22", " none"]


def test_a_field_that_is_none_of_an_example_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="instruction"):
        Catalog.model_validate({"data": {"own": {"path": "x", "columns": {"quesion": "q"}}}})


def test_a_file_is_looked_for_beside_its_catalog_and_below_the_working_directory_and_the_data_root(
    tmp_path, monkeypatch
):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "own.yaml").write_text(yaml.safe_dump({"data": {"own": {"path": "x.jsonl"}}}))
    load_catalog.cache_clear()
    entry = load_catalog("catalog").data["own"]
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path / "root"))
    places = [Path("root/x.jsonl"), Path("x.jsonl"), Path("catalog/x.jsonl")]
    with pytest.raises(UserError, match=r"data own: catalog/x.jsonl, x.jsonl, /.*/root/x.jsonl: no such file"):
        read_examples("own", entry)
    for number, place in enumerate(places):
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(ROW | {"answer": str(number)}))
        assert read_examples("own", entry)[0]["answer"] == str(number)


def test_an_absolute_path(tmp_path):
    (tmp_path / "sub").mkdir()
    assert read(LINE, str(tmp_path / "sub" / "own.jsonl")) == [ROW]


def test_rows_have_places():
    Path("a.jsonl").write_text("\n{}\n\n{}")
    assert [read_rows(Path("a.jsonl")).place(index) for index in (0, 1)] == ["line 2", "line 4"]
