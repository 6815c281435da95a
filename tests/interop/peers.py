"""The peers in both roles: clients of our control plane that call our servers, and servers that our client calls."""

import json
import pathlib
import sys

import envoys
from lab import NAMESPACE, SERVICE, Failed, Lab, Process, spiffe, until

HERE = pathlib.Path(__file__).parent
PROTO = HERE.parent.parent / "examples" / "proto" / "payment.proto"
# Whom our servers see, and whom our client is.
CALLER = "checkout"
# Reading certificates anew is not what is tried here.
REFRESH = "600s"
# Tries until the first call is answered.
FIRST_CALLS = 100


class Client:
    """A peer that is told by our control plane where payment is. A caller is a process that makes the calls."""

    def __init__(self, mesh: Lab):
        self.mesh = mesh
        self.files = mesh.join(CALLER)
        self._callers: dict[str, Process] = {}

    def caller(self, service: str) -> Process:
        if service not in self._callers:
            self._callers[service] = self._start(service)
        return self._callers[service]

    def ready_caller(self) -> Process:
        """One that was answered once; what it was told before that is no promise broken."""
        caller = self.caller(SERVICE)
        for _ in range(FIRST_CALLS):
            first = caller.ask({"do": "calls", "count": 1, "at_once": 1})
            if first["ok"]:
                return caller
        raise Failed(f"no call was answered: {first['errors']}; see {caller.log}")

    def refusals(self) -> int:
        """How often this peer refused a server for its name, if it counts that."""
        return 0

    def _start(self, service: str) -> Process:
        raise NotImplementedError


class Grpcio(Client):
    """gRPC C-core, by its Python package."""

    # What it says when it refuses a server.
    refusal = "SANs from certificate did not match"

    def _start(self, service: str) -> Process:
        command = [sys.executable, HERE / "caller.py", f"xds:///{service}"]
        return self.mesh.start(f"caller-{service}", command, GRPC_XDS_BOOTSTRAP=self._bootstrap())

    def _server(self) -> dict:
        return {"server_uri": self.mesh.plaintext_ads, "channel_creds": [{"type": "insecure"}]}

    def _bootstrap(self) -> str:
        files = {"certificate_file": self.files.chain, "private_key_file": self.files.key,
                 "ca_certificate_file": self.files.root}
        watcher = {"plugin_name": "file_watcher", "config": {**files, "refresh_interval": REFRESH}}
        # grpc-js refuses a node without a locality, and says so nowhere.
        node = {"id": f"sidecar~127.0.0.1~peer.{NAMESPACE}~{NAMESPACE}.svc.cluster.local",
                "cluster": f"peer.{NAMESPACE}", "metadata": {"NAMESPACE": NAMESPACE}, "locality": {}}
        bootstrap = {"xds_servers": [{**self._server(), "server_features": ["xds_v3"]}], "node": node,
                     "certificate_providers": {"default": watcher}}
        path = self.mesh.folder / "peer-bootstrap.json"
        path.write_text(json.dumps(bootstrap, indent=1))
        return str(path)


class GrpcioOverTls(Grpcio):
    """The same, and its stream to the control plane is over mutual TLS (gRFC A65)."""

    def _server(self) -> dict:
        files = {"certificate_file": self.files.chain, "private_key_file": self.files.key,
                 "ca_certificate_file": self.files.root}
        return {"server_uri": self.mesh.secure_ads, "channel_creds": [{"type": "tls", "config": files}]}


class GrpcJs(Grpcio):
    """gRPC for Node. It knows no `tls` to the control plane."""

    refusal = "No matching subject alternative name"

    def _start(self, service: str) -> Process:
        # `run` has set NODE_PATH to where the packages are.
        command = ["node", HERE / "caller.js", f"xds:///{service}", PROTO]
        return self.mesh.start(f"caller-{service}", command, GRPC_XDS_BOOTSTRAP=self._bootstrap())


class EnvoySotw(Client):
    """Envoy, one listener per service port; a plain grpcio caller behind it."""

    refusal = ""
    api = "GRPC"

    def __init__(self, mesh: Lab):
        super().__init__(mesh)
        self.envoy = envoys.Envoy(mesh, "envoy", envoys.client(self.files, mesh.plaintext_ads, self.api))

    def refusals(self) -> int:
        return self.envoy.total(r"ssl\.fail_verify_san$")

    def _start(self, service: str) -> Process:
        port = self.mesh.ports[service]
        log = self.envoy.process.log
        until(f"Envoy listens for {service} (see {log})", lambda: self.envoy.listens_on(port))
        command = [sys.executable, HERE / "caller.py", f"127.0.0.1:{port}", f"{service}:{port}"]
        return self.mesh.start(f"caller-{service}", command)


class EnvoyDelta(EnvoySotw):
    """The same, told by incremental xDS."""

    api = "DELTA_GRPC"


class Server:
    """A peer that our client calls. It is `account` in the certificate that it shows."""

    def __init__(self, mesh: Lab, account: str):
        self.mesh = mesh
        self.account = account
        self.files = mesh.join(account)

    def served(self) -> dict:
        """Calls and callers that reached the application."""
        return self.application.ask({})

    def _serve(self, *options: str, version: str = "v1") -> int:
        command = [sys.executable, HERE / "server.py", version, *options]
        self.application = self.mesh.start(f"server-{self.account}", command)
        return self.application.answer()["port"]


class GrpcioServer(Server):
    """grpcio with TLS that requires the client's certificate."""

    def __init__(self, mesh: Lab, account: str):
        super().__init__(mesh, account)
        files = self.files
        self.port = self._serve("--key", files.key, "--chain", files.chain, "--root", files.root)


class EnvoyServer(Server):
    """Envoy that ends mutual TLS in front of a plain grpcio server, and lets nobody in but `caller`."""

    def __init__(self, mesh: Lab, account: str, caller: str = CALLER, version: str = "v1"):
        super().__init__(mesh, account)
        backend = self._serve(version=version)
        config = envoys.server(self.files, backend, [spiffe(caller)])
        self.envoy = envoys.Envoy(mesh, f"envoy-{account}", config)
        self.port = until("Envoy listens", lambda: self.envoy.port_of("inbound"))


class Mixed:
    """A service half of which has moved: v1 is ours, v2 is behind an Envoy; and callers of both kinds."""

    def __init__(self, mesh: Lab):
        mesh.serve_payments()
        self.server = EnvoyServer(mesh, "payment", version="v2")
        mesh.serve_elsewhere("v2", self.server.port)
        self.client = EnvoyDelta(mesh)
