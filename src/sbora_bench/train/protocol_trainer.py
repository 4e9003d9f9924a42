"""transformers' Trainer with a protocol's ways: of averaging the loss, of drawing epochs, of keeping checkpoints whole.

A module of its own since it imports Trainer, which takes seconds.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer

from sbora_bench.inputs.method_hooks import optimizer_of
from sbora_bench.inputs.parts import Parts
from sbora_bench.inputs.products import products
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.train.callbacks import DivergenceCallback, SealCheckpointCallback, StepLogCallback, TerminationCallback
from sbora_bench.train.checkpoints import whole_checkpoint
from sbora_bench.train.method_steps import MethodCallback, load_state, save_state, whole_ranks
from sbora_bench.train.shortcuts import ByLength, InParts, PaddingFree, SupervisedOnly

if TYPE_CHECKING:
    from sbora_bench.inputs.supervised_loss import SupervisedLoss


class EpochBatches(Sampler):
    """The micro-batches of several epochs in a row; `batches` draws anew each time that it is iterated."""

    def __init__(self, batches: Sampler, epochs: int) -> None:
        self.batches, self.epochs = batches, epochs

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.epochs):
            yield from self.batches

    def __len__(self) -> int:
        return self.epochs * len(self.batches)


class ProtocolTrainer(InParts, PaddingFree, SupervisedOnly, ByLength, Trainer):
    """The Trainer of a run; `termination` ends it early."""

    optimizer: Any

    def __init__(
        self,
        *,
        protocol: Protocol,
        method: MethodEntry | None,
        epochs_in_a_pass: int,
        supervised: "SupervisedLoss | None",
        parts: Parts,
        **named: Any,
    ) -> None:
        """`epochs_in_a_pass`: drawn one after the other, without an end between them; `named`: Trainer's own."""
        self.protocol, self.method, self.epochs_in_a_pass = protocol, method, epochs_in_a_pass
        super().__init__(**named)
        self.parts, self.supervised = parts, supervised
        self.sort_by_length, self.padding_free = protocol.sort_by_length, protocol.padding_free
        self.termination = TerminationCallback()
        self.remove_callback(PrinterCallback)
        for callback in (
            self.termination,
            DivergenceCallback(self.model.config.get_text_config().vocab_size, protocol.autocast == "float16"),
            MethodCallback(self.model),
            SealCheckpointCallback(),
            StepLogCallback(self.args.run_name),
        ):
            self.add_callback(callback)
        if protocol.loss_average == "micro-batch":
            self.model_accepts_loss_kwargs = False
        elif supervised is not None:
            self.model_accepts_loss_kwargs = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with products(self.model, self.protocol.products):
            return super().train(*args, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if self.protocol.group_by_length:  # else it draws from torch's state, which a resumed run doesn't have at hand
            sampler.generator = torch.Generator().manual_seed(self.args.seed)
        return sampler

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is None and self.method is not None:
            self.optimizer = optimizer_of(self.model, self.method, self.protocol)
        return super().create_optimizer(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
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

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """As Trainer's, which counts the parameters in each update: as long as clipping their gradients takes."""
        return 6 * inputs["input_ids"].numel() * self.counted_parameters

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        if self.epochs_in_a_pass == 1:
            return loader
        sampler = EpochBatches(loader.batch_sampler, self.epochs_in_a_pass)
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)
        )
