"""From a catalog entry to a PEFT config and to the adapted model, as training makes it.

In a method's `arguments`, `$rank $alpha $dropout $target_modules $seed $steps` are filled in, and nothing else;
`$rank*1.5` and `$steps*0.1` are a whole number near that part of a number, `$rank/100` and `1-$rank/100` a share.
"""

import copy
import inspect
import re
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.models.host import host_adapter
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

CHECKPOINTING = {"use_reentrant": False}  # how activations are checkpointed: as transformers' Trainer does
NUMBERS = {"int": "a whole number", int: "a whole number", "float": "a number", float: "a number"}  # by annotation
PART = re.compile(r"(1-)?\$(\w+)(?:([*/])(\d+(?:\.\d+)?))?")  # how `arguments` name a number, or a part of it
UNKNOWN_STEPS = 10_000  # updates, where a config is built that nothing is trained by


def adapter_arguments(
    method: MethodEntry, rank: int, seed: int, protocol: Protocol, steps: int | None = None
) -> dict[str, Any]:
    """The arguments of the method's config class, a copy that PEFT may change; `steps`: updates of the run.

    Raises UserError for an unknown `$name`.
    """
    alpha = protocol.alpha if protocol.alpha is not None else (protocol.alpha_over_rank or 0) * rank
    values: dict[str, Any] = {
        "rank": rank,
        "alpha": int(alpha) if alpha == int(alpha) else alpha,
        "dropout": protocol.dropout,
        "target_modules": protocol.target_modules,
        "seed": seed,
        "steps": steps or protocol.steps or UNKNOWN_STEPS,
    }

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(part) for key, part in value.items()}
        if not isinstance(value, str) or not value.startswith(("$", "1-$")):
            return value
        match = PART.fullmatch(value)
        if match is None:
            raise UserError(f"arguments: found {value!r}, allowed $name, $name*0.1, $name/100 and 1-$name/100")
        rest, name, sign, factor = match.groups()
        if name not in values:
            raise UserError(f"arguments: {one_of(name, values, '$name')}")
        if not sign:
            return values[name]
        part = values[name] * float(factor) if sign == "*" else values[name] / float(factor)
        return 1 - part if rest else round(part) if sign == "*" else part

    return copy.deepcopy({key: fill(value) for key, value in method.arguments.items()})


def merged(method: MethodEntry, protocol: Protocol) -> bool:
    """Whether the adapter is scored as a part of its base's weights, at no cost of its own."""
    return protocol.merge and not method.quantization


def peft_types() -> dict[str, type]:
    """Config class of every PEFT method by its type's name, SBORA among them."""
    import peft

    import sbora  # noqa: F401  (registers SBORA with PEFT)
    from sbora_bench.inputs import full_tuning  # noqa: F401  (registers FULL)

    return {str(getattr(key, "value", key)): cls for key, cls in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def adapter_config(
    method: MethodEntry, rank: int, seed: int, protocol: Protocol, steps: int | None = None
) -> "PeftConfig":
    """The `peft.PeftConfig` of a run. Raises UserError where PEFT doesn't know the type or an argument."""
    types = peft_types()
    where = f"method {method.title!r}"
    if method.peft_type not in types:
        raise UserError(f"{where}: peft_type: {one_of(method.peft_type, types, 'PEFT method')}")
    config_class, arguments = types[method.peft_type], adapter_arguments(method, rank, seed, protocol, steps)
    known = inspect.signature(config_class).parameters
    for key in arguments.keys() - known.keys():
        raise UserError(f"{where}: arguments: {one_of(key, known, f'argument of {config_class.__name__}')}")
    if "task_type" in arguments:
        raise UserError(
            f"{where}: arguments: task_type: found {arguments['task_type']!r}, allowed is CAUSAL_LM, which every method"
            " is given; take it out"
        )
    for key, value in arguments.items():
        number = NUMBERS.get(known[key].annotation)
        if number and isinstance(value, str):
            raise UserError(f"{where}: arguments: {key}: found {value!r}, allowed is {number}, or $rank and the like")
    try:
        return config_class(task_type="CAUSAL_LM", **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: arguments: {error}") from None


def as_trained(
    base: "torch.nn.Module", method: MethodEntry, config: "PeftConfig", protocol: Protocol, **arguments: Any
) -> "PeftModel":
    """`base` as training makes it: layers in 4 bits prepared, the adapter of `config` on it, activations checkpointed.

    The one place where that is done, for weights from a file, for random ones and on `meta`; `arguments` go to PEFT.
    Raises UserError where the method doesn't suit the model.
    """
    import peft

    checkpointing = protocol.gradient_checkpointing
    if method.quantization:
        base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=checkpointing)
    model = host_adapter(adapt(base, config, **arguments), protocol)
    if method.hooks is not None and method.hooks.optimizer == "lora-fa":  # its optimizer leaves A as drawn
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=CHECKPOINTING)
    return model


def adapt(base: "torch.nn.Module", config: "PeftConfig", **arguments: Any) -> "PeftModel":
    """`peft.get_peft_model(base, config, **arguments)`. Raises UserError where the config doesn't suit the model."""
    import peft

    try:
        return peft.get_peft_model(base, config, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"PEFT can't put this {config.peft_type.value} on the model: {error}") from None
