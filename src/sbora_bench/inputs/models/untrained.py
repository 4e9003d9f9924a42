"""Bases with random weights, for rehearsals: LLaMA's architecture at any size, a tokenizer like LLaMA's or Llama-3's.

The tokenizers are small BPEs, trained here on one short text, that treat spaces and special tokens as the real ones do.
"""

import string
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sbora_bench.errors import UserError
from sbora_bench.plan.model_entry import ModelEntry, RandomSource

TEXT = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: Please answer the following question with true or false. ### Input: ### Response:",
    "the correct answer is true the correct answer is solution1 the answer is (A) (B) (C) (D)! A B C D",
    "Answer: A Answer: B Answer: C Answer: D The following are multiple choice questions (with answers) about",
    "There were 6 roses in the vase. Mary cut some more, so 16 - 6 = 10.",
] * 4


def _trainer(**arguments: Any) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=600, show_progress=False, **arguments)


def llama() -> PreTrainedTokenizerFast:
    """A space is put before every text, also after a special token; `<s>` before, nothing after; no pad token."""
    special = ["<unk>", "<s>", "</s>"]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.train_from_iterator(TEXT, _trainer(special_tokens=special, initial_alphabet=list(string.printable)))
    made.pre_tokenizer = None
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def llama3() -> PreTrainedTokenizerFast:
    """Bytes, the space a part of the word after it; `<|begin_of_text|>` before, nothing after; id 0 is "!", no unk."""
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(TEXT, _trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([bos, eos])
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos)


TOKENIZERS = {"llama": llama, "llama3": llama3}


def write_untrained(entry: ModelEntry, folder: Path) -> dict[str, int]:
    """Save config, random weights (float32, the source's seed) and tokenizer; the same bytes each time.

    Returns what to say of it. Raises UserError where the architecture's vocabulary isn't the tokenizer's, which would
    keep a new [PAD] from growing the embeddings as it does on the real models.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    assert isinstance(entry.source, RandomSource), entry.title
    tokenizer = TOKENIZERS[entry.source.tokenizer]()
    size, expected = entry.architecture.get("vocab_size"), len(tokenizer)
    if size != expected:
        raise UserError(f"model {entry.title}: architecture.vocab_size: found {size}, its tokenizer has {expected}")
    torch.manual_seed(entry.source.seed)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = LlamaForCausalLM(LlamaConfig(**(entry.architecture | special)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "training_steps": 0}
