"""The payment service on grpcio, for callers of the mesh that are not grpcio.

`server.py VERSION --key FILE --chain FILE --root FILE` serves with mutual TLS; without files it serves plaintext, as the
application behind an Envoy. The first line on standard output is `{"port": ...}`; each line of standard input is answered
with what was served so far, `{"calls": ..., "callers": [...]}`: the callers' names as the TLS of this end verified them, or
as the Envoy in front says.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import sys
import threading

import grpc

import wire

# More than any scenario has calls under way.
THREADS = 16


class Payments:
    def __init__(self, version: str):
        self._version = version
        self._lock = threading.Lock()
        self._calls = 0
        self._callers: set[str] = set()

    def charge(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        caller = _verified(context) or _forwarded(context)
        with self._lock:
            self._calls += 1
            self._callers.add(caller)
        name = wire.texts(request).get(1, [""])[0]
        return wire.charge_reply(name, self._version, caller)

    def served(self) -> dict:
        with self._lock:
            return {"calls": self._calls, "callers": sorted(self._callers)}


def _verified(context: grpc.ServicerContext) -> str:
    names = context.auth_context().get("x509_subject_alternative_name", [])
    return names[0].decode() if names else ""


def _forwarded(context: grpc.ServicerContext) -> str:
    """The URI of the client's certificate, as Envoy's `x-forwarded-client-cert` has it."""
    headers = dict(context.invocation_metadata())
    found = re.search(r"URI=([^;,]+)", headers.get("x-forwarded-client-cert", ""))
    return found.group(1) if found else ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("version")
    for file in ("key", "chain", "root"):
        parser.add_argument(f"--{file}", type=pathlib.Path)
    arguments = parser.parse_args()
    payments = Payments(arguments.version)
    charge = grpc.unary_unary_rpc_method_handler(payments.charge)
    service, method = wire.CHARGE.strip("/").split("/")
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: charge})])
    if arguments.key:
        pair = (arguments.key.read_bytes(), arguments.chain.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], arguments.root.read_bytes(), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(payments.served()), flush=True)
    server.stop(grace=1).wait()


main()
