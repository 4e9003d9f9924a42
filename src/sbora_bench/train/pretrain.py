"""Stage: train one of the ladder's tiny LLaMA bases from nothing on the synthetic corpus.

Command: sbora-bench pretrain MODEL --output FOLDER

Killed and started again, it goes on from its last whole checkpoint (checkpoints.py) to the same bits: weights, AdamW's
moments and torch's generator in safetensors, losses and counts in JSON, in `<output>.checkpoints/<hash of all that they
belong to>/`, until the base is finished.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sbora_bench import files, progress, provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import UserError
from sbora_bench.inputs.data import corpus
from sbora_bench.plan.model_entry import PretrainSource, ShippedSource
from sbora_bench.results import store
from sbora_bench.results.folders import BASE
from sbora_bench.results.records import BaseRecord, write_record
from sbora_bench.train.callbacks import TerminationCallback, check_finite, check_loss
from sbora_bench.train.checkpoints import keep_newest, newest, step_of

IGNORED = -100  # as in encoding.py, an edit of which trains no base anew
BUCKET = 40
"""Batches that are sorted by length together, so that a batch is padded little."""
LOGGED = 50  # steps from one loss that is kept to the next
TENSORS, COUNTS = "training.safetensors", "counts.json"
ADAM = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight


class Recipe(BaseModel):
    """How a base is trained; counts are of optimiser steps and of documents."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    steps: int = Field(ge=1)
    choices_first: int = Field(ge=0, description="first steps, whose documents are choices by knowledge alone")
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    offset: float = Field(default=0.04, ge=0, description="std of a vector added to all embeddings at the start")
    attention_scale: float = Field(default=6.0, gt=0, description="factor on the initial query and key weights")
    held_out: int = Field(default=500, ge=1, description="documents from another seed, for the accuracy")
    checkpoint_every: int = Field(default=100, ge=1, description="steps, to go on after an interruption")


def _encoded(documents: list[corpus.Document], tokenizer: PreTrainedTokenizerFast) -> list[dict[str, list[int]]]:
    """Token ids of each document with the end token, and its labels, which leave the prompt out."""
    prompts = tokenizer([p for p, _ in documents], add_special_tokens=False)["input_ids"]
    responses = tokenizer([r for _, r in documents], add_special_tokens=False)["input_ids"]
    learned = [[*response, tokenizer.eos_token_id] for response in responses]
    return [{"input_ids": p + r, "labels": [IGNORED] * len(p) + r} for p, r in zip(prompts, learned, strict=True)]


