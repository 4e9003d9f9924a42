"""lm-eval's `HFLM` with the decoding that the paper's protocol needs.

Three things differ from the stock class. Beams end by the EOS id alone and stop strings are cut afterwards: the stock
class makes EOS a stop string, whose criterion looks at the first candidates only and changes beam search. Batches are
padded on the left whatever the tokenizer does, with an explicit mask and the positions that follow from it. A
one-letter continuation is one token, chosen by the protocol (MMLU).
"""

import contextlib
import functools
import string
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator, has_bos_prefix
from tqdm import tqdm
from transformers import GenerationConfig

from sbora_bench.errors import UserError
from sbora_bench.results.records import ModelCheck
from sbora_bench.score.shared_prefixes import PrefixReader, Row, halving, keeps_all

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

    from sbora_bench.inputs.models.scored_rows import RowsAt

T = TypeVar("T")


class Scorer(HFLM):
    """A causal model in memory, as lm-eval's tasks ask it."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int,
        max_length: int,
        shared_prefixes: bool = False,
        rows_at: "RowsAt | None" = None,
    ) -> None:
        """`shared_prefixes`: prompts that begin alike have that read once, where a likelihood is wanted; `rows_at`: how
        many go through the model at a time, by their length, in place of `batch_size`.
        """
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
        self.cut: set[str] = set()  # prompts that didn't go through the model whole
        self.label = "scoring"
        virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
        self.shared_prefixes = shared_prefixes and not virtual  # virtual tokens would stand before the padding
        self.rows_at = rows_at
        self.read = 0  # tokens that went through the model for likelihoods, where prefixes are shared

    def rows_for(self, length: int, read: int = 1, beams: int = 1) -> int:
        """Rows of a batch whose longest has `length` tokens, of which the logits at `read` are wanted."""
        return self.batch_size if self.rows_at is None else self.rows_at(length, read=read, beams=beams)

    def in_batches(self, rows: list[T], length: Callable[[T], int], read: int = 1, beams: int = 1) -> Iterator[list[T]]:
        """`rows`, longest first by `length` in tokens, in batches."""
        start = 0
        while start < len(rows):
            size = self.rows_for(length(rows[start]), read, beams)
            yield rows[start : start + size]
            start += size

    def prefix_reader(self, rows: list[Row]) -> PrefixReader:
        """What reads `rows`, as many tokens at a time as a batch of the longest has; by memory, as fit whatever their
        length: the shorter a row, the more of it are logits.
        """
        longest = max(len(row.ids) for row in rows)
        tokens = [self.rows_for(len(row.ids), row.needed) * len(row.ids) for row in rows] if self.rows_at else []
        budget = max(longest, min(tokens)) if tokens else self.batch_size * longest
        return PrefixReader(self.model, self.padded, budget, self.keeps_all)

    @functools.cached_property
    def keeps_all(self) -> bool:
        """Whether a common beginning of rows can be read once. Asked once: it takes a pass through the model."""
        return keeps_all(self.model, self.padded)

    def context_ids(self, context: str) -> list[int]:
        """The prompt's token ids, without the EOS that some tokenizers put at the end; of an empty one BOS or EOS."""
        return self.ids_of_contexts([context])[context]

    def ids_of_contexts(self, contexts: Iterable[str]) -> dict[str, list[int]]:
        """Of each distinct prompt `context_ids`. One call for all: the tokenizer then uses every core."""
        special = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        prefix, eos = self.tokenizer.decode(self.prefix_token_id), self.tokenizer.eos_token_id
        distinct = list(dict.fromkeys(contexts))
        encoded: dict[str, list[int]] = {}
        begun = [context for context in distinct if has_bos_prefix(context, prefix)]
        bare = [context for context in distinct if not has_bos_prefix(context, prefix)]
        for texts, settings in ((bare, special), (begun, {"add_special_tokens": False})):
            if texts:
                encoded |= zip(texts, self.tokenizer(texts, **settings)["input_ids"], strict=True)
        return {
            context: ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids or [self.prefix_token_id]
            for context, ids in encoded.items()
        }

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
        encoded = self.ids_of_contexts(context for context, _ in arguments)
        groups = Collator(
            arguments,
            sort_fn=lambda pair: (-len(encoded[pair[0]]), pair[0]),
            group_by="gen_kwargs",
            group_fn=lambda pair: pair[1],
        )
        texts: list[str] = []
        with self._progress(len(requests), disable_tqdm) as bar:
            for group in groups.get_batched(n=len(requests)):
                settings = dict(group[0][1])
                until, skip = settings.pop("until", []), settings.pop("skip_special_tokens", True)
                room = settings.pop("max_gen_toks")
                prompt_room = max(self.max_length - room, 1)
                room = max(1, min(room, self.max_length - prompt_room))
                rows = [(context, encoded[context][-prompt_room:]) for context, _ in group]
                self.cut |= {context for context, _ in group if len(encoded[context]) > prompt_room}
                beams = settings.get("num_beams", 1)
                for batch in self.in_batches(rows, lambda row: len(row[1]) + room, beams=beams):  # noqa: B023
                    made = halving(lambda part: self.generate_ids(part, room, **settings), [ids for _, ids in batch])  # noqa: B023
                    for (context, _), new in zip(batch, (new for _, news in made for new in news), strict=True):
                        self.tokens[context] = len(new)
                        texts.append(_cut(self.tok_decode(new, skip_special_tokens=skip), until))
                    bar.update(len(batch))
        return groups.get_original(texts)

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation and whether it is the likeliest; a letter is one token after the prompt.

        A prompt before a letter keeps its first `max_length` tokens (authors' code).
        """
        arguments = [request.args for request in requests]
        letters = {letter: self.letter_id(letter) for letter in {text for _, text in arguments if _is_letter(text)}}
        encoded = self.ids_of_contexts(context for context, continuation in arguments if continuation in letters)
        self.cut |= {context for context, ids in encoded.items() if len(ids) > self.max_length}
        first = {context: ids[: self.max_length] for context, ids in encoded.items()}
        rows = []
        for context, continuation in arguments:
            if continuation in letters:
                pair = first[context], [letters[continuation]]
            else:
                pair = self._encode_pair(context, continuation) if context else self._alone(continuation)
                if len(pair[0]) + len(pair[1]) > self.max_length + 1:
                    self.cut.add(context)
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
        token = ids[-1] if letter[0].isspace() else ids[0]
        if token == self.tokenizer.unk_token_id:
            raise UserError(f"tokenizer: no token for {letter!r}; its tasks can't be scored by their letters")
        return token

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self.shared_prefixes:
            return self._with_shared_prefixes(requests, disable_tqdm)
        if any(len(continuation) != 1 for _, _, continuation in requests):
            if self.rows_at is not None:  # the stock class has one size for all, and reads the logits of all positions
                longest = min(max(len(context) + len(more) for _, context, more in requests), self.max_length)
                self.batch_size_per_gpu = self.rows_for(longest, longest)
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        asked = _numbers_by_row(tuple(context) for _, context, _ in requests)
        contexts = sorted(asked, key=lambda ids: (-len(ids), ids))
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with self._progress(len(contexts), disable_tqdm) as bar, torch.inference_mode():
            for batch in self.in_batches(contexts, len):
                inputs = self.padded([list(ids) for ids in batch])
                logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits
                for ids, values in zip(batch, logits.double().log_softmax(-1).cpu(), strict=True):
                    tokens = [requests[number][2] for number in asked[ids]]
                    for number, score in zip(asked[ids], continuation_scores(values, tokens), strict=True):
                        scores[number] = score
                bar.update(len(batch))
        return scores

    def _with_shared_prefixes(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """As lm-eval scores them: of a continuation the last `max_length` tokens, its prompt cut on the left."""
        inputs = [tuple([*context, *more][-(self.max_length + 1) : -1]) for _, context, more in requests]
        continuations = [more[-len(ids) :] for ids, (_, _, more) in zip(inputs, requests, strict=True)]
        asked = _numbers_by_row(inputs)
        rows = [Row(ids, max(len(continuations[number]) for number in numbers)) for ids, numbers in asked.items()]
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(requests)

        def take(place: int, values: torch.Tensor) -> None:
            numbers = asked[rows[place].ids]
            of_row = continuation_scores(values, [continuations[number] for number in numbers])
            for number, score in zip(numbers, of_row, strict=True):
                scores[number] = score

        reader = self.prefix_reader(rows)
        with self._progress(len(rows), disable_tqdm) as bar:
            reader.each_row(rows, take, bar.update)
        self.read += reader.read
        return scores

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


def _is_letter(continuation: str) -> bool:
    letter = continuation.strip()
    return len(letter) == 1 and letter in string.ascii_uppercase


def _numbers_by_row(rows: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Distinct row -> the places at which it stands."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, ids in enumerate(rows):
        numbers.setdefault(ids, []).append(number)
    return numbers


def continuation_scores(values: torch.Tensor, continuations: list[list[int]]) -> list[tuple[float, bool]]:
    """Log-probability of each continuation and whether each of its tokens is the likeliest.

    `values` (places, vocabulary): log-probabilities; a continuation's tokens are those of the last places.
    """
    likeliest = values.argmax(-1).tolist()
    scores = []
    for tokens in continuations:
        of_tokens = values[-len(tokens) :].gather(1, torch.tensor(tokens)[:, None])
        scores.append((float(of_tokens.sum()), likeliest[-len(tokens) :] == tokens))
    return scores


def _cut(text: str, until: list[str] | Any) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
