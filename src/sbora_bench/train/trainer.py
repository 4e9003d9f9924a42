"""transformers' Trainer as a protocol and a method have it."""

import math
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.inputs.method_hooks import optimizer_of
from sbora_bench.inputs.parts import Parts
from sbora_bench.plan import steps as batches
from sbora_bench.plan.experiment import Run
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.train import distributed as processes
from sbora_bench.train.checkpoints import Sealing, Telling, Watching, whole_checkpoint
from sbora_bench.train.encoding import IGNORED, with_ends
from sbora_bench.train.method_steps import MethodSteps, load_state, save_state, whole_ranks
from sbora_bench.train.shortcuts import ByLength, InParts, PaddingFree, SupervisedOnly
from sbora_bench.train.wandb_log import asked_for

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerBase, Trainer

    from sbora_bench.inputs.supervised_loss import SupervisedLoss


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
) -> "Trainer":
    """The Trainer as the protocol and the method have it; it logs to wandb where that is requested.

    `rows`: of a micro-batch that go through the model at a time; 0: all. Raises UserError where the protocol wants
    micro-batches without padding, or in parts, and the model doesn't take them.
    """
    import torch
    from torch.utils.data import DataLoader
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

    from sbora_bench.train.epochs import EpochBatches

    if protocol.padding_free:
        from sbora_bench.inputs.padding_free import prepare

        if reason := prepare(model, train[0]["input_ids"]):
            raise UserError(f"{run.name}: padding_free: {reason}; say padding_free: false")
    supervised = supervised_loss(model, train[0]["input_ids"], protocol, run.name)
    parts = parts_in_training(model, protocol, rows or protocol.micro_batch, run.name)
    carried = batches.carried_epochs(len(train), protocol)

    class ProtocolTrainer(InParts, PaddingFree, SupervisedOnly, ByLength, Trainer):
        """Trainer with the protocol's way of averaging the loss, and of going from one epoch to the next."""

        optimizer: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.watching = Watching(self.model.config.vocab_size, protocol.autocast == "float16")
            self.add_callback(self.watching)
            self.add_callback(MethodSteps(self.model))
            self.add_callback(Sealing())
            self.remove_callback(PrinterCallback)
            self.add_callback(Telling(run.name))
            self.parts = parts
            self.supervised = supervised
            self.sort_by_length = protocol.sort_by_length
            self.padding_free = protocol.padding_free
            if protocol.loss_average == "micro-batch":
                self.model_accepts_loss_kwargs = False
            elif supervised is not None:
                self.model_accepts_loss_kwargs = True

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            sampler = super()._get_train_sampler(*args, **kwargs)
            if protocol.group_by_length:  # else it draws from torch's state, which a resumed run doesn't have at hand
                sampler.generator = torch.Generator().manual_seed(run.seed)
            return sampler

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            if self.optimizer is None and method is not None:
                self.optimizer = optimizer_of(self.model, method, protocol)
            return super().create_optimizer(*args, **kwargs)

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            checkpoint = checkpoints / f"checkpoint-{self.state.global_step}"
            with whole_checkpoint(checkpoint, self.model):
                with whole_ranks(self.model):
                    super()._save_checkpoint(*args, **kwargs)
                if self.is_world_process_zero():
                    save_state(self.model, checkpoint)

        def _load_from_checkpoint(self, checkpoint: str, *args: Any, **kwargs: Any) -> None:
            with whole_ranks(self.model):
                super()._load_from_checkpoint(checkpoint, *args, **kwargs)
            load_state(self.model, Path(checkpoint))

        def _load_best_model(self) -> None:
            with whole_ranks(self.model):
                super()._load_best_model()
            load_state(self.model, Path(self.state.best_model_checkpoint))

        @cached_property
        def counted_parameters(self) -> int:
            return self.model.num_parameters(exclude_embeddings=True)

        def floating_point_ops(self, inputs: "dict[str, torch.Tensor]") -> int:
            """As Trainer's, which counts the parameters in each update: as long as clipping their gradients takes."""
            return 6 * inputs["input_ids"].numel() * self.counted_parameters

        def get_train_dataloader(self) -> "DataLoader":
            loader = super().get_train_dataloader()
            if carried == 1:
                return loader
            sampler = EpochBatches(loader.batch_sampler, carried)
            return self.accelerator.prepare(DataLoader(train, batch_sampler=sampler, collate_fn=self.data_collator))

    steps = batches.update_steps(len(train), protocol)
    validating = "no" if validation is None or not protocol.validation_every else "steps"
    saving = protocol.validation_every if protocol.keep_best else protocol.checkpoint_every
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        run_name=run.name,
        use_cpu=not torch.cuda.is_available(),
        report_to=["wandb"] if asked_for() else [],
        seed=run.seed,
        data_seed=run.seed,
        max_steps=steps,
        per_device_train_batch_size=protocol.micro_batch,
        per_device_eval_batch_size=protocol.micro_batch,
        gradient_accumulation_steps=processes.accumulation(protocol),
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
        train_sampling_strategy="sequential"
        if protocol.length_buckets
        else "group_by_length"
        if protocol.group_by_length
        else "random",
        eval_strategy=validating,
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
    padded = DataCollatorForSeq2Seq(
        tokenizer, padding=True, pad_to_multiple_of=protocol.pad_to_multiple_of, label_pad_token_id=IGNORED
    )

    def collate(rows: list[dict[str, Any]]) -> "dict[str, torch.Tensor]":
        """A padded batch, without the lengths by which the sampler groups."""
        plain = [{key: row[key] for key in ("input_ids", "labels")} for row in rows]
        return padded(with_ends(plain, tokenizer.eos_token_id) if protocol.end_of_text == "padded" else plain)

    return ProtocolTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=validation, data_collator=collate
    )


def parts_in_training(model: "torch.nn.Module", protocol: Protocol, rows: int, name: str) -> Parts:
    """How micro-batches are parted, of which memory suffices for `rows` rows. Raises UserError where the protocol has
    parts and the model a loss that doesn't add up of theirs.
    """
    from sbora_bench.inputs.supervised_loss import loss_of_its_own

    if protocol.tokens_at_once and (reason := loss_of_its_own(model)):
        raise UserError(f"{name}: tokens_at_once: {reason}, which parts have anew; say tokens_at_once: 0")
    tokens = math.ceil(protocol.tokens_at_once * rows / protocol.micro_batch)  # halved with the rows
    # several processes wait for each other at every part, so all have as many: as of the longest rows
    width = protocol.max_length if processes.count() > 1 else 0
    return Parts(rows, tokens, protocol.pad_to_multiple_of, width)


def supervised_loss(model: "torch.nn.Module", row: list[int], protocol: Protocol, name: str) -> "SupervisedLoss | None":
    """The loss from supervised positions alone where the protocol wants it; None, and a line in the log, where the
    model doesn't take it. Raises UserError where a kernel that is asked for by name can't be had.
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
