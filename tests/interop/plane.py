"""A control plane on grpcio that tells one server whom to let in, by messages that nothing of ours wrote: xds-protos are Envoy's own
definitions, compiled by gRPC's authors.

`plane.py PORT` prints the port that it listens on and serves, over state-of-the-world ADS, the listener that a sidecar goes by for a
server at PORT, one of whose filters is a resource of its own (ECDS). It reads commands from standard input and answers each with one
line, all JSON. `drive.py` is the other side:

    {"filter": "open"}     there is the filter, and it denies nobody
    {"filter": "closed"}   it denies everybody
    {"filter": null}       it is not there

Each answer says whether the client asked for the filter by its name, how often it acknowledged and how often it refused something.
"""

import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

TYPES = "type.googleapis.com/"
LISTENER = TYPES + "envoy.config.listener.v3.Listener"
FILTER = TYPES + "envoy.config.core.v3.TypedExtensionConfig"
NAME = "peer.guard"
# How long a command waits for the client to say what it makes of what it was told.
SAID_SECONDS = 30


def packed(message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def listener(port: int) -> any_pb2.Any:
    manager = hcm_pb2.HttpConnectionManager(stat_prefix="inbound")
    guard = manager.http_filters.add(name=NAME)
    guard.config_discovery.config_source.ads.SetInParent()
    guard.config_discovery.type_urls.append(TYPES + "envoy.extensions.filters.http.rbac.v3.RBAC")
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(router_pb2.Router())
    host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.route.cluster = f"inbound|{port}||"
    security = tls_pb2.DownstreamTlsContext()
    security.require_client_certificate.value = True
    security.common_tls_context.tls_certificate_sds_secret_configs.add(name="default")
    security.common_tls_context.validation_context_sds_secret_config.name = "ROOTCA"
    told = listener_pb2.Listener(name="virtualInbound", traffic_direction="INBOUND")
    told.address.socket_address.address = "0.0.0.0"
    told.address.socket_address.port_value = 15006
    chain = told.filter_chains.add(name="inbound")
    chain.filter_chain_match.destination_port.value = port
    chain.filter_chain_match.transport_protocol = "tls"
    chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config.Pack(manager)
    chain.transport_socket.name = "envoy.transport_sockets.tls"
    chain.transport_socket.typed_config.Pack(security)
    return packed(told)


def guard(closed: bool) -> any_pb2.Any:
    rules = http_rbac_pb2.RBAC()
    rules.rules.action = rbac_pb2.RBAC.Action.DENY
    policy = rules.rules.policies["p"]
    rule = policy.permissions.add()
    if closed:
        rule.any = True
    else:
        rule.header.name = "x-nobody-sends-this"
        rule.header.present_match = True
    policy.principals.add().any = True
    return packed(extension_pb2.TypedExtensionConfig(name=NAME, typed_config=packed(rules)))


class Plane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """One client, whose newest stream counts."""

    def __init__(self, port: int):
        self._port = port
        self._changed = threading.Condition()
        self._told = {LISTENER: [listener(port)], FILTER: []}
        self._version = 1
        self._wanted: set[str] = set()
        self._said = {"asked": False, "acknowledged": 0, "refused": []}
        self._settled: dict[str, int] = {}
        self._streams: list[queue.Queue] = []

    def say(self, filter_kind: str | None):
        """Publishes, and waits until the client said something to it, if it asks for it at all."""
        with self._changed:
            self._version += 1
            self._told[FILTER] = [] if filter_kind is None else [guard(filter_kind == "closed")]
            for stream in self._streams:
                stream.put(FILTER)
            version = self._version
            if filter_kind is not None:
                self._changed.wait_for(lambda: self._settled.get(FILTER, 0) >= version, SAID_SECONDS)
            return dict(self._said)

    def StreamAggregatedResources(self, request_iterator, context):
        outbox: queue.Queue = queue.Queue()
        with self._changed:
            self._streams.append(outbox)
        threading.Thread(target=self._hear, args=(request_iterator, outbox), daemon=True).start()
        while context.is_active():
            try:
                kind = outbox.get(timeout=1)
            except queue.Empty:
                continue
            if kind is None:
                return
            with self._changed:
                resources, version = self._told.get(kind, []), str(self._version)
                asked = kind in self._wanted
            # What is not there is not told of: in state of the world its absence says nothing of a filter.
            if asked and resources:
                yield discovery_pb2.DiscoveryResponse(
                    version_info=version, type_url=kind, nonce=f"{kind}#{version}", resources=resources
                )

    def _hear(self, requests, outbox: queue.Queue):
        try:
            for request in requests:
                self._heard(request, outbox)
        except grpc.RpcError:
            pass
        finally:
            with self._changed:
                self._streams.remove(outbox)
            outbox.put(None)

    def _heard(self, request, outbox: queue.Queue):
        kind = request.type_url
        with self._changed:
            self._said["asked"] |= kind == FILTER and NAME in request.resource_names
            self._wanted.add(kind)
            if not request.response_nonce:
                outbox.put(kind)
                return
            version = int(request.response_nonce.split("#")[1])
            if request.HasField("error_detail"):
                self._said["refused"].append(request.error_detail.message)
            else:
                self._said["acknowledged"] += 1
            self._settled[kind] = version
            self._changed.notify_all()


def main():
    plane = Plane(int(sys.argv[1]))
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(plane, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    for line in sys.stdin:
        print(json.dumps(plane.say(json.loads(line)["filter"])), flush=True)
    server.stop(0)


if __name__ == "__main__":
    main()
