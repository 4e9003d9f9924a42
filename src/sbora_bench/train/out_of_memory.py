"""Out of memory in training: micro-batches go through the model in parts, halved until they fit; updates stay the same.

transformers' `auto_find_batch_size` changes an update's rows; accelerate's `find_executable_batch_size` frees memory
while the failed attempt's frames still hold it. What they know an error by, and free with, is used here.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

from sbora_bench.inputs.out_of_memory import is_out_of_memory

T = TypeVar("T")


def halved_to_fit(attempt: Callable[[int, list[int]], T], rows: int) -> T:
    """What `attempt(rows, larger ones that did not fit)` gives, with the rows halved until memory suffices.

    Raises what the attempt raises, out of memory with one row too.
    """
    from accelerate.utils.memory import clear_device_cache

    too_many: list[int] = []
    while True:
        try:
            return attempt(rows, too_many)
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        too_many.append(rows)
        rows //= 2
        print(f"out of memory with {too_many[-1]} rows at a time; again with {rows}", file=sys.stderr, flush=True)
        clear_device_cache(garbage_collection=True)  # only now: until here the error's frames held the model
