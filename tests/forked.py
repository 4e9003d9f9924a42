"""Programs run in forks of one process that has imported the heavy libraries: a start costs a fork, not seconds.

As `python -m` and `python -c`, in a folder and an environment of their own. Of our packages nothing is imported before
the fork, so that a program loads them from where its environment says; the jobs of a Snakemake that runs here are such
forks too. pytest-xdist's workers share the process of who started them. What a new process alone can prove (a light
start, kills, locks) is not proved here.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ["snakemake.cli", "snakemake.report.html_reporter", "datasets", "transformers", "transformers.trainer", "peft"]
HEAVY += ["bitsandbytes", "lm_eval.api.model", "lm_eval.evaluator", "matplotlib.pyplot", "pandas", "scipy.stats"]
HEAVY += ["statsmodels.stats.multitest", "statsmodels.stats.power", "pydantic", "click", "jinja2", "yaml"]
OFFLINE = {"HF_HUB_OFFLINE": "1"}  # read where huggingface_hub is imported
SHARED = "SERVER_OF_FORKS"  # the variable that tells a worker the address
CLIENT = """
import os, sys
sys.path.insert(0, {root!r})
from tests import forked
sys.exit(forked.run({address!r}, ["-m", "sbora_bench.cli", *sys.argv[1:]], os.getcwd(), dict(os.environ), (1, 2)))
"""


def python(
    *arguments: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """`python -m NAME ...` or `python -c CODE ...`, offline; a status below 0 is the signal that ended it."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        places = (stdout.fileno(), stderr.fileno())
        place, variables = str(folder or Path.cwd()), dict(os.environ) if environment is None else environment
        status = run(address(), list(arguments), place, variables, places)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, status, *texts)


def run(address: str, arguments: list[str], folder: str, environment: dict[str, str], outputs: tuple[int, int]) -> int:
    """The exit status of a program that the server at `address` runs, its output going to these file descriptors."""
    request = json.dumps([arguments, folder, environment | OFFLINE]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(request).to_bytes(8)], outputs)
        server.sendall(request)
        answer = server.makefile("rb").read()
    if not answer:
        raise RuntimeError(f"the server of forks ended while it ran {arguments}")
    return int(answer)


@cache
def address() -> str:
    """The socket of this process's server, which ends with it, or of the one that is shared; beside it a `sbora-bench`
    and a `python` that run there. It is not waited for: who connects before the imports are done waits in line.
    """
    return os.environ.get(SHARED) or _start()


def share() -> None:
    """Start the server that the workers started from here take."""
    os.environ[SHARED] = address()


def _start() -> str:
    place = tempfile.mkdtemp(prefix="sbora-forks-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    path = str(Path(place, "socket"))
    programs(place, path)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = OFFLINE | {"PYTHONPATH": paths, "PYTHONHASHSEED": "random"}  # hashes that are not this process's
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        command = [sys.executable, "-c", "from tests import forked; forked.serve()", path, str(listener.fileno())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # whose end is the server's, however this process ends
            stdout=subprocess.DEVNULL,
            env=os.environ | own,
            pass_fds=[listener.fileno()],
        )
    atexit.register(process.kill)
    return path


def programs(place: str, address: str) -> None:
    """A `sbora-bench` that runs in the server at `address`, and this `python`, in the folder `place`. Both are begun by
    a shell: the first line of a script can't name a Python whose path has a space.
    """
    client = CLIENT.format(root=str(ROOT), address=address)
    for name, words in {"sbora-bench": ["-IS", "-c", client], "python": []}.items():
        path = Path(place, name)
        path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n')
        path.chmod(0o755)


def look_for_garbage_seldom() -> None:
    """In this process and its forks: imports, syntax trees and collected tests are many objects and no garbage."""
    gc.set_threshold(100_000, 20, 20)


def serve() -> None:
    """Fork for each request until the process that started this one is gone."""
    look_for_garbage_seldom()
    for name in HEAVY:
        __import__(name)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("sbora", "sbora_bench")]
    assert not ours, f"imported before the fork, not from where the environment says: {ours}"
    gc.freeze()  # what was imported is no garbage
    for finalizer in list(weakref.finalize._registry):
        finalizer.atexit = False  # the imports' own, of which torch has hundreds: no fork undoes them
    running: dict[int, tuple[int, socket.socket]] = {}  # what tells a program's end: its process, and who waits for it
    with socket.socket(fileno=int(sys.argv[2])) as listener:
        while sys.stdin not in (ready := select.select([listener, sys.stdin, *running], [], [])[0]):
            for ended in set(ready) & running.keys():
                _answer(ended, *running.pop(ended))
            if listener in ready:
                client, _ = listener.accept()
                process = os.fork()
                if process == 0:
                    for inherited, (_, other) in running.items():
                        os.close(inherited)
                        other.close()
                    listener.close()
                    _become(client)
                running[os.pidfd_open(process)] = process, client


def _answer(ended: int, process: int, client: socket.socket) -> None:
    """Send the exit status of a program that has ended to who waits for it, if they still do."""
    os.close(ended)
    _, status = os.waitpid(process, 0)
    with client, suppress(OSError):
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _become(client: socket.socket) -> None:
    """Be the `python ARGUMENTS` that is requested and end as it does."""
    with client:
        size, outputs, _, _ = socket.recv_fds(client, 8, 2)
        request = client.makefile("rb").read(int.from_bytes(size))
    arguments, folder, environment = json.loads(request)
    for stream, file in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.executable = str(Path(sys.argv[1]).with_name("python"))  # Snakemake's jobs take the `sbora-bench` beside it
    how, what, *rest = arguments
    sys.argv = [how, *rest]
    status = 0
    try:
        sys.modules.pop("sitecustomize", None)
        with suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")  # as at the start of any Python
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        status = 1
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
