"""Snapshots of the Hugging Face hub at a pinned revision: models and data sets, safetensors and plain data only."""

import os
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import disk_error

DOWNLOADS = Path("resources/downloads")  # of what the hub's own cache does not hold
CONNECT_SECONDS = 5
# Files of tokenizers and their templates that are no JSON.
TOKENIZER_FILES = ("tokenizer.model", "merges.txt", "vocab.txt", "spiece.model", "chat_template.jinja")
MODEL_FILES = ["*.safetensors", "*.json", *TOKENIZER_FILES]
DATASET_FILES = ["*.parquet", "*.json", "*.jsonl", "README.md"]


class Unreachable(UserError):
    """Something that can't be obtained here and now, and its public address: nothing is wrong with what was found."""

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message)
        self.address = address


def offline() -> bool:
    """Whether the user forbids the network (HF_HUB_OFFLINE, as huggingface_hub reads it)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def snapshot(id: str, revision: str, repo_type: str, patterns: list[str], instead: str) -> Path:
    """The folder in the hub's cache with the files of `patterns`, downloaded (with resume) if need be.

    `instead` says what to do where the hub can't be reached. Raises Unreachable with the address, and UserError for
    a gated repository (what to accept and where) or an unknown revision. No message holds a token.
    """
    from huggingface_hub import constants, errors, snapshot_download

    address = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{id}"
    pinned = f"{address}/tree/{revision}"
    try:
        folder = snapshot_download(
            id,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=patterns,
            etag_timeout=CONNECT_SECONDS,
            local_files_only=offline() or not answers(constants.ENDPOINT),
        )
    except errors.GatedRepoError:
        raise UserError(
            f"{address} is gated: accept its licence there, then run `hf auth login` (or set HF_TOKEN) with an"
            f" account that was let in; {instead}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{pinned}: no such revision; correct the catalog's entry") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{address}: no such repository, or one that needs `hf auth login`; {instead}") from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
        response = getattr(error, "response", None)
        reason = "HF_HUB_OFFLINE is set" if offline() else "the hub doesn't answer"
        if response is not None:
            reason = f"HTTP {response.status_code}"
        raise Unreachable(f"{pinned} can't be obtained ({reason}); {instead}", pinned) from None
    except OSError as error:
        raise disk_error(error, Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()) from error
    return Path(folder)


def answers(endpoint: str = "") -> bool:
    """Whether the hub answers one request without retries: snapshot_download alone takes half a minute to give up."""
    import requests
    from huggingface_hub import constants

    try:
        requests.head(endpoint or constants.ENDPOINT, timeout=CONNECT_SECONDS)
    except requests.exceptions.RequestException:
        return False
    return True
