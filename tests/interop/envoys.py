"""Envoy, in two roles: between a plain caller and our mesh, told everything by our control plane over ADS; and in front of
a plain server, with a configuration of its own, demanding mutual TLS.

Our control plane names Envoy's certificates `default` and `ROOTCA` without saying where they come from, as istio-agent's
Envoys have them beside it: both are static secrets of the bootstrap.
"""

import json
import pathlib
import re
import sys
import urllib.parse
import urllib.request

import lab

ADMIN_SECONDS = 10
TYPES = "type.googleapis.com/envoy."


class Envoy:
    """A running Envoy and its admin port."""

    def __init__(self, mesh: lab.Lab, name: str, config: dict):
        path = mesh.folder / f"{name}.json"
        path.write_text(json.dumps(config, indent=1))
        address = mesh.folder / f"{name}.admin"
        # One worker, so that there is one moment at which a change takes effect. Two Envoys share nothing.
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "info"]
        command = [executable(), "-c", path, "--admin-address-path", address, *options]
        self.process = mesh.start(name, command)
        self._admin = lab.until(f"{name} starts (see {self.process.log})", lambda: _text(address))

    def admin(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self._admin}/{path}", timeout=ADMIN_SECONDS) as answer:
            return answer.read().decode()

    def total(self, pattern: str) -> int:
        """The sum of the counters whose name matches; at least one must."""
        query = urllib.parse.urlencode({"filter": pattern, "format": "json"})
        counters = [entry["value"] for entry in json.loads(self.admin(f"stats?{query}"))["stats"] if "value" in entry]
        if not counters:
            raise lab.Failed(f"Envoy counts nothing like {pattern}; see {self.process.log}")
        return sum(counters)

    def listens_on(self, port: int) -> bool:
        return f"127.0.0.1:{port}" in self.admin("listeners")

    def port_of(self, listener: str) -> int:
        """What the kernel gave a listener of `server` or `passing`."""
        found = re.search(rf"{listener}::127\.0\.0\.1:(\d+)", self.admin("listeners"))
        return int(found[1]) if found else 0


def executable() -> str:
    """The command beside this interpreter; it replaces itself with Envoy, so its id is Envoy's."""
    return str(pathlib.Path(sys.executable).parent / "envoy")


def client(files: lab.Certificate, ads: str, api: str) -> dict:
    """An Envoy that asks the control plane for everything; `api` is GRPC (state of the world) or DELTA_GRPC."""
    from_ads = {"ads": {}, "resource_api_version": "V3"}
    host, port = ads.split(":")
    return {
        "node": {"id": "sidecar~127.0.0.1~envoy.default~default.svc.cluster.local", "cluster": "envoy.default",
                 "metadata": {"NAMESPACE": lab.NAMESPACE}},
        "admin": {"address": address("127.0.0.1", 0)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}],
            },
            "cds_config": from_ads,
            "lds_config": from_ads,
        },
        "static_resources": {
            "clusters": [h2_cluster("control-plane", host, int(port))],
            "secrets": [{"name": "default", "tls_certificate": pair(files)},
                        {"name": "ROOTCA", "validation_context": {"trusted_ca": {"filename": files.root}}}],
        },
    }


def server(files: lab.Certificate, backend: int, callers: list[str]) -> dict:
    """An Envoy that serves `backend` to `callers` alone, over mutual TLS."""
    named = [{"san_type": "URI", "matcher": {"exact": caller}} for caller in callers]
    tls = {
        "@type": f"{TYPES}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [pair(files)],
            "validation_context": {"trusted_ca": {"filename": files.root}, "match_typed_subject_alt_names": named},
        },
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}
    manager = {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router",
                          "typed_config": {"@type": f"{TYPES}extensions.filters.http.router.v3.Router"}}],
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
    }
    return {
        "admin": {"address": address("127.0.0.1", 0)},
        "static_resources": {
            "listeners": [{"name": "inbound", "address": address("127.0.0.1", 0), "filter_chains": [chain]}],
            "clusters": [h2_cluster("backend", "127.0.0.1", backend)],
        },
    }


def passing(files: lab.Certificate | None, to: int) -> dict:
    """An Envoy that passes calls on to a server of ours: over TLS with these files, or in plaintext without any. No control plane tells it
    of anything, and it verifies nobody, so that who refuses is the server."""
    cluster = h2_cluster("target", "127.0.0.1", to)
    if files:
        tls = {"@type": f"{TYPES}extensions.transport_sockets.tls.v3.UpstreamTlsContext",
               "common_tls_context": {"alpn_protocols": ["h2"], "tls_certificates": [pair(files)],
                                      "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                                      "validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}}}
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "target", "timeout": "0s"}}
    manager = {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router",
                          "typed_config": {"@type": f"{TYPES}extensions.filters.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "admin": {"address": address("127.0.0.1", 0)},
        "static_resources": {
            "listeners": [{"name": "outbound", "address": address("127.0.0.1", 0), "filter_chains": [chain]}],
            "clusters": [cluster],
        },
    }


def h2_cluster(name: str, host: str, port: int) -> dict:
    options = {"@type": f"{TYPES}extensions.upstreams.http.v3.HttpProtocolOptions",
               "explicit_http_config": {"http2_protocol_options": {}}}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}
    return {
        "name": name,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {f"{TYPES.partition('/')[2]}extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    }


def address(host: str, port: int) -> dict:
    return {"socket_address": {"address": host, "port_value": port}}


def pair(files: lab.Certificate) -> dict:
    return {"certificate_chain": {"filename": files.chain}, "private_key": {"filename": files.key}}


def _text(path: pathlib.Path) -> str:
    return path.read_text().strip() if path.exists() else ""
