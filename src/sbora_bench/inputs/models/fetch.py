"""A model's folder of files, whatever its source; afterwards all look alike to models/load.py. Pickles are never read.

The environment variable SBORA_MODEL_<ID> names a local folder with config.json, safetensors and a tokenizer to use in
the place of a model's own source. <ID> is the model's in capitals, `_` for every other sign: SBORA_MODEL_LLAMA3_8B.
"""

import shlex
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import whole_folder
from sbora_bench.inputs.models.sources import source_of
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.results.folders import BASE
from sbora_bench.results.records import BaseRecord, write_record


def fetch_model(model: str, entry: ModelEntry, output: Path, experiment: str = "") -> None:
    """Write `output` with `base.json` and, but for hub models (which stay in the hub's cache), the files it names.

    A local folder's files are linked, not copied. Raises UserError, naming the address or the file, for weights that
    can't be obtained, aren't safetensors, have another checksum or another architecture than the catalog's entry, and
    for a model that another command makes. `experiment`: whose catalog the entry is of, for that message.
    """
    source = source_of(model, entry)
    if source.command != "prepare":
        where = ["--experiment", experiment] if experiment else []
        command = shlex.join(["sbora-bench", source.command, *where, model, "--output", str(output)])
        raise UserError(f"model {model} is trained here: run `{command}`")
    with whole_folder(output) as folder:
        fetched = source.fetch(folder)
        write_record(folder / BASE, BaseRecord(model=model, **fetched))
