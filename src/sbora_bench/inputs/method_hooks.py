"""What some PEFT methods want of training beside their config: first values from data, an optimizer, a step's end.

PEFT has these as functions that nobody calls for a user; without them AdaLoRA never prunes, and EVA, LoRA-GA and CorDA
start as plain LoRA. A hook is looked up by what the config says, or named in the catalog's entry (`hooks`).
"""

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.inputs.adapters import as_trained
from sbora_bench.plan.method_entry import Hooks, MethodEntry
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

Batches = Callable[[], Iterable[dict[str, Any]]]
"""Makes micro-batches of the training data, from the first on: `input_ids`, `attention_mask`, `labels`, each (rows,
tokens), on the model's device."""


def hooks_of(method: MethodEntry) -> Hooks:
    """The entry's hooks, or none."""
    return method.hooks or Hooks()


def adapted(
    base: "torch.nn.Module", method: MethodEntry, config: "PeftConfig", protocol: Protocol, batches: Batches
) -> "PeftModel":
    """`as_trained`, the adapter's first values taken from data where the method has them from there.

    Draws from torch's generator, as training does. Raises UserError where the method doesn't suit the model.
    """
    start = getattr(config, "init_lora_weights", None)
    before, after = INITIALISERS.get(start, (None, None)) if isinstance(start, str) else (None, None)

    def data() -> Iterable[dict[str, Any]]:
        return itertools.islice(batches(), hooks_of(method).init_batches)

    if before is not None:
        try:
            before(base, config, data)
        except ValueError as error:
            raise UserError(f"{method.title} can't be started from data: {error}") from None
    model = as_trained(base, method, config, protocol)
    if after is not None:
        after(model, config, data)
    if getattr(config, "monteclora_config", None) is not None:
        model.register_forward_hook(_add_variational_loss)
    return model


def _add_variational_loss(model: "PeftModel", _: Any, output: Any) -> None:
    """Add MonteCLoRA's own loss to that of the tokens while it trains, as AdaLoRA does with its own."""
    if model.training and getattr(output, "loss", None) is not None:
        output.loss = output.loss + model.base_model._get_monteclora_loss()


def changes_base(config: "PeftConfig") -> bool:
    """Whether starting changes the base's weights in a way that loading the adapter doesn't repeat.

    Such an adapter is saved as a LoRA that fits the unchanged base (of twice the rank), which takes the first values.
    """
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and (start in ("lora_ga", "corda") or start.startswith("pissa_niter"))


def optimizer_of(model: "torch.nn.Module", method: MethodEntry, protocol: Protocol) -> "torch.optim.Optimizer | None":
    """The method's own optimizer over the trained parameters; None where it has none."""
    name, arguments = hooks_of(method).optimizer, hooks_of(method).optimizer_arguments
    if name is None:
        return None
    import torch
    from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer

    options = {"betas": protocol.betas, "eps": protocol.epsilon, "weight_decay": protocol.weight_decay}
    if name == "riemannian":
        return create_riemannian_optimizer(model, torch.optim.AdamW, lr=protocol.learning_rate, **options, **arguments)
    if name == "lora-plus":
        given = {"loraplus_lr_ratio": 16.0, **arguments}
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=protocol.learning_rate, **options, **given)
    config = model.active_peft_config
    return create_lorafa_optimizer(
        model,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lr=protocol.learning_rate,
        weight_decay=protocol.weight_decay,
        use_rslora=config.use_rslora,
    )


def after_update(model: "torch.nn.Module") -> Callable[[int], None] | None:
    """What is called with the number of each update (from 0), after the optimizer and before gradients are cleared."""
    return getattr(model.base_model, "update_and_allocate", None)


def _eva(model: "torch.nn.Module", config: "PeftConfig", data: Batches) -> None:
    from peft import initialize_lora_eva_weights

    batches = list(data())
    needed = int(config.r * config.eva_config.rho)  # components that PEFT looks for, in tokens that carry a label
    counted = [int(((batch["labels"] >= 0) & (batch["attention_mask"] > 0)).sum()) for batch in batches]
    if max(counted, default=0) < needed:  # PEFT skips such a batch, and would look for another for ever
        raise UserError(
            f"EVA takes its first values from {needed} answer tokens of a micro-batch at least, and none has more than"
            f" {max(counted, default=0)}; raise micro_batch, or lower the rank or eva_config's rho"
        )
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)


def _lora_ga(base: "torch.nn.Module", config: "PeftConfig", data: Batches) -> None:
    from peft import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    config.lora_ga_config = config.lora_ga_config or LoraGAConfig()

    def gradients() -> None:
        for batch in data():
            base(**batch).loss.backward()

    preprocess_loraga(base, config, gradients)
    base.zero_grad()


def _corda(base: "torch.nn.Module", config: "PeftConfig", data: Batches) -> None:
    import torch
    from peft.tuners.lora.corda import preprocess_corda

    def forward() -> None:
        with torch.no_grad():
            for batch in data():
                for row in range(len(batch["input_ids"])):  # it takes the inputs of one example at a time
                    base(**{key: tensor[row : row + 1] for key, tensor in batch.items()})

    preprocess_corda(base, config, forward)


# `init_lora_weights` -> what is called (before, after) the adapter is put on the base.
INITIALISERS: dict[str, tuple[Callable | None, Callable | None]] = {
    "eva": (None, _eva),
    "lora_ga": (_lora_ga, None),
    "corda": (_corda, None),
}
