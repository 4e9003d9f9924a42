"""Builds the Trainer of a run: from a protocol to transformers' arguments, data collator and loss."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.inputs.parts import Parts
from sbora_bench.plan import steps as batches
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Run
from sbora_bench.train import distributed as processes
from sbora_bench.train.encoding import IGNORED, with_ends
from sbora_bench.train.wandb_log import is_enabled

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from sbora_bench.inputs.supervised_loss import SupervisedLoss
    from sbora_bench.train.protocol_trainer import ProtocolTrainer


def build_trainer(
    model: "torch.nn.Module",
    tokenizer: "PreTrainedTokenizerBase",
    train: "Dataset",
    validation: "Dataset | None",
    protocol: Protocol,
    run: Run,
    checkpoints: Path,
    rows: int = 0,
    method: MethodEntry | None = None,
) -> "ProtocolTrainer":
    """The Trainer as the protocol and the method have it; it logs to wandb where that is requested.

    `rows`: of a micro-batch that go through the model at a time; 0: all. Raises UserError where the protocol wants
    micro-batches without padding, or in parts, and the model doesn't take them.
    """
    from sbora_bench.train.protocol_trainer import ProtocolTrainer

    if protocol.padding_free:
        from sbora_bench.inputs.padding_free import take_packed_rows

        if reason := take_packed_rows(model, train[0]["input_ids"]):
            raise UserError(f"{run.name}: padding_free: {reason}; say padding_free: false")
    steps = batches.update_steps(len(train), protocol)
    return ProtocolTrainer(
        protocol=protocol,
        method=method,
        epochs_in_a_pass=batches.carried_epochs(len(train), protocol),
        supervised=loss_in_training(model, train[0]["input_ids"], protocol, run.name),
        parts=parts_in_training(model, protocol, rows or protocol.micro_batch, run.name),
        model=model,
        args=training_arguments(protocol, run, checkpoints, steps, validation is not None),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator(tokenizer, protocol),
    )


def training_arguments(
    protocol: Protocol, run: Run, checkpoints: Path, steps: int, validated: bool
) -> "TrainingArguments":
    """The protocol in transformers' terms, for a run of so many updates; `validated`: on rows that are held out."""
    import torch
    from transformers import TrainingArguments

    saving = protocol.validation_every if protocol.keep_best else protocol.checkpoint_every
    sampling = "sequential" if protocol.length_buckets else "group_by_length" if protocol.group_by_length else "random"
    return TrainingArguments(
        output_dir=str(checkpoints),
        run_name=run.name,
        use_cpu=not torch.cuda.is_available(),
        report_to=["wandb"] if is_enabled() else [],
        seed=run.seed,
        data_seed=run.seed,
        max_steps=steps,
        per_device_train_batch_size=protocol.micro_batch,
        per_device_eval_batch_size=protocol.micro_batch,
        gradient_accumulation_steps=processes.own_accumulation(protocol),
        learning_rate=protocol.learning_rate,
        lr_scheduler_type=protocol.schedule,
        warmup_steps=protocol.warmup_steps,
        optim=protocol.optimizer,
        adam_beta1=protocol.betas[0],
        adam_beta2=protocol.betas[1],
        adam_epsilon=protocol.epsilon,
        weight_decay=protocol.weight_decay,
        max_grad_norm=protocol.max_grad_norm,
        bf16=protocol.autocast == "bfloat16",
        fp16=protocol.autocast == "float16",
        gradient_checkpointing=protocol.gradient_checkpointing,
        train_sampling_strategy=sampling,
        eval_strategy="steps" if validated and protocol.validation_every else "no",
        eval_steps=protocol.validation_every,
        save_strategy="no" if saving is None else "steps",
        save_steps=saving or 500,
        load_best_model_at_end=protocol.keep_best,
        metric_for_best_model="loss" if protocol.keep_best else None,
        greater_is_better=False if protocol.keep_best else None,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        disable_tqdm=not sys.stderr.isatty() and not protocol.threads > 1,
    )


def collator(
    tokenizer: "PreTrainedTokenizerBase", protocol: Protocol
) -> "Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]":
    """From rows (`input_ids`, `labels`) to a padded batch, (rows, longest row) each, as the protocol pads and ends."""
    from transformers import DataCollatorForSeq2Seq

    padded = DataCollatorForSeq2Seq(
        tokenizer, padding=True, pad_to_multiple_of=protocol.pad_to_multiple_of, label_pad_token_id=IGNORED
    )

    def collate(rows: list[dict[str, Any]]) -> "dict[str, torch.Tensor]":
        plain = [{key: row[key] for key in ("input_ids", "labels")} for row in rows]  # not what the sampler groups by
        return padded(with_ends(plain, tokenizer.eos_token_id) if protocol.end_of_text == "padded" else plain)

    return collate


def parts_in_training(model: "torch.nn.Module", protocol: Protocol, rows: int, name: str) -> Parts:
    """How micro-batches are split, where memory suffices for `rows` rows at a time. Raises UserError where the protocol
    splits them and the model's loss is not a sum over their parts.
    """
    from sbora_bench.inputs.supervised_loss import loss_of_its_own

    if protocol.tokens_at_once and (reason := loss_of_its_own(model)):
        raise UserError(f"{name}: tokens_at_once: {reason}, which each part would add; say tokens_at_once: 0")
    tokens = math.ceil(protocol.tokens_at_once * rows / protocol.micro_batch)  # halved with the rows
    # several processes wait for each other at every part, so all have as many: as of the longest rows
    width = protocol.max_length if processes.count() > 1 else 0
    return Parts(rows, tokens, protocol.pad_to_multiple_of, width)


def loss_in_training(
    model: "torch.nn.Module", row: list[int], protocol: Protocol, name: str
) -> "SupervisedLoss | None":
    """The loss from supervised positions alone where the protocol wants it; None, and a line in the log, where the
    model doesn't take it. Raises UserError where a kernel that the protocol names can't be obtained.
    """
    if protocol.logits == "all":
        return None
    from sbora_bench.inputs.supervised_loss import SupervisedLoss, Unfit, kernel_for

    try:
        kernel = kernel_for(protocol.loss_kernel, next(model.parameters()).device)
    except ValueError as error:
        raise UserError(f"{name}: loss_kernel: liger: {error}") from None
    try:
        return SupervisedLoss(model, row, in_chunks=not processes.sharded(), kernel=kernel)
    except Unfit as reason:
        print(f"{name}: logits of all positions, not of supervised ones alone: {reason}", file=sys.stderr, flush=True)
        return None
