"""What of an experiment's methods can't work, looked for before anything runs: each PEFT config on its model's twin;
and which cells are not equal in trainable parameters, as its comparisons say.

The twin is on `meta` and has one layer where the method doesn't tell layers apart, so the paper's models take a second
together. What was good once is remembered in `resources/plan`, by all that it depends on: then nothing heavy is
imported.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench import provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import UserError, in_a_line, one_of
from sbora_bench.files import content_sha256, hash_of, write_json
from sbora_bench.hub import Unreachable
from sbora_bench.inputs.adapters import adapter_config, merged
from sbora_bench.inputs.models.config import added_rows, config_from, first_layers
from sbora_bench.inputs.models.sources import Folder, Source, source_of
from sbora_bench.inputs.models.weights import (
    check_tensors,
    check_tokenizer,
    has_tokenizer,
    parts,
    refuse_not_causal,
    tensor_shapes,
)
from sbora_bench.plan.comparison import PARAMETERS_WITHIN, Planned, equal_parameters, ranked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig

CHECKED = Path("resources/plan")
# All of a protocol that a method's config and its place on the model depend on.
KEYS = {
    "alpha",
    "alpha_over_rank",
    "dropout",
    "max_length",
    "merge",
    "pad",
    "padding_free",
    "steps",
    "target_modules",
    "tokens_at_once",
    "weights_dtype",
}
LAYERED = ("layer", "pattern")  # parts of the arguments' names that tell a model's layers apart
# PEFT types that read or multiply a layer's weight itself (C3A: add to its output in place), and starts that do
WHOLE = {"ADAMSS", "C3A", "DEFT", "DELORA", "FROD", "HRA", "LOHA", "LOKR", "PEANUT", "SUPERTUNING", "TINYLORA"}
WHOLE_STARTS = {"corda", "lora_ga"}
TOKENS = {"token_indices", "trainable_token_indices"}
VALUELESS = ("meta", "Tensor.item()")  # in what is raised where `meta` lacks values, which says nothing of the method


def method_problems(plan: Plan, cache: Path = CHECKED, remember: bool = True) -> list[str]:
    """Every problem of the methods and comparisons, each one line: where, what was found, what is allowed.

    Models whose config isn't at hand are left out. Nothing is written where there is a problem, or not `remember`.
    """
    tables = plan.experiment.tables
    cells = [cell for table in tables for cell in plan.tuned_cells(table)]
    of_equal = [pair for table in tables for pair in plan.comparisons(table) if pair.equal == "parameters"]
    models = dict.fromkeys(cell.model for cell in cells)
    folders = {model: of_folder(source_of(model, plan.catalog.models[model])) for model in models}
    about = {cell: [*check_depends_on(plan, cell), folders[cell.model][1]] for cell in cells}
    named = {cell: cache / f"good-{hash_of(about[cell])[:32]}.json" for cell in cells}
    equal = {pair: cache / f"equal-{hash_of([about[cell] for cell in pair.cells])[:32]}.json" for pair in of_equal}
    unknown = list({path: cell for cell, path in named.items() if not path.is_file()}.values())  # alike cells once
    uncounted = [pair for pair in of_equal if not equal[pair].is_file()]
    if not unknown and not uncounted:
        return []
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports optional kernels that it doesn't find
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problems = list(dict.fromkeys(_problems(plan, unknown, folders)))
        if not problems:
            alike = {named[cell]: cell for pair in uncounted for cell in pair.cells}
            counts = {path: one_layer_parameters(plan, cell) for path, cell in alike.items()}
            lines = (unequal(plan, pair, [counts[named[cell]] for cell in pair.cells]) for pair in uncounted)
            problems = list(filter(None, lines))
    if remember and not problems:
        with suppress(OSError):  # a read-only folder: checked again next time
            for cell in unknown:
                write_json(named[cell], {"cell": cell.name})
            for pair in uncounted:
                write_json(equal[pair], {"comparison": pair.name})
    return problems


def check_depends_on(plan: Plan, cell: Cell) -> list[Any]:
    """All that the check of a cell depends on, but what its model's own folder holds, as JSON."""
    entry, source = plan.catalog.models[cell.model], source_of(cell.model, plan.catalog.models[cell.model])
    try:
        values: Any = source.values()
    except UserError as error:
        values = str(error)
    method = plan.catalog.methods[cell.method].model_dump(mode="json", exclude={"title"})
    protocol = plan.protocol(cell.table).model_dump(mode="json", include=KEYS)
    code = code_hash("sbora_bench.inputs.check_methods")
    return [values, entry.source.kind, method, cell.rank, protocol, code, provenance.versions()]


