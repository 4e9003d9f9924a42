"""The catalog: entries refer to one another by name; a file that is none, or refers to nothing, is named at once."""

import re

import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.entry import FILE_NAME, NAME
from sbora_bench.plan.protocol import Protocol
from sbora_bench.strict_yaml import read_yaml
from tests.factories import shipped
from tests.factories.workplace import workplace  # noqa: F401

MODEL = {"title": "M", "source": {"kind": "folder", "path": "m"}}
METHOD = {"title": "M", "peft_type": "LORA", "arguments": {"r": "$rank"}}
TASK = {"title": "T", "template": "number", "answer": {"official": "last-number"}, "items": {"ladder": "ladder-svamp"}}
OWN = "experiments/catalog/own.yaml"

# sections of a catalog file, and what the line must name
SPOILED = {
    "unknown section": ({"model": {}}, ["model", "did you mean 'models'"]),
    "section as a list": ({"models": ["m"]}, ["models", "dictionary"]),
    "section without entries": ({"models": None}, ["models", "dictionary"]),
    "entry as text": ({"models": {"m": "llama"}}, ["models.m", "found 'llama'"]),
    "unknown key": ({"methods": {"m": {**METHOD, "peft": 1}}}, ["methods.m.peft", "did you mean 'peft_type'"]),
    "unknown key of a source": (
        {"models": {"m": {"title": "M", "source": {"kind": "hub", "ids": "x"}}}},
        ["models.m.source.ids", "did you mean 'id'"],
    ),
    "unknown kind": ({"models": {"m": {"title": "M", "source": {"kind": "ftp"}}}}, ["models.m.source", "ftp", "'hub'"]),
    "missing kind": ({"data": {"d": {"name": "x"}}}, ["data.d", "kind"]),
    "a blob id that isn't": (
        {"data": {"d": {"kind": "file", "path": "x", "url": "u", "blob": "12"}}},
        ["data.d.blob", "pattern", "'12'"],
    ),
    "size as text": ({"models": {"m": {**MODEL, "architecture": {"hidden_size": "64"}}}}, ["hidden_size", "'64'"]),
    "no heads": ({"models": {"m": {**MODEL, "architecture": {"num_attention_heads": 0}}}}, ["num_attention_heads"]),
    "a method called base": ({"methods": {"base": METHOD}}, ["methods.base", "another name"]),
    "a suite without tasks": ({"suites": {"s": {"title": "S", "tasks": []}}}, ["suites.s.tasks", "at least 1"]),
    "a suite of an unknown task": (
        {"suites": {"s": {"title": "S", "tasks": ["svamp"]}}},
        ["suites.s.tasks", "unknown task 'svamp'", "SVAMP"],
    ),
    "a task of unknown data": (
        {"tasks": {"t": {**TASK, "items": {"ladder": "ladder-svam"}}}},
        ["tasks.t.items.ladder", "did you mean 'ladder-svamp'"],
    ),
    "a protocol on an unknown one": (
        {"protocols": {"p": {"extends": "oficial"}}},
        ["protocols.p.extends", "did you mean 'official'"],
    ),
    "unknown key of a protocol": (
        {"protocols": {"p": {"extends": "tiny", "learning_rat": 1}}},
        ["protocols.p", "did you mean 'learning_rate'"],
    ),
    "unknown key of a protocol's suite": (
        {"protocols": {"p": {"extends": "tiny", "suites": {"mmlu": {"step": 1}}}}},
        ["protocols.p.suites.mmlu", "did you mean 'steps'"],
    ),
    "a protocol's exception for an unknown suite": (
        {"protocols": {"p": {"extends": "tiny", "suites": {"mlu": {}}}}},
        ["protocols.p.suites", "did you mean 'mmlu'"],
    ),
    "an entry that stands elsewhere": (
        {"models": {"llama-7b": MODEL}},
        ["models.llama-7b", "stands in ", "models.yaml too; give yours another name"],
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_mistake_is_one_line_that_names_file_and_key(workplace, case):  # noqa: F811
    sections, parts = SPOILED[case]
    workplace.experiment()
    workplace.catalog(**sections)
    message = workplace.refused("plan", "small")
    assert OWN in message, message
    for part in parts:
        assert part in message, message


# entries that are only looked into by the table that uses them: (sections, edit of the table, parts)
USED = {
    "a protocol that extends itself": (
        {"protocols": {"p": {"extends": "q"}, "q": {"extends": "p"}}},
        ("protocol", "p"),
        ["tables.sums.protocol", "extends itself (p -> q -> p)"],
    ),
    "a protocol that lacks fields": (
        {"protocols": {"p": {"title": "P"}}},
        ("protocol", "p"),
        ["tables.sums.protocol", "train_prompt", "required"],
    ),
    "an unknown template": (
        {"tasks": {"t": {**TASK, "template": "numbers"}}, "suites": {"s": {"title": "S", "tasks": ["t"]}}},
        ("suite", "s"),
        ["tables.sums.suite", "tasks.t.template", "did you mean 'number'"],
    ),
    "a template of one's own that isn't there": (
        {"tasks": {"t": {**TASK, "template": "own.task.yaml"}}, "suites": {"s": {"title": "S", "tasks": ["t"]}}},
        ("suite", "s"),
        ["tables.sums.suite", "own.task.yaml: no such file"],
    ),
    "an unknown rule": (
        {
            "tasks": {"t": {**TASK, "answer": {"official": "last"}}},
            "suites": {"s": {"title": "S", "tasks": ["t"]}},
        },
        ("suite", "s"),
        ["tasks.t.answer.official", "unknown extraction rule 'last'", "last-number"],
    ),
    "no answer for the extraction": (
        {
            "tasks": {"t": {**TASK, "answer": {"strict": "stated-number"}}},
            "suites": {"s": {"title": "S", "tasks": ["t"]}},
        },
        ("suite", "s"),
        ["tasks.t.answer", "unknown extraction 'official'"],
    ),
    "an unknown $name": (
        {"methods": {"m": {**METHOD, "arguments": {"r": "$ranks"}}}},
        ("grids", [{"models": ["ladder-xs"], "methods": ["m"], "ranks": [4]}]),
        [f"{OWN}: methods.m: arguments", "did you mean 'rank'"],
    ),
}


@pytest.mark.parametrize("case", USED)
def test_what_a_table_uses_is_looked_into(workplace, case):  # noqa: F811
    sections, (key, value), parts = USED[case]
    workplace.catalog(**sections)
    workplace.experiment((("tables", "sums", key), value))
    message = workplace.refused("plan", "small")
    for part in parts:
        assert part in message, message


HOSTILE = ["..", "../up", "/absolute", "a/b", "a\nb", "--x", "a b", "$(id)", "a;b", "", "x" * 49, "-"]


@pytest.mark.parametrize("section", ["models", "methods", "tasks", "suites", "data", "protocols"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_entry_has_a_name_that_leaves_its_place(workplace, section, name):  # noqa: F811
    entries = {"models": MODEL, "methods": METHOD, "tasks": TASK, "suites": {"title": "S", "tasks": ["SVAMP"]}}
    entries |= {"protocols": {"extends": "tiny"}}
    entries |= {"data": {"kind": "synthetic", "maker": "items", "name": "SVAMP", "rows": 1, "seed": 0}}
    workplace.experiment()
    workplace.catalog(**{section: {name: entries[section]}})
    message = workplace.refused("plan", "small")
    assert f"{OWN}: {section}" in message and "pattern" in message


FILE = {"kind": "file", "path": "p", "url": "u", "blob": "0" * 40}
HUB = {"kind": "hub", "id": "i", "revision": "r"}
WHEEL = {"kind": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "member": "m"}
PLACES = {
    "a file's path": lambda name: {"data": {"x": FILE | {"path": name}}},
    "a set's id": lambda name: {"data": {"x": HUB | {"id": name}}},
    "a model's id": lambda name: {"models": {"x": {"title": "t", "source": HUB | {"id": name}}}},
    "a wheel's package": lambda name: {"models": {"x": {"title": "t", "source": WHEEL | {"package": name}}}},
    "a wheel's version": lambda name: {"models": {"x": {"title": "t", "source": WHEEL | {"version": name}}}},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "name", ["..", "../up", "a/../../up", "/absolute", "a\nb", "--index-url=x", "a b", "$(id)", ""]
)
def test_nothing_is_written_outside_by_a_path_or_taken_for_an_option(workplace, place, name):  # noqa: F811
    workplace.experiment()
    workplace.catalog(**PLACES[place](name))
    message = workplace.refused("plan", "small")
    assert OWN in message and "pattern" in message


def test_names_of_both_kinds():
    for good in ("llama3-8b", "sbora-fa", "llama-3.1"):
        assert re.fullmatch(NAME, good)
    for good in ("ARC-Easy", "social_i_qa", "gsm8k"):
        assert re.fullmatch(FILE_NAME, good)
    assert not re.fullmatch(NAME, "SVAMP") and not re.fullmatch(FILE_NAME, ".hidden")


def test_no_catalog(tmp_path):
    with pytest.raises(UserError, match="no catalog here; run this in the root"):
        load_catalog(str(tmp_path))


def test_a_protocol_is_its_chain_then_the_suite_then_the_table():
    catalog = shipped.catalog()
    official = catalog.protocol("official", "arithmetic", {}, "here")
    assert (official.learning_rate, official.batch_size, official.epochs) == (3e-4, 8, 3)
    clean = catalog.protocol("clean", "arithmetic", {}, "here")
    assert (clean.learning_rate, clean.loss_on, clean.extraction) == (3e-4, "answer", "strict")
    changed = catalog.protocol("clean", "arithmetic", {"learning_rate": 1e-3}, "here")
    assert changed == clean.model_copy(update={"learning_rate": 1e-3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "either steps or epochs"),
        ({"epochs": 1}, "either steps or epochs"),
        ({"alpha": 16}, "either alpha or alpha_over_rank"),
        ({"micro_batch": 3}, "micro_batch 3 does not divide batch_size 8"),
        ({"keep_best": True}, "keep_best needs validation_rows"),
        ({"loss_kernel": "liger", "logits": "all"}, "loss_kernel: found liger, allowed with logits: supervised"),
        ({"optimizer": "adam"}, "optimizer: .*adamw_torch.*, found 'adam'"),
    ],
)
def test_fields_of_a_protocol_that_do_not_go_together(change, message):
    catalog = shipped.catalog()
    with pytest.raises(UserError, match=message):
        catalog.protocol("tiny", "arithmetic", change, "here")


@pytest.mark.parametrize("name", sorted(shipped.catalog().protocols))
@pytest.mark.parametrize(("field", "unsaid", "said"), [("tokens_at_once", 0, 512), ("products", "weights", "float32")])
def test_a_protocol_that_does_not_say_a_later_field_has_the_hash_from_before_it_could(name, field, unsaid, said):
    catalog = shipped.catalog()
    plain, none, some = (
        catalog.protocol(name, "arithmetic", own, "here") for own in ({}, {field: unsaid}, {field: said})
    )
    assert field not in plain.model_dump() and hash_of(none.model_dump()) == hash_of(plain.model_dump())
    assert some.model_dump() == plain.model_dump() | {field: said}


@pytest.mark.parametrize("name", sorted(shipped.catalog().protocols))
def test_every_shipped_protocol_holds_for_every_suite(name):
    catalog = shipped.catalog()
    for suite in catalog.suites:
        if name == "smollm2" and suite not in ("arithmetic", "word-problems"):
            continue  # written for these
        if suite == "corpus" and name not in ("ladder", "tiny"):
            continue  # the ladder's bases alone were trained on it
        if suite in ("arc-easy", "word-problems") and name in ("clean", "official", "rehearsal"):
            continue  # the paper's protocols have these tasks among its eight and its six, with those
        if suite == "gsm8k-alone" and not name.startswith("peft-metamath"):
            continue  # PEFT's comparison alone is scored so
        assert isinstance(catalog.protocol(name, suite, {}, "here"), Protocol)


# contents of a file that is no experiment, and what the line says
NOT_YAML = {
    "empty": (b"", "found nothing"),
    "a comment alone": (b"# nothing\n", "found nothing"),
    "a list": (b"- a\n- b\n", "found list"),
    "a word": (b"word\n", "found str"),
    "a number": (b"7\n", "found int"),
    "an open bracket": (b"tables: [1, 2\n", "not valid YAML"),
    "a tab": (
        b"tables:\n\tsums: 1\n",
        "line 2: not valid YAML: found character that cannot start any token; indent by",
    ),
    "a key twice": (b"title: a\ntitle: b\n", "line 2: not valid YAML: key 'title' stands twice"),
    "an inner key twice": (b"tables:\n  a: 1\n  a: 2\n", "line 3: not valid YAML: key 'a' stands twice"),
    "a list as a key": (b"? [a, b]\n: 1\n", "isn't a plain name"),
    "a merged key twice": (
        b"a: &a {b: 1}\nc:\n  <<: *a\n  d: 1\n  d: 2\n",
        "line 5: not valid YAML: key 'd' stands twice",
    ),
    "an octal number": (b"title: a\nseeds: [0, 010]\n", "line 2: not valid YAML: 010 would be read in base 8 or 60"),
    "a number of base 60": (b"limit: {gsm8k: 1:30}\n", "line 1: not valid YAML: 1:30 would be read in base 8 or 60"),
    "two documents": (b"a: 1\n---\nb: 2\n", "not valid YAML"),
    "a Python object": (b"a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    "an unknown tag": (b"a: !mine 1\n", "not valid YAML"),
    "an unknown alias": (b"a: *b\n", "not valid YAML"),
    "bytes": (bytes(range(256)), "not valid YAML"),
    "a zip": (b"PK\x03\x04" + b"\x00" * 64, "not valid YAML"),
    "Latin-1": ("\ntitle: é\n".encode("latin-1"), "line 2: not valid YAML: byte 0xe9 is not UTF-8; save it as UTF-8"),
    "foreign code": (b"a: !function utils.a\n", "the tag !function is not read: no code is run from YAML"),
    "brackets 200,000 deep": (b"a: " + b"[" * 200_000, "nested deeper than 20 levels"),
    "indents 300 deep": (b"".join(b" " * i + b"a:\n" for i in range(300)), "nested deeper than 20 levels"),
    "an alias that holds itself": (b"title: &a [*a]\n", "holds itself"),
    "aliases that blow up": (
        b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
        "more than 200,000 values",
    ),
}


@pytest.mark.parametrize("case", NOT_YAML)
def test_a_file_that_is_no_experiment(workplace, case):  # noqa: F811
    content, part = NOT_YAML[case]
    path = workplace.write(content)
    message = workplace.refused("validate", path)
    assert path in message and part in message, message
    workplace.experiment()
    (workplace.folder / OWN).write_bytes(content)
    message = workplace.refused("plan", "small")
    assert OWN in message and part in message, message


def test_names_are_text_as_they_are_written(workplace):  # noqa: F811
    (workplace.folder / "a.yaml").write_text("{on: 1, 007: 2, 1e-3: 3, 2020-01-01: 4, ~: 5}\n")
    assert read_yaml(workplace.folder / "a.yaml") == {"on": 1, "007": 2, "1e-3": 3, "2020-01-01": 4, "~": 5}
    for value, expected in (("on", "True"), ("007", "7"), ("2020-01-01", "datetime.date(2020, 1, 1)")):
        workplace.write(f"title: {value}\n")
        message = workplace.refused("validate", "small")
        assert f"title: Input should be a valid string, found {expected}; put it in quotes" in message, message


def test_a_mapping_takes_in_another_and_its_own_keys_go_before(tmp_path):
    text = """
    a: {deep: {deeper: &deep {on: 1, 007: 2}}}
    b: &b {<<: *deep, on: 3}
    c: {<<: *b, d: {<<: [*deep, {on: 4, e: 5}]}}
    """
    (tmp_path / "a.yaml").write_text(text)
    value = read_yaml(tmp_path / "a.yaml")
    assert value["b"] == {"on": 3, "007": 2}
    assert value["c"] == {"on": 3, "007": 2, "d": {"on": 1, "007": 2, "e": 5}}


def test_aliases_and_values_of_every_kind_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {b: 1, c: [1.5, null, true]}\nd: *x\n")
    value = read_yaml(tmp_path / "a.yaml")
    assert value == {"a": {"b": 1, "c": [1.5, None, True]}, "d": {"b": 1, "c": [1.5, None, True]}}
