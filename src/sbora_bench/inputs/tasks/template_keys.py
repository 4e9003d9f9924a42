"""The keys of a template that decide what is scored, typed, and those of lm-eval that are not read here, with the cure.

lm-eval takes a template's keys as they come: what is of another type fails later, or means something else.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sbora_bench.errors import UserError
from sbora_bench.plan.explain import explain

ITEMS = (
    "not read here; take the key out and name the items in the task's `items`, a data entry of the catalog"
    " ({path: my.jsonl} is one)"
)
CODE = "names code to run, which a template may not; say it in Jinja, or prepare the items' columns beforehand"
NOT_READ = dict.fromkeys(
    ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "training_split", "validation_split"), ITEMS
)
NOT_READ |= dict.fromkeys(("process_docs", "process_results", "doc_to_image", "doc_to_audio"), CODE)
NOT_READ |= {
    "include": "not read here; copy that file's keys into this one",
    "group": "a template is one task; name several under a suite's `tasks`",
    "max_new_tokens": "say max_gen_toks in generation_kwargs, or max_new_tokens in the catalog's entry of the task",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Metric(_Part):
    metric: str
    aggregation: str = ""
    higher_is_better: bool = True


class _Pipeline(_Part):
    name: str
    filter: list[dict[str, Any]]


class _Generation(_Part):
    until: str | list[str] = Field(default_factory=list)
    max_gen_toks: Annotated[int, Field(ge=1)] = 1
    num_beams: Annotated[int, Field(ge=1)] = 1
    do_sample: bool = False
    temperature: Annotated[float, Field(ge=0)] = 1.0


class _Template(_Part):
    output_type: str = "generate_until"
    metric_list: Annotated[list[_Metric], Field(min_length=1)] | None = None
    filter_list: Annotated[list[_Pipeline], Field(min_length=1)] | None = None
    generation_kwargs: _Generation = _Generation()
    repeats: Annotated[int, Field(ge=1)] = 1
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"


def check_keys(config: dict[str, Any], path: Path) -> None:
    """Raise UserError, naming the template's file and the key, for what is not read here or is of another type."""
    for key in NOT_READ.keys() & config.keys():
        raise UserError(f"{path}: {key}: {NOT_READ[key]}")
    try:
        template = _Template.model_validate(config)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, _Template)}") from None
    generation = template.generation_kwargs
    for key in NOT_READ.keys() & (generation.model_extra or {}).keys():
        raise UserError(f"{path}: generation_kwargs.{key}: {NOT_READ[key]}")
    if generation.do_sample and not generation.temperature:
        raise UserError(
            f"{path}: generation_kwargs.temperature: found 0 with do_sample: true, allowed above 0; say do_sample:"
            " false for the likeliest token each time"
        )
