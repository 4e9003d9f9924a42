"""The authors' sample of Flan v2: short examples, a fixed number of each source and kind of template (protocol
section 5)."""

import random
from collections.abc import Iterable, Mapping

# Characters, though the authors compare them with limits in tokens.
LONGEST_INPUT, LONGEST_TARGET = 384, 128
SEED = 42
BUCKETS = {
    **{f"Flan2021_{kind}": 5000 for kind in ("zs_noopt", "zs_opt", "fs_noopt", "fs_opt")},
    **{f"NIv2_{kind}": 5000 for kind in ("zs_opt", "fs_opt")},
    **{f"P3_{kind}": 4000 for kind in ("zs_noopt", "zs_opt", "fs_noopt", "fs_opt")},
    **{f"CoT_{kind}": 1250 for kind in ("zs_opt", "fs_opt")},
    **{f"Dialog_{kind}": 750 for kind in ("zs_opt", "fs_opt")},
}


def sample(rows: Iterable[Mapping[str, str]], seed: int = SEED) -> list[int]:
    """Indices of at most 50,000 rows, drawn without replacement within each bucket, bucket after bucket.

    A bucket shorter than its share is taken whole; a row of no bucket is left out (the authors' code stops there).
    """
    by_bucket: dict[str, list[int]] = {bucket: [] for bucket in BUCKETS}
    for index, row in enumerate(rows):
        bucket = by_bucket.get(f"{row['task_source']}_{row['template_type']}")
        if bucket is not None and len(row["inputs"]) <= LONGEST_INPUT and len(row["targets"]) <= LONGEST_TARGET:
            bucket.append(index)
    rng = random.Random(seed)
    return [
        i
        for bucket, wanted in BUCKETS.items()
        for i in rng.sample(by_bucket[bucket], min(wanted, len(by_bucket[bucket])))
    ]
