"""Load a prepared base (and an adapter on it) for training or scoring: safetensors only, dtype by the protocol."""

import os
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench.errors import UserError
from sbora_bench.files import file_state, sha256
from sbora_bench.inputs.models.config import POSITIONS
from sbora_bench.inputs.models.host import host_config
from sbora_bench.inputs.models.sources import source_of
from sbora_bench.inputs.models.tokenizer import read_tokenizer
from sbora_bench.inputs.models.weights import NO_EOS, refuse_others
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.folders import BASE, model_folder
from sbora_bench.results.records import BaseRecord, read_record

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase


def prepared_folder(resources: Path, model: str) -> tuple[str, dict]:
    """Where the prepared weights are: (path or hub id, keyword arguments for from_pretrained).

    Every file that base.json names is checked by SHA-256 first. Raises UserError naming the file that is missing or
    differs.
    """
    folder = model_folder(model, resources)
    record = read_record(folder / BASE, BaseRecord)
    for name, expected in record.files.items():
        path = folder / name
        digest = _sha256(path, path.stat().st_dev, *file_state(path)) if path.is_file() else "no file"
        if digest != expected:
            raise UserError(f"{path}: SHA-256 {digest}, expected {expected}; delete {folder} and prepare it again")
    if record.files:
        return str(folder), {}
    return record.source["id"], {"revision": record.source["revision"], "local_files_only": True}


@cache
def _sha256(path: Path, *state: int) -> str:
    """Of a file in this state; kept, since training and scoring both ask for tokenizer and weights, of gigabytes."""
    return sha256(path)


def prepared_for(plan: Plan, model: str, resources: Path) -> dict:
    """`prepared_files` of a model of a plan.

    Raises UserError, with the command that makes them, where there are none or they are of another source than the
    catalog, or the model's environment variable, names now.
    """
    source, folder = source_of(model, plan.catalog.models[model]), model_folder(model, resources)
    names = [model] if source.command == "pretrain" else ["--model", model]
    command = shlex.join(["sbora-bench", source.command, "--experiment", plan.path, *names, "--output", str(folder)])
    path = folder / BASE
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with: {command}")
    if not source.made(read_record(path, BaseRecord)):
        raise UserError(
            f"{folder}: prepared from another source than model {model} has now, or its files changed since; make it"
            f" again with: {command}"
        )
    return prepared_files(resources, model)


def prepared_files(resources: Path, model: str) -> dict:
    """What tells one prepared base from another: its source and the SHA-256 of its files."""
    record = read_record(model_folder(model, resources) / BASE, BaseRecord)
    return {"source": record.source, "files": record.files}


def model_positions(model: "torch.nn.Module") -> int | None:
    """How many tokens the model's config allows; None where it doesn't say."""
    config = model.config.get_text_config()
    return next((n for key in POSITIONS if isinstance(n := getattr(config, key, None), int)), None)


def load_tokenizer(resources: Path, model: str, protocol: Protocol, pad_token: str = "") -> "PreTrainedTokenizerBase":
    """The tokenizer, padding as the protocol has it: side, and token id 0, its own pad token or a new [PAD].

    A tokenizer without a pad token of its own takes `pad_token`, the catalog's for the model, or its EOS where that is
    empty. Raises UserError where it doesn't know that token, and where it has no EOS, which ends every answer.
    """
    where, arguments = prepared_folder(resources, model)
    tokenizer = read_tokenizer(where, padding_side=protocol.padding_side, **arguments)
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {model}: {NO_EOS}")
    if protocol.pad == "zero":
        tokenizer.pad_token_id = 0
    elif protocol.pad == "add":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    elif tokenizer.pad_token_id is None:
        if pad_token and pad_token not in tokenizer.get_vocab():
            raise UserError(f"catalog: models.{model}.pad_token: its tokenizer has no token {pad_token!r}")
        tokenizer.pad_token = pad_token or tokenizer.eos_token
    return tokenizer


def nf4_config(protocol: Protocol) -> "BitsAndBytesConfig":
    """How bitsandbytes quantises a base to NF4, as the protocol has it."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=protocol.double_quantization,
        bnb_4bit_compute_dtype=getattr(torch, protocol.compute_dtype),
    )


def load_base(
    resources: Path,
    model: str,
    protocol: Protocol,
    method: MethodEntry | None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> "torch.nn.Module":
    """The base model in eval mode, quantised where the method says so (NF4 by bitsandbytes).

    With `pad: add` the embeddings get the tokenizer's new row, the mean of the others (protocol section 5). Raises
    UserError where the files hold other tensors than the model has, or in another shape.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = protocol.tf32
    where, arguments = prepared_folder(resources, model)
    arguments["config"] = host_config(AutoConfig.from_pretrained(where, **arguments), protocol)
    if method is not None and method.quantization == "nf4":
        arguments["quantization_config"] = nf4_config(protocol)
    if torch.cuda.is_available():
        arguments["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}  # of several processes, its own
    base, loaded = AutoModelForCausalLM.from_pretrained(
        where,
        dtype=getattr(torch, protocol.weights_dtype),
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused here, by name
        **arguments,
    )
    refuse_others(loaded, base, where)
    new = 0 if tokenizer is None else len(tokenizer) - base.get_input_embeddings().num_embeddings
    if tokenizer is not None and new > 0:
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # else it draws around the mean
        for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
            layer.weight.data[-new:] = layer.weight.data[:-new].mean(dim=0)
    leave_unpacked(base)
    return base.eval()


def leave_unpacked(base: "torch.nn.Module") -> None:
    """Have bitsandbytes keep 4-bit weights as they are.

    On some CPUs it packs them at the first pass in eval mode, for a kernel that rounds more and passes no gradient. So
    a look at the model before or amid training (its logits, a validation) would end the learning unseen; and what is
    scored would be other than what was trained, DoRA's norm most of all, which reads packed weights as plain ones.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_adapter(base: "torch.nn.Module", adapter: Path, merge: bool) -> "torch.nn.Module":
    """`base` with the adapter of a run on it, merged into the weights where the protocol says so; eval mode."""
    from peft import PeftModel

    import sbora  # noqa: F401  (registers SBORA with PEFT)
    from sbora_bench.inputs import full_tuning  # noqa: F401  (registers FULL)

    model = PeftModel.from_pretrained(base, str(adapter), is_trainable=False)
    if merge:
        untie(model)
        model = model.merge_and_unload()
    return model.eval()


def untie(model: "torch.nn.Module") -> None:
    """Give a head that shares its weight with the embeddings its own, where an adapter changes one of the two.

    Merging writes into the weight itself, which would change the other too.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = model.get_base_model()
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    wrapped = [isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) for layer in layers]
    if any(layer is None for layer in layers) or not any(wrapped):
        return
    embeddings, head = (_plain_layer(layer) for layer in layers)
    if embeddings.weight is head.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _plain_layer(layer: "torch.nn.Module") -> "torch.nn.Module":
    """The base's own layer below what PEFT wrapped it in."""
    while True:
        inner = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
        if inner is None:
            return layer
        layer = inner
