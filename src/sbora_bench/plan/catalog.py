"""The catalog: typed entries of models, methods, tasks, suites, data, protocols and cards, read from YAML.

Every `*.yaml` in `experiments/catalog/` may hold any of the sections `models`, `methods`, `tasks`, `suites`, `data`,
`prompts`, `protocols`, `protocol_notes`, `devices` and `lengths`; a new entry in any of them (also in a file of your
own) is all that a new model, method or task takes. A task's template may lie beside; it is no catalog.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.data_entries import (
    CATALOG,
    DataEntry,
    LmEvalData,
    LmEvalTask,
    OwnData,
    PromptEntry,
    SuiteEntry,
    TaskEntry,
)
from sbora_bench.plan.entry import FILE_NAME, NAME, Strict
from sbora_bench.plan.explain import explain
from sbora_bench.plan.lengths import Lengths
from sbora_bench.plan.lm_eval_tasks import spelled_out
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.protocol import FieldNote, Protocol, ProtocolEntry
from sbora_bench.strict_yaml import read_yaml


class DeviceEntry(Strict):
    """A card, as its maker describes it: memory, bandwidth, dense peak of matrix products by dtype."""

    title: str
    memory_gib: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    tflops: dict[Literal["float32", "bfloat16", "float16"], Annotated[float, Field(gt=0)]]
    source: str


class Catalog(Strict):
    models: dict[Annotated[str, Field(pattern=NAME)], ModelEntry] = Field(default_factory=dict)
    methods: dict[Annotated[str, Field(pattern=NAME)], MethodEntry] = Field(default_factory=dict)
    tasks: dict[Annotated[str, Field(pattern=FILE_NAME)], TaskEntry] = Field(default_factory=dict)
    suites: dict[Annotated[str, Field(pattern=NAME)], SuiteEntry] = Field(default_factory=dict)
    prompts: dict[Annotated[str, Field(pattern=NAME)], PromptEntry] = Field(default_factory=dict)
    data: dict[Annotated[str, Field(pattern=NAME)], DataEntry] = Field(default_factory=dict)
    protocols: dict[Annotated[str, Field(pattern=NAME)], ProtocolEntry] = Field(default_factory=dict)
    protocol_notes: dict[str, FieldNote] = Field(default_factory=dict)
    devices: dict[Annotated[str, Field(pattern=NAME)], DeviceEntry] = Field(default_factory=dict)
    lengths: dict[Annotated[str, Field(pattern=NAME)], Lengths] = Field(default_factory=dict)
    _files: dict[tuple[str, str], str] = PrivateAttr(default_factory=dict)

    def where(self, section: str, name: str) -> str:
        """File and key of an entry, as messages begin."""
        return f"{self._files.get((section, name), 'catalog')}: {section}.{name}"

    def find(self, section: str, name: str, where: str) -> Any:
        """The entry `name` of `section`. Raises UserError beginning with `where` and naming near entries."""
        entries = getattr(self, section)
        if name not in entries:
            raise UserError(f"{where}: {one_of(name, entries, section[:-1] if section != 'data' else section)}")
        return entries[name]

    def protocol(self, name: str, suite: str, overrides: dict[str, Any], where: str) -> Protocol:
        """The protocol `name` as it holds for `suite`, with a table's own `overrides`. Raises UserError."""
        fields: dict[str, Any] = {}
        chain: list[str] = []
        following: str | None = name
        while following:
            if following in chain:
                raise UserError(f"{where}: protocol {name!r} extends itself ({' -> '.join([*chain, following])})")
            chain.append(following)
            following = self.find("protocols", following, where).extends
        for link in reversed(chain):
            entry = self.protocols[link]
            fields |= (entry.model_extra or {}) | entry.suites.get(suite, {})
        try:
            return Protocol.model_validate(fields | overrides)
        except ValidationError as error:
            suites = list(dict.fromkeys(of for link in reversed(chain) for of in self.protocols[link].suites))
            if suites and suite not in suites and any(one["type"] == "missing" for one in error.errors()):
                raise UserError(
                    f"{where}: protocol {name!r}: found suite {suite!r}, allowed {', '.join(suites)}, for which it"
                    " says all that is needed; name another protocol"
                ) from None
            raise UserError(f"{where}: protocol {name!r}: {explain(error, Protocol)}") from None


