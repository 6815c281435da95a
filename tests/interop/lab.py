"""A mesh on loopback for one peer: the real control plane, its watched folder, our two payment servers, and processes.

Everything started here is ended here, by its own id, and dies with this process should that be killed. No port is fixed:
programs bind 0 and say what they got, or the kernel is asked for a free one.
"""

import ctypes
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

# How long a program may take to start, to answer a command, and to end when asked to.
START_SECONDS = 30
ANSWER_SECONDS = 240
END_SECONDS = 10
# How often a condition is looked at that nobody announces.
LOOK_SECONDS = 0.02

HERE = pathlib.Path(__file__).parent

NAMESPACE = "default"
DOMAIN = "default.svc.cluster.local"
SERVICE = "payment-service"
# The document file that changes.
MESH = "20-mesh.yaml"
# Where the program is that starts: a server lets nobody in before a document tells its control plane of it.
STARTING = "30-starting.yaml"
# Its endpoints are payment's; the identity that is written down for them is another.
IMPOSTOR = "impostor-service"


class Failed(Exception):
    """A promise that was not kept, in words, and what was measured until then."""

    def __init__(self, why: str, figures: dict | None = None):
        super().__init__(why)
        self.figures = figures or {}


@dataclass
class Certificate:
    """Files that hold a peer's identity, in PEM."""

    key: str
    chain: str
    root: str


def spiffe(account: str) -> str:
    return f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what: str, look, limit: float = START_SECONDS):
    """The first true answer of `look`."""
    end = time.monotonic() + limit
    while not (answer := look()):
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit} s")
        time.sleep(LOOK_SECONDS)
    return answer


