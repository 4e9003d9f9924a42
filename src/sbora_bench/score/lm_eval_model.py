"""lm-eval's `HFLM` with the decoding that the paper's protocol needs.

Three things differ from the stock class. Beams end by the EOS id alone and stop strings are cut afterwards: the stock
class makes EOS a stop string, whose criterion looks at the first candidates only and changes beam search. Batches are
padded on the left whatever the tokenizer does, with an explicit mask and the positions that follow from it. A
one-letter continuation is one token, chosen by the protocol (MMLU).
"""

import contextlib
import string
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator
from tqdm import tqdm
from transformers import GenerationConfig

from sbora_bench.errors import UserError
from sbora_bench.results.records import ModelCheck

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase


class Scorer(HFLM):
    """A causal model in memory, as lm-eval's tasks ask it."""

    def __init__(
        self, model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase", batch_size: int, max_length: int
    ) -> None:
        with _left_alone(model):
            super().__init__(
                pretrained=model,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_size,
                max_length=max_length,
            )
        self.model_check: ModelCheck | None = None  # of a model with an adapter
        self.tokens: dict[str, int] = {}
        self.label = "scoring"

    def context_ids(self, context: str) -> list[int]:
        """The prompt's token ids, without the EOS that some tokenizers put at the end; of an empty one BOS or EOS."""
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids

    def padded(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `position_ids`, each (rows, longest), padded on the left."""
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        named = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return {name: value.to(self.device) for name, value in named.items()}

    def generate_ids(self, rows: list[list[int]], max_new_tokens: int, **settings: Any) -> list[list[int]]:
        """New token ids of each prompt, up to the EOS and with it. `settings`: of transformers' GenerationConfig."""
        inputs = self.padded(rows)
        eos = self.tokenizer.eos_token_id
        config = GenerationConfig(
            **{"do_sample": False, "use_cache": True, **settings},
            max_new_tokens=max_new_tokens,
            eos_token_id=eos,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        made = self.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :].tolist()
        return [new[: new.index(eos) + 1] if eos in new else new for new in made]

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """The generated texts, in the order of the requests; `self.tokens` gets each prompt's number of new tokens."""
        arguments = [request.args for request in requests]
        encoded = {context: self.context_ids(context) for context, _ in arguments}
        batches = Collator(
            arguments,
            sort_fn=lambda pair: (-len(encoded[pair[0]]), pair[0]),
            group_by="gen_kwargs",
            group_fn=lambda pair: pair[1],
        )
        texts: list[str] = []
        with self._progress(len(requests), disable_tqdm) as bar:
            for batch in batches.get_batched(n=self.batch_size):
                contexts, settings = [context for context, _ in batch], dict(batch[0][1])
                until, skip = settings.pop("until", []), settings.pop("skip_special_tokens", True)
                room = settings.pop("max_gen_toks")
                kept = max(self.max_length - room, 1)
                room = max(1, min(room, self.max_length - kept))
                rows = [encoded[context][-kept:] for context in contexts]
                for context, new in zip(contexts, self.generate_ids(rows, room, **settings), strict=True):
                    self.tokens[context] = len(new)
                    texts.append(_cut(self.tok_decode(new, skip_special_tokens=skip), until))
                bar.update(len(contexts))
        return batches.get_original(texts)

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation and whether it is the likeliest; a letter is one token after the prompt.

        A prompt before a letter keeps its first `max_length` tokens (authors' code).
        """
        encoded: dict[str, list[int]] = {}
        rows = []
        for context, continuation in (request.args for request in requests):
            letter = continuation.strip()
            if len(letter) == 1 and letter in string.ascii_uppercase:
                if context not in encoded:
                    encoded[context] = self.context_ids(context)[: self.max_length]
                pair = encoded[context], [self.letter_id(continuation)]
            else:
                pair = self._encode_pair(context, continuation) if context else self._alone(continuation)
                self.tokens[context + continuation] = len(pair[1])
            rows.append(((context, continuation), *pair))
        return self._loglikelihood_tokens(rows, disable_tqdm)

    def _alone(self, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a text that nothing stands before: after BOS or EOS, as lm-eval has it."""
        return [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)

    def letter_id(self, letter: str) -> int:
        """Token id of `"A"` (its first token: LLaMA's has the space in it) or of `" A"` (its last).

        Raises UserError if the tokenizer doesn't know the letter.
        """
        ids = self.tokenizer(letter, add_special_tokens=False)["input_ids"]
        found = ids[-1] if letter[0].isspace() else ids[0]
        if found == self.tokenizer.unk_token_id:
            raise UserError(f"tokenizer: no token for {letter!r}; its tasks can't be scored by their letters")
        return found

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if any(len(continuation) != 1 for _, _, continuation in requests):
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        contexts = sorted({tuple(context) for _, context, _ in requests}, key=lambda ids: (-len(ids), ids))
        scores: dict[tuple[int, ...], torch.Tensor] = {}
        with self._progress(len(contexts), disable_tqdm) as bar, torch.inference_mode():
            for start in range(0, len(contexts), self.batch_size):
                batch = contexts[start : start + self.batch_size]
                inputs = self.padded([list(ids) for ids in batch])
                logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
                scores.update(zip(batch, logits.double().log_softmax(-1).cpu(), strict=True))
                bar.update(len(batch))
        return [_token_score(scores[tuple(context)], token) for _, context, (token,) in requests]

    def _progress(self, total: int, disable: bool) -> tqdm:
        often = 0.1 if sys.stderr.isatty() else 30
        return tqdm(total=total, desc=self.label, unit="item", disable=disable, delay=5, mininterval=often)


@contextlib.contextmanager
def _left_alone(model: torch.nn.Module) -> Iterator[None]:
    """While the block runs nothing ties the model's weights: HFLM would tie a trained embedding or head to the other,
    and score another model than was trained.
    """
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights


def _token_score(log_probabilities: torch.Tensor, token: int) -> tuple[float, bool]:
    return float(log_probabilities[token]), int(log_probabilities.argmax()) == token


def _cut(text: str, until: list[str] | Any) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
