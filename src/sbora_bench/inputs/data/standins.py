"""Synthetic rows written as the real files and sets are, so that a rehearsal reads them with the real readers.

Forms: a JSON list (LLM-Adapters), JSON lines (five-shot MMLU), Parquet files by split (Alpaca and Flan v2 on the hub).
"""

import json
from pathlib import Path
from typing import Any

from sbora_bench.files import whole_folder, write_text
from sbora_bench.inputs.data.flan import BUCKETS

Example = dict[str, Any]


def write_file(rows: list[Example], form: str, path: Path) -> None:
    """Write `rows` (keys of data/synthetic.py) as the file that `form` names: llm-adapters or mmlu."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows) if form == "mmlu" else json.dumps(rows, indent=4)
    write_text(path, text)


def write_set(rows: list[Example], form: str, split: str, folder: Path) -> None:
    """Write `rows` as a set of the hub, one Parquet file for each part of `split` ("a+b"), rows dealt out in turn."""
    from datasets import Dataset

    shaped = [SHAPES[form](row, index) for index, row in enumerate(rows)]
    parts = split.split("+")
    with whole_folder(folder) as made:
        (made / "data").mkdir()
        for number, part in enumerate(parts):
            dealt = Dataset.from_list(shaped[number :: len(parts)])
            dealt.to_parquet(made / "data" / f"{part}-00000-of-00001.parquet")


def _alpaca(row: Example, index: int) -> Example:
    """Alpaca's columns; `text` is the whole prompt there, and read by nobody."""
    return {**{key: row[key] for key in ("instruction", "input", "output")}, "text": ""}


def _flan(row: Example, index: int) -> Example:
    """Flan v2's columns; the rows go round the buckets that its sampler knows."""
    source, _, template = list(BUCKETS)[index % len(BUCKETS)].partition("_")
    source_columns = {"task_source": source, "task_name": "stand-in", "template_type": template}
    return {"inputs": row["input"], "targets": row["output"], **source_columns}


def _metamath(row: Example, index: int) -> Example:
    """MetaMathQA's columns; a response ends in its answer, as there."""
    response = f"{row['output']}\nThe answer is: {row['answer']}"
    source_columns = {"type": "stand-in", "original_question": row["instruction"]}
    return {"query": row["instruction"], "response": response, **source_columns}


SHAPES = {"alpaca": _alpaca, "flan": _flan, "metamath": _metamath}