class Process:
    """A program whose standard error goes to a file, and whose lines on standard output are JSON answers."""

    def __init__(self, name: str, command: list, folder: pathlib.Path, **environment: str):
        self.name = name
        self.log = folder / f"{name}.log"
        self._rest = b""
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1", **environment},
                preexec_fn=_die_with_parent,
            )

    def ask(self, command: dict, limit: float = ANSWER_SECONDS) -> dict:
        try:
            self._child.stdin.write(json.dumps(command).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.name} ended with {self._child.wait(END_SECONDS)}; see {self.log}") from None
        return self.answer(limit)

    def answer(self, limit: float = START_SECONDS) -> dict:
        """The next line on standard output."""
        end = time.monotonic() + limit
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise Failed(f"{self.name} said nothing for {limit:.0f} s; see {self.log}")
            if not (more := os.read(self._child.stdout.fileno(), 65536)):
                raise Failed(f"{self.name} ended with {self._child.wait(END_SECONDS)}; see {self.log}")
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def logged(self, before: str) -> str:
        """The word that follows `before` in the log, once it is there."""

        def look():
            if self._child.poll() is not None:
                raise Failed(f"{self.name} ended with {self._child.returncode}; see {self.log}")
            _, found, after = self.log.read_text(errors="replace").partition(before)
            return after.split()[0] if found and "\n" in after else None

        return until(f"{self.name} logs {before!r} (see {self.log})", look)

    def end(self):
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdin.close()
        self._child.stdout.close()


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    """No process outlives a driver that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Lab:
    """The mesh, for as long as the `with` block lasts."""

    def __init__(self, folder: pathlib.Path, binaries: pathlib.Path):
        self.folder = folder
        self.binaries = binaries
        self._documents = folder / "istio"
        self._documents.mkdir(parents=True)
        self._state = folder / "state"
        self._processes: list[Process] = []
        self._payments: dict[str, tuple[Process, int]] = {}
        self._admins: dict[str, str] = {}
        self._bootstraps = 0
        # Admin ports of the payment services, in the order in which they were started.
        self.admins: list[str] = []
        # The control plane's ports: whatever is free at first, and the same after a restart.
        self.secure_ads = self.plaintext_ads = self.page = "127.0.0.1:0"
        # Service ports, which an Envoy binds.
        self.ports = {SERVICE: free_port(), IMPOSTOR: free_port()}

    def __enter__(self) -> "Lab":
        try:
            self._save("40-security.yaml", SECURITY)
            self._start_control_plane("meshctl")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.end()

    def start(self, name: str, command: list, **environment: str) -> Process:
        process = Process(name, command, self.folder, **environment)
        self._processes.append(process)
        return process

    def bootstrap(self, account: str, version: str | None = None) -> pathlib.Path:
        """What `meshctl bootstrap` gives a workload: where the control plane is, and a join token for one use. With a version it says
        which workload it is, as Istio's nodes do."""
        self._bootstraps += 1
        path = self.folder / f"bootstrap-{account}-{self._bootstraps}.json"
        names = ["--service-account", account, "--namespace", NAMESPACE]
        _run([self.binaries / "meshctl", "bootstrap", *names, "--state", self._state, "--output", path])
        if version:
            said = json.loads(path.read_text())
            labels = {"app": account, "version": version}
            said["node"]["metadata"] |= {"WORKLOAD_NAME": f"{account}-{version}", "LABELS": labels}
            path.write_text(json.dumps(said))
        return path

    def join(self, account: str) -> Certificate:
        """An identity of the mesh's CA for a peer."""
        folder = self.folder / f"certificates-{account}"
        _run([sys.executable, HERE / "certificate.py", self.bootstrap(account), folder])
        return Certificate(*(str(folder / f"{name}.pem") for name in ("key", "chain", "root")))

    def restart_control_plane(self):
        """Ends it and starts another on its ports and state, which knows no stream of the first."""
        self._control.end()
        self._start_control_plane("meshctl-restarted")

    def serve_payments(self, **more: tuple):
        """Starts our payment service twice, v1 and v2, and publishes where they are: 95/5. `more` is what a version is told besides."""
        for version in ("v1", "v2"):
            self._payments[version] = self._start_payment(version, *more.get(version, ()))
        self.split(95, 5)

    def port(self, version: str) -> int:
        """Where a version of our service listens."""
        return self._payments[version][1]

    def stats(self, version: str) -> dict[str, int]:
        """What it has counted."""
        with urllib.request.urlopen(f"http://{self._admins[version]}/stats", timeout=START_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        return {name: int(count) for name, count in (line.split(": ") for line in lines)}

    def allow_only(self, account: str):
        """Publishes that nobody else may call our service."""
        self._save("50-policy.yaml", POLICY.format(account=account))

    def root(self) -> bytes:
        """The root of the control plane: its key and its certificate, in PEM."""
        return (self._state / "root.pem").read_bytes()

    def serve_by(self, plane: list) -> tuple[Process, Process, int]:
        """Starts our payment service as the server of another control plane, a program that is told the server's port, which it is
        the sidecar's of; its identity is of our CA. Returns that plane, the service and the port."""
        port = free_port()
        theirs = self.start("plane", [*plane, port])
        bootstrap = self.bootstrap("payment")
        said = json.loads(bootstrap.read_text())
        address = f"127.0.0.1:{theirs.answer()['port']}"
        said["xds_servers"] = [{"server_uri": address, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}]
        said.setdefault("x_mesh", {})["profile"] = "envoy"
        bootstrap.write_text(json.dumps(said))
        command = [self.binaries / "payment", "--version", "v1", "--listen", f"127.0.0.1:{port}"]
        ours = self.start("payment-by-plane", command, GRPC_XDS_BOOTSTRAP=str(bootstrap))
        ours.logged("serving address=127.0.0.1:")
        return theirs, ours, port

    def replace_v2(self, version: str) -> Process:
        """Publishes another process, which calls itself `version`, where v2 was; returns the old one, which still serves."""
        old, _ = self._payments["v2"]
        self._payments["v2"] = self._start_payment(version)
        self.split(0, 100)
        return old

    def serve_elsewhere(self, version: str, port: int):
        """Publishes that a version is served by another process at a port, with half of the calls, and ends ours."""
        ours, _ = self._payments[version]
        self._payments[version] = (ours, port)
        self.split(50, 50)
        ours.end()

    def publish_peer(self, port: int, account: str):
        """Publishes one workload as the whole of the service, and that it is `account`."""
        services = [service(SERVICE, self.ports[SERVICE], "payment")]
        self._save(MESH, "---\n".join([*services, workload("payment", "v1", port, account)]))

    def split(self, v1: int, v2: int):
        """Publishes weights. All in one file, since half of it would be another split."""
        self._publish(ROUTES.format(service=SERVICE, v1=v1, v2=v2))

    def route_to_subsets(self, subsets: dict[str, str], to: str):
        """Publishes other subsets than v1 and v2, by name with the version each is of, and that all calls go to one of them."""
        named = "\n".join(f"  - {{name: {name}, labels: {{version: {version}}}}}" for name, version in subsets.items())
        self._publish(SUBSETS.format(service=SERVICE, subsets=named, to=to))

    def _publish(self, routes: str):
        apps = {SERVICE: "payment", IMPOSTOR: "impostor"}
        services = [service(name, self.ports[name], app) for name, app in apps.items()]
        ports = {version: port for version, (_, port) in self._payments.items()}
        workloads = [workload("payment", version, port, "payment") for version, port in ports.items()]
        workloads.append(workload("impostor", "v1", ports["v1"], "somebody-else"))
        self._save(MESH, "---\n".join([*services, *workloads, routes]))

    def _start_control_plane(self, name: str):
        ports = ["--listen", self.secure_ads, "--plaintext-ads", self.plaintext_ads, "--admin", self.page]
        command = [self.binaries / "meshctl", "run", self._documents, *ports, "--state", self._state]
        self._control = self.start(name, command)
        ready = self._control.answer()
        self.secure_ads, self.plaintext_ads, self.page = ready["listen"], ready["plaintext_ads"], ready["admin"]

    def _start_payment(self, version: str, *more) -> tuple[Process, int]:
        command = [self.binaries / "payment", "--version", version, "--listen", "127.0.0.1:0", *more]
        bootstrap = str(self.bootstrap("payment", version))
        process = self.start(f"payment-{version}", command, GRPC_XDS_BOOTSTRAP=bootstrap)
        admin = self._admins[version] = process.logged("admin port address=")
        port = int(process.logged("serving address=127.0.0.1:"))
        self.admins.append(admin)
        # Of no service yet, so that nobody calls it.
        self._save(STARTING, workload("starting", version, port, "payment"))
        # It listens before it has an identity and knows whom to let in, and refuses connections until then.
        until(f"payment {version} is ready (see {process.log})", lambda: _is_ready(admin))
        return process, port

    def _save(self, name: str, text: str):
        """As editors do: a new file, renamed over the old."""
        beside = self._documents / f"{name}.new"
        beside.write_text(text)
        beside.rename(self._documents / name)


def _is_ready(admin: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{admin}/readyz", timeout=START_SECONDS) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False


def _run(command: list):
    """Runs a program that ends by itself."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")


def service(name: str, port: int, app: str) -> str:
    return SERVICE_ENTRY.format(name=name, domain=DOMAIN, port=port, app=app)


def workload(app: str, version: str, port: int, account: str) -> str:
    return WORKLOAD_ENTRY.format(app=app, version=version, port=port, account=account)


SERVICE_ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.{domain}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: {port}, name: grpc, protocol: GRPC}}]
  workloadSelector: {{labels: {{app: {app}}}}}
"""

WORKLOAD_ENTRY = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {app}-{version}, namespace: default}}
spec:
  address: 127.0.0.1
  ports: {{grpc: {port}}}
  labels: {{app: {app}, version: {version}}}
  serviceAccount: {account}
"""

ROUTES = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: default}}
spec:
  host: {service}
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: default}}
spec:
  hosts: [{service}]
  http:
  - route:
    - destination: {{host: {service}, subset: v1}}
      weight: {v1}
    - destination: {{host: {service}, subset: v2}}
      weight: {v2}
"""

SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: default}}
spec:
  host: {service}
  subsets:
{subsets}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: default}}
spec:
  hosts: [{service}]
  http:
  - route:
    - destination: {{host: {service}, subset: {to}}}
"""

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: callers, namespace: default}}
spec:
  selector: {{matchLabels: {{app: payment}}}}
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]
"""

SECURITY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
