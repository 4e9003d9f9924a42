"""Train the adapters of some runs with transformers' Trainer: `sbora-bench finetune RUN...`.

Each run leaves `adapter/` (safetensors) and `train.json`. Everything random comes from the run's seed, set before the
adapter is built.
"""

import math
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench import progress, provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import disk_error, hash_of, read_json, sha256
from sbora_bench.heavy_imports import settle
from sbora_bench.inputs.adapters import adapter_config
from sbora_bench.inputs.method_hooks import adapted
from sbora_bench.inputs.models.load import load_base, load_tokenizer, prepared_files, prepared_for
from sbora_bench.inputs.models.logits import logits_of, token_choice, write_logits
from sbora_bench.inputs.out_of_memory import is_out_of_memory
from sbora_bench.plan import steps as batches
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import training_settings
from sbora_bench.results import store
from sbora_bench.results.folders import ADAPTER, TRAINING, run_folder
from sbora_bench.results.records import TooLong, TrainRecord, read_record, write_record
from sbora_bench.train import distributed as processes
from sbora_bench.train.callbacks import check_finite
from sbora_bench.train.checkpoints import newest, step_of
from sbora_bench.train.first_batches import first_batches
from sbora_bench.train.index_init import choose_index_sets
from sbora_bench.train.kept_rows import training_rows
from sbora_bench.train.method_steps import first_values
from sbora_bench.train.out_of_memory import halved_to_fit
from sbora_bench.train.peak_memory import peak_memory, reset_peak_memory
from sbora_bench.train.record import logged_losses, train_record, write_failure
from sbora_bench.train.save_adapter import save_adapter
from sbora_bench.train.split import check_positions, split, training_file
from sbora_bench.train.trainer import build_trainer
from sbora_bench.train.wandb_log import tracked

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, TrainerState


def finetune(plan: Plan, runs: list[Run], resources: Path, results: Path) -> None:
    """Train `runs`, one after the other; a finished one is taken from the store.

    A run that fails leaves a `train.json` with the reason, and doesn't stop the others. Raises UserError for a base
    run, Terminated on SIGTERM, after a checkpoint.
    """
    for run in runs:
        if run.is_base:
            raise UserError(f"finetune: {run.name} is the untuned base; there is nothing to train")
    for run in runs:
        folder = store.entry_folder(results, run.name, "finetune", adapter_key(plan, run, resources, results))
        checkpoints = store.checkpoints_of(folder)
        with processes.shared_lock(folder):
            if not store.is_whole(folder):
                _train_or_fail(plan, run, resources, results, folder, checkpoints)
            if not processes.is_first():
                continue
            if read_record(folder / TRAINING, TrainRecord).status == "ok":  # a failed run may be tried again
                shutil.rmtree(checkpoints, ignore_errors=True)
        store.take(folder, run_folder(results, run))


def _train_or_fail(plan: Plan, run: Run, resources: Path, results: Path, folder: Path, checkpoints: Path) -> None:
    """Make the store's entry `folder` of a run: a trained adapter, or a record of why it failed."""
    try:
        with processes.shared_entry(folder) as made, tracked(plan, run) as summarise:
            train = partial(train_run, plan, run, resources, results, made, checkpoints)
            summarise(halved_to_fit(train, plan.protocol(run.table).micro_batch))
    except UserError:
        raise
    except Exception as error:
        traceback.print_exc()
        print(f"{run.name}: failed: {in_a_line(error)}", file=sys.stderr, flush=True)
        with processes.shared_entry(folder) as made:
            write_failure(plan, run, results, made, checkpoints, error)


def adapter_key(plan: Plan, run: Run, resources: Path, results: Path) -> str:
    """Hash of all that a trained adapter depends on: settings, code, packages, training data, base weights."""
    return hash_of(
        {
            "settings": training_settings(plan, run),
            "code": code_hash("sbora_bench.train.finetune"),
            "packages": provenance.versions(),
            "data": sha256(training_file(plan, results, run)),
            "base": prepared_for(plan, run.model, resources),
            **({"processes": processes.count()} if processes.count() > 1 else {}),
        }
    )