def of_folder(source: Source) -> tuple[Path, list[Any]]:
    """A user's own folder, and its tensors' shapes and its other files' hashes; none of another source, or where files
    are not whole, which inputs/check_data.py reports.
    """
    if not isinstance(source, Folder):
        return Path(), []
    folder = Path(source.settings.path)
    try:
        shapes = tensor_shapes(folder)
    except UserError:
        return folder, []
    files = {path.name: content_sha256(path) for path in parts(folder) if path.suffix != ".safetensors"}
    return folder, [shapes, files] if shapes else []


def _problems(plan: Plan, cells: list[Cell], folders: dict[str, tuple[Path, list[Any]]]) -> Iterator[str]:
    spoilt: set[str] = set()
    wrong: set[tuple[str, ...]] = set()
    for model in dict.fromkeys(cell.model for cell in cells):
        folder, at_hand = folders[model]
        try:
            if at_hand:
                made = check_tensors(folder)
                if has_tokenizer(folder):
                    check_tokenizer(folder, made)
        except UserError as error:
            spoilt.add(model)
            yield f"{plan.catalog.where('models', model)}: {error}"
    for cell in cells:
        protocol, method = plan.protocol(cell.table), plan.catalog.methods[cell.method]
        table, entry = f"{plan.path}: tables.{cell.table}", plan.catalog.where("methods", cell.method)
        if cell.model in spoilt or (cell.method,) in wrong or (cell.table, cell.model, cell.method) in wrong:
            continue  # it has its line
        try:
            adapter_config(method, cell.rank or 0, 0, protocol)
        except UserError as error:
            wrong.add((cell.method,))
            yield f"{entry}: {error}"
            continue
        if problem := cell_problem(plan, cell, method, protocol):
            wrong.add((cell.table, cell.model, cell.method))
            yield f"{table}.grids: {cell.method} on {cell.model}, rank {cell.rank}: {problem}"


def cell_problem(plan: Plan, cell: Cell, method: MethodEntry, protocol: Protocol) -> str:
    """Why a cell's method doesn't work on its model, or nothing."""
    from sbora_bench.inputs.meta_twin import attach, build_base

    try:
        values = source_of(cell.model, plan.catalog.models[cell.model]).values()
    except Unreachable:
        return ""
    except UserError as error:
        return str(error)
    try:
        config = config_from(values, f"model {cell.model}")
        refuse_not_causal(config, f"model {cell.model}")
        base = build_base(shortest(config, method), protocol, method)
        if problem := unmatched(base, method, protocol):
            return problem
        if TOKENS & method.arguments.keys():
            rows = base.get_input_embeddings().num_embeddings
            new = added_rows(source_of(cell.model, plan.catalog.models[cell.model]), protocol, rows)
            if problem := beyond_vocabulary(base, method.arguments, new):
                return problem
        model = attach(base, method, cell.rank or 0, protocol)
    except UserError as error:
        return str(error)
    except Exception as error:  # PEFT's methods raise what they like
        return "" if valueless(error) else in_a_line(error)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return "it trains no parameter of this model"
    if problem := packed_layers(model, method):
        return problem
    if protocol.padding_free:
        from sbora_bench.inputs.padding_free import take_packed_rows

        if reason := take_packed_rows(model, []):
            return f"padding_free: {reason}; say padding_free: false"
    if protocol.tokens_at_once:
        from sbora_bench.inputs.supervised_loss import loss_of_its_own

        if reason := loss_of_its_own(model):
            return f"tokens_at_once: {reason}, which each part would add; say tokens_at_once: 0"
    return unmerged(model) if merged(method, protocol) else ""


def packed_layers(model: "PeftModel", method: MethodEntry) -> str:
    """Why a method doesn't work on layers of 4 bits, where it changes some, or nothing."""
    start = method.arguments.get("init_lora_weights")
    packed = any(type(getattr(part, "base_layer", None)).__name__ == "Linear4bit" for part in model.modules())
    if not packed or not (method.peft_type in WHOLE or start in WHOLE_STARTS):
        return ""
    name = f"{method.peft_type} with init_lora_weights: {start}" if start in WHOLE_STARTS else method.peft_type
    return f"quantization: found nf4, and {name} needs weights that are not packed; take `quantization` out"


def beyond_vocabulary(base: "torch.nn.Module", given: dict[str, Any], more: int) -> str:
    """The first token among a method's arguments that is no row of the embeddings, which have `more` rows at last."""
    for key in sorted(TOKENS):
        chosen = given.get(key) or ()
        for name, tokens in (chosen if isinstance(chosen, dict) else {"": chosen}).items():
            named = [part for end, part in base.named_modules() if name and f".{end}".endswith(f".{name}")]
            part = named[0] if named else base.get_input_embeddings()
            rows = getattr(part, "num_embeddings", None) or getattr(part, "out_features", 0)
            for token in tokens:
                if isinstance(token, int) and rows and not 0 <= token < rows + more:
                    return f"{key}: found {token}, allowed 0 to {rows + more - 1}: the model's embeddings have no more"
    return ""