def check_references(catalog: Catalog) -> None:
    """Raise UserError for a name in an entry that no other entry has, and for an unknown key of a protocol."""
    where = catalog.where
    if "base" in catalog.methods:
        raise UserError(f"{where('methods', 'base')}: `base` is the untuned model; give the method another name")
    for name, suite in catalog.suites.items():
        for task in suite.tasks:
            catalog.find("tasks", task, f"{where('suites', name)}.tasks")
    for name, entry in catalog.tasks.items():
        for which, items in entry.items.items():
            catalog.find("data", items, f"{where('tasks', name)}.items.{which}")
    for name, data in catalog.data.items():
        if data.kind == "hub" and data.otherwise is not None:
            catalog.find("data", data.otherwise, f"{where('data', name)}.otherwise")
    for name, protocol in catalog.protocols.items():
        if protocol.extends is not None:
            catalog.find("protocols", protocol.extends, f"{where('protocols', name)}.extends")
        for of_suite in protocol.suites:
            catalog.find("suites", of_suite, f"{where('protocols', name)}.suites")
        for of_suite, fields in {"": protocol.model_extra or {}, **protocol.suites}.items():
            for key in fields.keys() - Protocol.model_fields.keys():
                inside = f".suites.{of_suite}" if of_suite else ""
                raise UserError(f"{where('protocols', name)}{inside}: {one_of(key, Protocol.model_fields, 'key')}")
    for key, note in catalog.protocol_notes.items():
        if key not in Protocol.model_fields:
            raise UserError(f"{where('protocol_notes', key)}: {one_of(key, Protocol.model_fields, 'field')}")
        for of_suite in note.source if isinstance(note.source, dict) else ():
            catalog.find("suites", of_suite, f"{where('protocol_notes', key)}.source")


# A YAML file beside the catalog's with any of these keys and no section of a catalog is lm-eval's: a task's template.
TEMPLATE_KEYS = {"output_type", "doc_to_text", "doc_to_target", "task", "group", "include"}


@cache
def load_catalog(folder: str = str(CATALOG)) -> Catalog:
    """Read and merge every YAML of the folder. Raises UserError naming file and key."""
    merged: dict[str, dict] = {}
    origin: dict[tuple[str, str], str] = {}
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise UserError(f"{folder}: no catalog here; run this in the root of the repository")
    for path in files:
        try:
            sections = read_yaml(path)
            if sections.keys() & TEMPLATE_KEYS and not sections.keys() & Catalog.model_fields.keys():
                continue
            sections, named = spelled_out(sections, path)
            Catalog.model_validate(sections)
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, Catalog)}") from None
        _merge(merged, origin, path, sections, named)
    catalog = Catalog.model_validate(merged)
    catalog._files.update(origin)
    for (section, name), file in origin.items():
        entry = getattr(catalog, section)[name]
        for part in [entry, entry.lm_eval] if isinstance(entry, TaskEntry) else [entry]:
            if isinstance(part, OwnData | LmEvalData | LmEvalTask | TaskEntry):
                part._beside = Path(file).parent
    check_references(catalog)
    return catalog


def _merge(
    merged: dict[str, dict], origin: dict[tuple[str, str], str], path: Path, sections: dict, named: dict
) -> None:
    """Put a file's entries into `merged`, and where each came from into `origin`; `named`: those of lm-eval's tasks,
    which several files may have.
    """
    for section, entries in sections.items():
        for name, entry in entries.items():
            if name in merged.setdefault(section, {}):
                raise UserError(
                    f"{path}: {section}.{name}: stands in {origin[section, name]} too; give yours another name, or"
                    " remove it"
                )
            merged[section][name] = entry
            origin[section, name] = str(path)
    for section, entries in named.items():
        for name, entry in entries.items():
            if merged.setdefault(section, {}).setdefault(name, entry) != entry:
                raise UserError(f"{path}: suites: {section} {name} is another one in another file; give both the same")
            origin.setdefault((section, name), str(path))
