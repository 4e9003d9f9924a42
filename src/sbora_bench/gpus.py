"""One GPU a process: a training or scoring job takes one that no other job of this machine has, and sees no other.

The pool is what CUDA_VISIBLE_DEVICES names where it is set (by the user, or by a cluster), else all that nvidia-smi
lists. A device is taken by a file lock, which the system releases however the process ends.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
_held: dict[str, object] = {}  # device -> its lock, until this process ends


def pool() -> list[str]:
    """The devices that may be used, as CUDA_VISIBLE_DEVICES names them; empty where there is no NVIDIA GPU."""
    listed = os.environ.get(VARIABLE)
    if listed is None:
        return list(_physical())
    names = [name.strip() for name in listed.split(",")]
    hidden = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return names[:hidden]  # CUDA reads no further either


def take_gpu() -> str | None:
    """Make a free device of the pool the only one that this process sees, and say which; None where there is none.

    To be called before CUDA is initialised. Waits where other jobs have all of them. A pool of one is left as it is:
    who made it so has chosen, and inside a cluster's job its name needn't be the machine's.
    """
    devices = pool()
    if len(devices) < 2 or "LOCAL_RANK" in os.environ:  # `accelerate launch` deals them out
        return devices[0] if devices else None
    from filelock import FileLock, Timeout

    uuids = _physical()
    folder = Path(tempfile.gettempdir()) / f"sbora-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for device in devices:
            lock = FileLock(folder / f"{uuids.get(device, device)}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held[device] = lock
            os.environ[VARIABLE] = device
            return device
        if not waiting:
            print(f"waiting for a GPU: other jobs have all of {', '.join(devices)}", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(0.5)


def _physical() -> dict[str, str]:
    """Index -> UUID of every NVIDIA GPU that this process may see; none without the driver's tool."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode:
        return {}
    rows = [line.partition(",") for line in done.stdout.splitlines() if "," in line]
    return {index.strip(): uuid.strip() for index, _, uuid in rows}
