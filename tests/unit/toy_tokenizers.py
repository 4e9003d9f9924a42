"""Two small BPE tokenizers with the special tokens of LLaMA's and of Llama-3's, trained here on one text."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: Please answer the following question with true or false. ### Input: ### Response:",
    "the correct answer is true the correct answer is solution1 the answer is (A) (B) (C) (D)! A B C D",
    "Answer: A Answer: B Answer: C Answer: D The following are multiple choice questions (with answers) about",
    "There were 6 roses in the vase. Mary cut some more, so 16 - 6 = 10.",
] * 4


def trainer(**arguments) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=600, show_progress=False, **arguments)


def llama() -> PreTrainedTokenizerFast:
    """A space is put before every text, also after a special token; `<s>` before, nothing after; no pad token."""
    special = ["<unk>", "<s>", "</s>"]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.train_from_iterator(TEXT, trainer(special_tokens=special, initial_alphabet=list(string.printable)))
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
    made.train_from_iterator(TEXT, trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([bos, eos])
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos)


KINDS = {"llama": llama, "llama3": llama3}
