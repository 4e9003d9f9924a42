"""Two processes with half of the batch each train to the weights of one process with all of it.

Each has the whole model (DDP), or a part of every weight (FSDP2).
"""

import os
import subprocess
import sys

import pytest
import torch

PROGRAM = """
import sys, torch
from torch import distributed, nn
from peft import get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from sbora import SboraConfig

kind, variant, folder = sys.argv[1:]
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
data, target = torch.randn(4, 8, 20), torch.randn(4, 8, 10)
model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))
model = get_peft_model(model, SboraConfig(variant=variant, r=4, target_modules=["0", "2"]))
if kind == "ddp":
    parallel = nn.parallel.DistributedDataParallel(model)
else:
    for layer in model.base_model.model:
        fully_shard(layer, reshard_after_forward=True)
    parallel = fully_shard(model)
    assert world == 1 or all(p.to_local().numel() < p.numel() for p in model.parameters() if p.ndim > 1)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for x, y in zip(data, target):
    (parallel(x[rank::world]) - y[rank::world]).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=False))
told = {n: t for n, t in state.items() if "sbora" in n}
torch.save(told, f"{folder}/{world}-{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("variant", ["fa", "fb"])
def test_two_processes_train_like_one(tmp_path, variant, kind):
    (tmp_path / "train.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for world in (1, 2):
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"]
            + [str(tmp_path / "train.py"), kind if world == 2 else "ddp", variant, str(tmp_path)],
            check=True,
            env=environment,
        )
    alone, *halves = (torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*.pt")))
    assert len(alone) == 4 and len(halves) == 2
    for name, value in alone.items():
        for half in halves:
            torch.testing.assert_close(half[name], value)
    assert all(value.abs().max() > 0 for name, value in alone.items() if "weight" in name)
