"""Two processes with half of the batch each train to the weights of one process with all of it."""

import os
import subprocess
import sys

import pytest
import torch

PROGRAM = """
import sys, torch
from torch import distributed, nn
from peft import get_peft_model
from sbora import SboraConfig

variant, folder = sys.argv[1:]
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
data, target = torch.randn(4, 8, 20), torch.randn(4, 8, 10)
model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))
model = get_peft_model(model, SboraConfig(variant=variant, r=4, target_modules=["0", "2"]))
parallel = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for x, y in zip(data, target):
    (parallel(x[rank::world]) - y[rank::world]).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
torch.save({n: t for n, t in model.state_dict().items() if "sbora" in n}, f"{folder}/{world}-{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fa", "fb"])
def test_two_processes_train_like_one(tmp_path, variant):
    (tmp_path / "train.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for world in (1, 2):
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"]
            + [str(tmp_path / "train.py"), variant, str(tmp_path)],
            check=True,
            env=environment,
        )
    alone, first, second = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("1-0", "2-0", "2-1"))
    assert len(alone) == 4
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)
    assert all(value.abs().max() > 0 for name, value in alone.items() if "weight" in name)