def _batch(rows: list[dict[str, list[int]]], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (rows, longest row); the labels leave padding out too."""
    padded = DataCollatorForSeq2Seq(tokenizer)(rows)
    return padded["input_ids"], padded["labels"]


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, begun: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `steps` pairs of token ids and labels, without the first `begun`, whose documents need no encoding."""
    documents = corpus.corpus(recipe.seed, recipe.choices_first * recipe.batch, recipe.steps * recipe.batch)
    rng = random.Random(recipe.seed)
    while chunk := list(islice(documents, BUCKET * recipe.batch)):
        starts = list(range(0, len(chunk), recipe.batch))
        rng.shuffle(starts)
        left, begun = starts[begun:], max(0, begun - len(starts))
        rows = sorted(_encoded(chunk, tokenizer), key=lambda row: len(row["input_ids"])) if left else []
        for start in left:
            yield _batch(rows[start : start + recipe.batch], tokenizer)


@torch.no_grad()
def held_out_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> float:
    """Share of `count` unseen documents whose whole response is the most probable one, token by token."""
    rows = _encoded(list(corpus.corpus(seed, 0, count)), tokenizer)
    ids, labels = _batch(rows, tokenizer)
    guess = model(input_ids=ids[:, :-1]).logits.argmax(-1)
    expected = labels[:, 1:]
    return float(((guess == expected) | (expected == IGNORED)).all(-1).float().mean())


@torch.no_grad()
def _sharpen(model: LlamaForCausalLM, recipe: Recipe) -> None:
    """Start with attention that can tell positions apart: LLaMA has no biases, so only a part that all embeddings
    share lets a head look at "the token before" whatever it is; choosing an option's label is learnt from that."""
    embeddings = model.model.embed_tokens.weight
    embeddings += recipe.offset * torch.randn(embeddings.shape[1])
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight *= recipe.attention_scale
        layer.self_attn.k_proj.weight *= recipe.attention_scale


def _built(architecture: dict[str, Any], recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model before its first step. Raises UserError where it has fewer tokens than the tokenizer."""
    special = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("bos", "eos", "pad")}
    if architecture.get("vocab_size", len(tokenizer)) < len(tokenizer):
        raise UserError(
            f"architecture: vocab_size: found {architecture['vocab_size']}, allowed {len(tokenizer)} or more"
            " (the ladder's tokenizer)"
        )
    model = LlamaForCausalLM(LlamaConfig(**{"vocab_size": len(tokenizer), **special, **architecture}))
    _sharpen(model, recipe)
    return model


def _optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay, "initial_lr": recipe.learning_rate},
        {"params": others, "weight_decay": 0.0, "initial_lr": recipe.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def _schedule(optimizer: torch.optim.AdamW, recipe: Recipe, begun: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up, then linear decay to 0; as it is after `begun` steps."""

    def rate(step: int) -> float:
        if step < recipe.warmup:
            return (step + 1) / recipe.warmup
        return (recipe.steps - step) / max(1, recipe.steps - recipe.warmup)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate, last_epoch=begun - 1)


def pretrain_model(catalog: Any, model: str, output: Path, threads: int = 1) -> None:
    """Train the catalog's `model` into `output`; `base.json`, written last, has its summary and the files' SHA-256.

    Raises UserError where the model isn't one that is pre-trained here or where its loss diverges, Terminated on
    SIGTERM, after a checkpoint.
    """
    entry = catalog.models[model]
    if not isinstance(entry.source, PretrainSource | ShippedSource):
        raise UserError(
            f"model {model!r}: its source is {entry.source.kind!r}, only 'pretrain' and 'shipped' are trained here"
        )
    with store.entry_lock(output):
        try:
            summary = pretrain(entry.architecture, entry.source.recipe, output, threads)
        except FloatingPointError as error:
            raise UserError(f"{model}: pre-training failed: {error}; lower its recipe's learning_rate, say") from None
        hashes = {path.name: files.sha256(path) for path in sorted(output.iterdir())}
        source = entry.source.model_dump(mode="json")
        write_record(output / BASE, BaseRecord(model=model, source=source, files=hashes, summary=summary))
        shutil.rmtree(store.checkpoints_of(output), ignore_errors=True)


def base_key(architecture: dict[str, Any], recipe: Recipe, threads: int) -> str:
    """Hash of all that the bits of a base depend on."""
    return files.hash_of(
        {
            "architecture": architecture,
            "recipe": recipe.model_dump(),
            "threads": threads,
            "code": code_hash("sbora_bench.train.pretrain"),
            "packages": provenance.versions(),
        }
    )


def _save(folder: Path, step: int, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, counts: dict) -> None:
    """Write `checkpoint-<step>`, whole or not at all. Raises UserError where the disk is full."""
    tensors = {"generator": torch.get_rng_state()}
    for name, weight in model.named_parameters():
        tensors[f"weight.{name}"] = weight.detach()
        tensors |= {f"{key}.{name}": optimizer.state[weight][key] for key in ADAM}
    size = sum(tensor.nbytes for tensor in tensors.values())
    with store.new_entry(folder / f"checkpoint-{step}", f"about {size:,}") as made:
        save_file(tensors, made / TENSORS)
        files.write_json(made / COUNTS, counts)
    keep_newest(folder)


@torch.no_grad()
def _restore(checkpoint: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Bring weights, optimizer and torch's generator to where a checkpoint was; returns its counts."""
    tensors = load_file(checkpoint / TENSORS)
    for name, weight in model.named_parameters():
        weight.copy_(tensors[f"weight.{name}"])
        optimizer.state[weight] = {key: tensors[f"{key}.{name}"] for key in ADAM}
    torch.set_rng_state(tensors["generator"])
    return files.read_json(checkpoint / COUNTS)


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.AdamW,
    recipe: Recipe,
    run: str,
    checkpoints: Path,
    begun: int,
    counts: dict[str, Any],
    started: float,
) -> None:
    """All updates after the first `begun`; losses and tokens go to `counts`, `started` is when its `seconds` began.

    Raises FloatingPointError where the loss diverges, Terminated on SIGTERM, after a checkpoint.
    """
    schedule = _schedule(optimizer, recipe, begun)
    model.train()
    termination = TerminationCallback()
    shown = tqdm(batches(recipe, tokenizer, begun), "pre-training", recipe.steps, initial=begun, mininterval=5)
    with termination.by_sigterm():
        for step, (ids, labels) in enumerate(shown, begun + 1):
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            counts["tokens"] += ids.numel()
            logged, stop = step % LOGGED == 1 or step == recipe.steps, termination.requested
            saved = stop or step % recipe.checkpoint_every == 0
            if logged or saved:
                loss_now = round(loss.item(), 4)
                progress.write("pretrain", run, "step", step=step, steps=recipe.steps, loss=loss_now)
                check_loss(step, loss_now, norm.item(), len(tokenizer))
                if logged:
                    counts["loss"].append(loss_now)
            if saved:
                counts["seconds"] = time.perf_counter() - started
                _save(checkpoints, step, model, optimizer, counts)
            if stop:
                break
    check_finite(model, recipe.steps)


def pretrain(architecture: dict[str, Any], recipe: dict[str, Any], output: Path, threads: int = 1) -> dict[str, Any]:
    """Train one LlamaForCausalLM (fp32, AdamW, linear decay) and save weights, config and tokenizer in `output`.

    `architecture` has keys of LlamaConfig, `recipe` those of Recipe. The same arguments give the same bytes on
    one machine. Returns steps, tokens, seconds (up to the checkpoint that it went on from, and since then), the loss of
    every 50th step and the held-out accuracy. Raises FloatingPointError where the loss diverges, Terminated on SIGTERM.
    """
    checked = Recipe.model_validate(recipe)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(checked.seed)
    started = time.perf_counter()
    tokenizer = corpus.tokenizer()
    model = _built(architecture, checked, tokenizer)
    optimizer = _optimizer(model, checked)
    checkpoints = store.checkpoints_of(output) / base_key(architecture, checked, threads)[:16]
    resumed = newest(checkpoints)
    counts: dict[str, Any] = {"loss": [], "tokens": 0, "seconds": 0.0}
    if resumed:
        counts = _restore(resumed, model, optimizer)
    started -= counts["seconds"]
    begun = step_of(resumed) if resumed else 0
    with progress.loop("pretrain", output.name, step=begun, steps=checked.steps):
        _train(model, tokenizer, optimizer, checked, output.name, checkpoints, begun, counts, started)
    model.eval()
    accuracy = held_out_accuracy(model, tokenizer, checked.held_out, checked.seed + 1)
    summary = {
        "steps": checked.steps,
        "tokens": counts["tokens"],
        "seconds": round(time.perf_counter() - started, 1),
        "loss": counts["loss"],
        "held_out_accuracy": accuracy,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    with files.whole_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return summary
