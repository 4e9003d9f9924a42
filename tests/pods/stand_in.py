"""What Snakemake asks of Kubernetes' API, answered on this machine: a pod is a process in an empty folder of its own.

Every manifest must pass Kubernetes' own schema. No image is pulled: a pod finds this Python on its path, and of the
submitting side no more than what the manifest, the secret, the bucket and volume claims (folders here) give it.
"""

import base64
import json
import os
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import kubernetes_validate
import yaml

SCHEMA = "1.37"  # of Kubernetes
EVICTED = 128 + signal.SIGKILL


@dataclass
class Pod:
    manifest: dict
    folder: Path
    process: subprocess.Popen

    @property
    def exit_code(self) -> int | None:
        code = self.process.poll()
        return EVICTED if code == -signal.SIGKILL else code

    def evict(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class StandIn:
    """A cluster of one machine; `address` is its API's."""

    folder: Path
    path: str  # where a pod finds Python, in the place of an image
    run: bool = True  # or each pod ends with status 1 at once
    variables: dict[str, str] = field(default_factory=dict)  # of each pod's environment, beside its own
    pods: dict[str, Pod] = field(default_factory=dict)
    secrets: dict[str, dict] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)

    def __enter__(self) -> "StandIn":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        cluster = {"server": f"http://127.0.0.1:{self.server.server_address[1]}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "stand-in", "cluster": cluster}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "nobody"}}],
            "current-context": "stand-in",
        }
        self.config = self.folder / "kubeconfig"
        self.config.write_text(yaml.safe_dump(config))
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        for pod in self.pods.values():
            if pod.exit_code is None:
                pod.evict()
            pod.process.wait()

    def check(self, kind: str, version: str, manifest: dict) -> dict:
        """The manifest, with what the client leaves to the address; noted where the schema refuses it."""
        manifest = {"kind": kind, "apiVersion": version, **manifest}
        try:
            kubernetes_validate.validate(manifest, SCHEMA, strict=True)
        except kubernetes_validate.ValidationError as error:
            self.invalid.append(f"{kind}: {error.message}")
        return manifest

    def start(self, manifest: dict) -> None:
        """Run a job's one pod."""
        container = manifest["spec"]["template"]["spec"]["containers"][0]
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="pod-"))
        for mount in container["volumeMounts"]:
            if mount["name"] != "workdir":
                claim, place = self.folder / mount["name"], folder / Path(mount["mountPath"]).relative_to("/workdir")
                claim.mkdir(exist_ok=True)
                place.parent.mkdir(parents=True)
                place.symlink_to(claim)
        environment = {"PATH": self.path, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "PIP_NO_DEPS": "1"}
        environment |= self.variables
        for entry in container["env"]:
            secret = entry["valueFrom"]["secretKeyRef"]
            environment[entry["name"]] = base64.b64decode(self.secrets[secret["name"]]["data"][secret["key"]]).decode()
        command = [*container["command"], *container["args"]] if self.run else ["false"]
        with (folder / "pod.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pods[manifest["metadata"]["name"]] = Pod(manifest, folder, process)


def _handler(cluster: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/secrets"):
                made = cluster.check("Secret", "v1", body)
                cluster.secrets[made["metadata"]["name"]] = made
            else:
                made = cluster.check("Job", "batch/v1", body)
                cluster.start(made)
            self.answer(made, 201)

        def do_GET(self) -> None:
            address = urlparse(self.path)
            parts = address.path.split("/")
            if parts[-1] == "pods":
                name = parse_qs(address.query)["labelSelector"][0].removeprefix("job-name=")
                self.answer({"items": [_pod(name, cluster.pods[name])]})
            elif parts[-1] == "log":
                self.answer((cluster.pods[parts[-2]].folder / "pod.log").read_text())
            else:
                pod = cluster.pods[parts[-2]]
                ended = {} if pod.exit_code is None else {"failed" if pod.exit_code else "succeeded": 1}
                self.answer({**pod.manifest, "status": ended})

        def do_DELETE(self) -> None:
            self.answer({"kind": "Status", "apiVersion": "v1", "status": "Success"})

        def answer(self, value: dict | str, status: int = 200) -> None:
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            """Silence: the tests show the pods' logs."""

    return Handler


def _pod(name: str, pod: Pod) -> dict:
    state = {"running": {}} if pod.exit_code is None else {"terminated": {"exitCode": pod.exit_code}}
    container = {"name": "snakemake", "image": "", "imageID": "", "ready": True, "restartCount": 0, "state": state}
    return {"metadata": {"name": name}, "status": {"containerStatuses": [container]}}