def train_run(
    plan: Plan,
    run: Run,
    resources: Path,
    results: Path,
    made: Path,
    checkpoints: Path,
    rows: int,
    too_many: Sequence[int] = (),
) -> dict[str, Any]:
    """Train one run into the folder `made`: `adapter/` and `train.json`, whose figures it returns.

    `rows`: of a micro-batch that go through the model at a time; `too_many`: those that memory did not suffice for.
    Raises TrainingFailed where the loss or a weight is no number, UserError where rows, positions or processes don't
    fit the protocol, Terminated on SIGTERM.
    """
    assert run.rank is not None and run.seed is not None, run.name
    settle("transformers.trainer", "peft", "datasets")
    protocol = plan.protocol_of(run)
    method = plan.catalog.methods[run.method]
    _set_up_torch(protocol.threads, run.seed)
    pad_token = plan.catalog.models[run.model].pad_token
    tokenizer = load_tokenizer(resources, run.model, protocol, pad_token)
    base = load_base(resources, run.model, protocol, method, tokenizer)
    tokenizer_key = [prepared_files(resources, run.model), protocol.pad, pad_token]
    encoded, too_long = training_rows(tokenizer, training_file(plan, results, run), protocol, tokenizer_key)
    _report_too_long(run, too_long, protocol)
    check_positions(encoded, base, run.name)
    train, validation = split(encoded, protocol, run.seed)
    processes.check(len(train), protocol, method)
    config = adapter_config(method, run.rank, run.seed, protocol, batches.update_steps(len(train), protocol))
    model = _adapted(base, config, method, train, protocol, run.seed, tokenizer.pad_token_id)
    trainable, total = model.get_nb_trainable_parameters()
    tokens_to_check = token_choice(train[0]["input_ids"], model.config.get_text_config().vocab_size, config)
    logits_before = logits_of(model, *tokens_to_check)
    reset_peak_memory()
    trainer = build_trainer(model, tokenizer, train, validation, protocol, run, checkpoints, rows, method)
    resumed = newest(checkpoints)
    tokens_before = read_json(resumed / "trainer_state.json")["num_input_tokens_seen"] if resumed else 0
    with first_values(model) as values:
        seconds = _train(trainer, run, resumed, checkpoints)
        logits_after = logits_of(_as_scored(trainer), *tokens_to_check)
        sharded = trainer.accelerator.get_state_dict(trainer.model_wrapped) if processes.sharded() else None
        save_adapter(model, made / ADAPTER, run.model, sharded, values)
    write_logits(made / ADAPTER, *tokens_to_check, logits_before, logits_after)
    figures = {
        **_figures(trainer.state, seconds, tokens_before),
        "resumed_from_step": step_of(resumed) if resumed else 0,
        "examples": batches.examples_seen(len(train), trainer.state.global_step, protocol),
        "micro_batch": rows,
        "accumulation": batches.accumulation(protocol) * math.ceil(protocol.micro_batch / rows),
        "out_of_memory_with": list(too_many),
        "trainable_parameters": trainable,
        "total_parameters": total,
    }
    happened = figures | {
        "too_long": too_long if too_long.rows else None,
        "adapter_sha256": {path.name: sha256(path) for path in sorted((made / ADAPTER).iterdir())},
        "loss_curve": logged_losses(trainer.state.log_history),
    }
    write_record(made / TRAINING, train_record(plan, run, results, happened))
    return figures


def _figures(state: "TrainerState", seconds: float, tokens_before: int) -> dict[str, Any]:
    """Steps, tokens, time and memory of a training: so many seconds since its start, or since the checkpoint with
    `tokens_before` that it went on from.
    """
    tokens = int(state.num_input_tokens_seen)
    return {
        "steps": state.global_step,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round((tokens - tokens_before) / seconds, 1),
        "peak_memory_bytes": peak_memory(),
        "best_checkpoint_step": state.best_global_step,
    }


def _set_up_torch(threads: int, seed: int) -> None:
    """Threads, deterministic algorithms and seed of a run."""
    import torch
    from transformers import set_seed

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        provenance.use_deterministic_algorithms()
    else:  # a fixed number of threads is enough; a run that was scored before in this process has set them
        torch.use_deterministic_algorithms(False)
    set_seed(seed)


def _report_too_long(run: Run, too_long: TooLong, protocol: Protocol) -> None:
    if too_long.rows:
        print(
            f"{run.name}: {too_long.rows:,} training rows have more tokens than max_length {protocol.max_length}:"
            f" {too_long.cut:,} cut, {too_long.dropped:,} left out",
            file=sys.stderr,
            flush=True,
        )


def _adapted(
    base: "PreTrainedModel",
    config: "PeftConfig",
    method: MethodEntry,
    train: "Dataset",
    protocol: Protocol,
    seed: int,
    pad_token_id: int,
) -> "PeftModel":
    """The base with a new adapter, of values that come from the seed and, for some methods, from the training rows.

    Raises TrainingFailed where the method can't start on them.
    """
    from transformers import set_seed

    choose_index_sets(base, config, train, protocol, pad_token_id)
    set_seed(seed)
    first = partial(first_batches, train, protocol.micro_batch, pad_token_id, base.device)
    try:
        model = adapted(base, method, config, protocol, first)
    except UserError as error:  # this run's alone: its siblings go on
        raise TrainingFailed(str(error), {"step": 0}) from error
    model.create_or_update_model_card = lambda folder: None  # `cards` writes one; PEFT's takes longer than an update
    return model


class TrainingFailed(Exception):
    """Training ended early, with the first error's line; `happened`: the step that it got to and its loss curve."""

    def __init__(self, reason: str, happened: dict[str, Any]) -> None:
        super().__init__(reason)
        self.happened = happened


def _train(trainer: Any, run: Run, resumed: Path | None, checkpoints: Path) -> float:
    """Train, from the checkpoint `resumed` on if there is one; how many seconds that took.

    Raises TrainingFailed, where the weights end up infinite or NaN too.
    """
    started = time.perf_counter()
    try:
        with progress.loop("finetune", run.name, step=step_of(resumed) if resumed else 0, steps=trainer.args.max_steps):
            with trainer.termination.by_sigterm():
                trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
            check_finite(trainer.model, trainer.state.global_step)
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if disk_error(error, checkpoints) is not error:
            raise disk_error(error, checkpoints) from error
        happened = {"step": trainer.state.global_step, "loss_curve": logged_losses(trainer.state.log_history)}
        raise TrainingFailed(in_a_line(error), happened) from error
    return time.perf_counter() - started


def _as_scored(trainer: Any) -> "torch.nn.Module":
    """The trained model as it is scored: without autocast, which accelerate puts on it; sharded, as FSDP has it."""
    if processes.sharded():
        return trainer.model_wrapped
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
