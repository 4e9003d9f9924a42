"""Heavy imports, once a process: the garbage collector never searches what they leave.

Trainer and `evaluate` collect after each run, and with a million objects of imported code a collection takes as long as
many updates of a tiny model.
"""

import gc
from importlib import import_module

_settled: set[str] = set()


def settle(*modules: str) -> None:
    """Import `modules`, and where one of them was not settled before, set all objects alive apart from collections.

    To be called where no model is alive: what is alive stays so for good, if it is a part of a cycle.
    """
    if _settled.issuperset(modules):
        return
    for module in modules:
        import_module(module)
    gc.collect()
    gc.freeze()
    _settled.update(modules)