def unequal(plan: Plan, comparison: Planned, counts: list[int | None]) -> str:
    """Why two cells that a plan calls equal in trainable parameters are not, or nothing, also where none can count.

    `counts`: what `one_layer_parameters` says of each.
    """
    a, b = (count or 0 for count in counts)
    if not (a and b) or equal_parameters(a, b):
        return ""
    return (
        f"{plan.path}: tables.{comparison.table}.comparisons: {comparison.name}: equal: parameters, and a layer of"
        f" {ranked(comparison.a)} trains {a:,} and one of {ranked(comparison.b)} {b:,}, allowed within"
        f" {100 * PARAMETERS_WITHIN:.0f} %; choose other ranks, or say equal: neither"
    )


def one_layer_parameters(plan: Plan, cell: Cell) -> int | None:
    """Trainable parameters of a cell on its twin, which may have one layer of many alike; None where they can't be
    counted so.
    """
    from sbora_bench.inputs.meta_twin import attach, build_base

    protocol, method = plan.protocol(cell.table), plan.catalog.methods[cell.method]
    try:
        values = source_of(cell.model, plan.catalog.models[cell.model]).values()
        config = shortest(config_from(values, f"model {cell.model}"), method)
        model = attach(build_base(config, protocol, method), method, cell.rank or 0, protocol)
    except Exception:  # what is wrong has its line before
        return None
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def shortest(config: "PretrainedConfig", method: MethodEntry) -> "PretrainedConfig":
    """The config with one layer, unless the model or the method tells layers apart."""
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or [])
    told_apart = len(layers) > 1 or any("expert" in key for key in text.to_dict())  # the first layers may have none
    if not told_apart and not any(part in key for key in method.arguments for part in LAYERED):
        return first_layers(config, 1)
    return config


def unmatched(base: "torch.nn.Module", method: MethodEntry, protocol: Protocol) -> str:
    """The first name in a method's arguments that is no part of the model, which PEFT would pass over without a word:
    of the entry's own target modules each must be, of the protocol's one.
    """
    modules, given = [name for name, _ in base.named_modules() if name], method.arguments
    own = given.get("target_modules")
    targets = protocol.target_modules if own == "$target_modules" else own
    missing = _missing(targets, modules)
    if missing and (targets is own or len(missing) == len(targets or [])):
        layers = {name.rpartition(".")[2] for name, part in base.named_modules() if name and not list(part.children())}
        return f"target_modules: {one_of(missing[0], layers, 'module of the model')}"
    parts = {name.rpartition(".")[2] for name in modules if not name[-1].isdigit()}
    for name in _missing(given.get("modules_to_save"), modules):
        return f"modules_to_save: {one_of(name, parts, 'module of the model')}"
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = given.get(key)
        for pattern in patterns if isinstance(patterns, dict) else ():
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in modules):
                return f"{key}: {one_of(pattern, parts, 'module of the model')}"
    parameters = [name for name, _ in base.named_parameters()]
    for name in _missing(given.get("target_parameters"), parameters):
        return f"target_parameters: {one_of(name, {_end(p) for p in parameters}, 'parameter of the model')}"
    layers, chosen = base.config.get_text_config().num_hidden_layers, given.get("layers_to_transform")
    for layer in [chosen] if isinstance(chosen, int) else chosen or ():
        if not -1 < layer < layers:
            return f"layers_to_transform: found {layer}, allowed 0 to {layers - 1}"
    return ""


def _missing(wanted: Any, names: list[str]) -> list[str]:
    """Those of a list of names that end none of `names`; of layers by number, which the twin may lack, none."""
    listed = [name for name in wanted if not any(map(str.isdigit, name.split(".")))] if isinstance(wanted, list) else []
    return [end for end in listed if not any(name == end or name.endswith(f".{end}") for name in names)]


def _end(name: str) -> str:
    """The last two parts of a parameter's name: `experts.gate_up_proj`."""
    return ".".join(name.split(".")[-2:])


def unmerged(model: "PeftModel") -> str:
    """Why the adapter can't be merged into its base as the protocol wants, or nothing."""
    cure = "say merge: false in the protocol or the table's overrides"
    merge = getattr(model.base_model, "merge_and_unload", None)
    if merge is None:
        return f"merge: true, and {model.active_peft_config.peft_type.value} has no weights to merge; {cure}"
    try:
        merge()
    except Exception as error:
        return "" if valueless(error) else f"merge: true, and it can't be merged ({in_a_line(error)}); {cure}"
    return ""


def valueless(error: Exception) -> bool:
    """Whether an error is only of the twin's having no values."""
    return not isinstance(error, AttributeError) and any(part in str(error) for part in VALUELESS)
