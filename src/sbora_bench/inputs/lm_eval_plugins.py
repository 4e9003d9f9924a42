"""What our task templates need of lm-eval beyond its own: two filters, three metrics, registered by importing this."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from lm_eval.api import metrics  # noqa: F401  (registers the averages, which ours name)
from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter, register_metric

from sbora_bench.inputs import extraction


@register_filter("response")
class Response(Filter):
    """Cuts at the prompt's header, where the model wrote it again."""

    def __init__(self, keep: str) -> None:
        self.keep = keep

    def apply(self, resps: Iterable[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
        return [[extraction.response(text, self.keep) for text in texts] for texts in resps]


@register_filter("extract")
class Extract(Filter):
    """Reads the answer out by a rule of `extraction.py`."""

    def __init__(self, rule: extraction.Rule) -> None:
        self.rule = rule

    def apply(self, resps: Iterable[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
        return [[extraction.extract(text, self.rule) for text in texts] for texts in resps]


@register_metric(metric="within_tolerance", higher_is_better=True, output_type="generate_until", aggregation="mean")
def within_tolerance(references: list[str], predictions: list[str], tolerance: float) -> float:
    """1.0 if the predicted number is at most `tolerance` from the reference, else 0.0."""
    difference = extraction.number(references[0]) - extraction.number(predictions[0])
    return float(abs(difference) <= tolerance)


@register_metric(metric="same_answer", higher_is_better=True, output_type="generate_until", aggregation="mean")
def same_answer(references: list[str], predictions: list[str]) -> float:
    """1.0 if both are the same number or, where they are none, the same text; else, or without a prediction, 0.0."""
    values = [extraction.answer_value(texts[0]) for texts in (references, predictions)]
    return float(predictions[0] != "" and values[0] == values[1])


@register_metric(metric="token_f1", higher_is_better=True, output_type="generate_until", aggregation="mean")
def token_f1(references: list[str], predictions: list[str]) -> float:
    """Overlap of the words of answer and reference, in [0, 1]: harmonic mean of precision and recall."""
    reference, prediction = (Counter(texts[0].lower().split()) for texts in (references, predictions))
    shared = (reference & prediction).total()
    return 2 * shared / (reference.total() + prediction.total()) if shared else 0.0
