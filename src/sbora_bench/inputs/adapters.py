"""From a catalog entry to a PEFT config: `$rank $alpha $dropout $target_modules $seed` filled in, nothing else."""

from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.catalog import MethodEntry, Protocol


def adapter_arguments(method: MethodEntry, rank: int, seed: int, protocol: Protocol) -> dict[str, Any]:
    """The arguments of the method's config class. Raises UserError for an unknown `$name`."""
    alpha = protocol.alpha if protocol.alpha is not None else protocol.alpha_over_rank * rank
    values = {
        "rank": rank,
        "alpha": int(alpha) if alpha == int(alpha) else alpha,
        "dropout": protocol.dropout,
        "target_modules": protocol.target_modules,
        "seed": seed,
    }

    def fill(value: Any) -> Any:
        if not (isinstance(value, str) and value.startswith("$")):
            return value
        if value[1:] not in values:
            raise UserError(f"arguments: {one_of(value[1:], values, '$name')}")
        return values[value[1:]]

    return {key: fill(value) for key, value in method.arguments.items()}


def merged(method: MethodEntry, protocol: Protocol) -> bool:
    """Whether the adapter is scored as a part of its base's weights, at no cost of its own."""
    return protocol.merge and not method.quantization


def peft_types() -> dict[str, type]:
    """Config class of every PEFT method by its type's name, SBORA among them."""
    import peft

    import sbora  # noqa: F401  (registers SBORA with PEFT)

    return {str(getattr(key, "value", key)): cls for key, cls in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def adapter_config(method: MethodEntry, rank: int, seed: int, protocol: Protocol):
    """The `peft.PeftConfig` of a run. Raises UserError where PEFT doesn't know the type or an argument."""
    types = peft_types()
    where = f"catalog: methods: {method.title}"
    if method.peft_type not in types:
        raise UserError(f"{where}: peft_type: {one_of(method.peft_type, types, 'PEFT method')}")
    arguments = adapter_arguments(method, rank, seed, protocol)
    try:
        return types[method.peft_type](task_type="CAUSAL_LM", **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: arguments: {error}") from None


def adapt(base, config, **arguments):
    """`peft.get_peft_model(base, config, **arguments)`. Raises UserError where the config doesn't suit the model."""
    import peft

    try:
        return peft.get_peft_model(base, config, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"PEFT can't put this {config.peft_type.value} on the model: {error}") from None
