"""A caller of the payment service on grpcio: its xDS client, or a plain channel to an Envoy that stands in front.

`GRPC_XDS_BOOTSTRAP=FILE caller.py xds:///payment-service` or `caller.py 127.0.0.1:PORT payment-service:80`, where Envoy tells
services apart by the authority. It reads commands from standard input and answers each with one line, all JSON. `drive.py`
is the other side, and `caller.js` does the same on grpc-js:

    {"do": "calls", "count": 10000, "at_once": 8}   makes so many calls; answers with the tally
    {"do": "start", "at_once": 4}                   calls without pause from now on
    {"do": "await", "version": "v2", "limit": 10}   answers when STREAK calls in a row, all begun after this, reached v2
    {"do": "stop"}                                  answers with the tally since "start"
"""

import json
import sys
import threading
import time

import grpc

import wire

# One call takes a millisecond; one that hangs is a failed one.
CALL_LIMIT_SECONDS = 10
# So many in a row cannot come from a split that says otherwise.
STREAK = 20
# The longest load, whoever forgets to stop it.
LOAD_LIMIT_SECONDS = 600


class Load:
    """Calls from several threads, and what came of them."""

    def __init__(self, channel: grpc.Channel):
        self._charge = channel.unary_unary(wire.CHARGE)
        self._changed = threading.Condition()
        self._awaited = {"since": 0.0, "version": "", "streak": 0}
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._reset()

    def calls(self, count: int, at_once: int) -> dict:
        self._reset()
        self._run(at_once, count)
        return self._finish()

    def start(self, at_once: int) -> dict:
        self._reset()
        self._run(at_once, None)
        return {}

    def await_version(self, version: str, limit: float) -> dict:
        began = time.monotonic()
        with self._changed:
            awaited = self._awaited = {"since": began, "version": version, "streak": 0}
            seen = self._changed.wait_for(lambda: awaited["streak"] >= STREAK, limit)
        return {"seen": seen, "ms": round((time.monotonic() - began) * 1000, 1)}

    def stop(self) -> dict:
        self._stopped.set()
        return self._finish()

    def _reset(self):
        self._tally = {"ok": 0, "failed": 0, "by": {}, "errors": {}}
        self._stopped.clear()

    def _run(self, at_once: int, count: int | None):
        left = iter(range(count)) if count is not None else iter(int, 1)
        lock = threading.Lock()
        end = time.monotonic() + LOAD_LIMIT_SECONDS

        def work():
            while not self._stopped.is_set() and time.monotonic() < end:
                with lock:
                    name = next(left, None)
                if name is None:
                    return
                self._call(str(name))

        self._threads = [threading.Thread(target=work, daemon=True) for _ in range(at_once)]
        for thread in self._threads:
            thread.start()

    def _finish(self) -> dict:
        for thread in self._threads:
            thread.join()
        return self._tally

    def _call(self, name: str):
        began = time.monotonic()
        try:
            reply = self._charge(wire.charge_request(name), timeout=CALL_LIMIT_SECONDS)
        except grpc.RpcError as error:
            with self._changed:
                self._tally["failed"] += 1
                _count(self._tally["errors"], f"{error.code().name}: {error.details()}")
            return
        version = wire.version_of(reply)
        with self._changed:
            self._tally["ok"] += 1
            _count(self._tally["by"], version)
            awaited = self._awaited
            if began >= awaited["since"]:
                awaited["streak"] = awaited["streak"] + 1 if version == awaited["version"] else 0
                if awaited["streak"] == STREAK:
                    self._changed.notify_all()


def _count(counts: dict, key: str):
    counts[key] = counts.get(key, 0) + 1


def main():
    target = sys.argv[1]
    # gRPC wants a fallback for clusters without TLS; in this mesh there is none, and our servers refuse plaintext.
    channel = (
        grpc.secure_channel(target, grpc.xds_channel_credentials())
        if target.startswith("xds:")
        else grpc.insecure_channel(target, [("grpc.default_authority", sys.argv[2])])
    )
    with channel:
        load = Load(channel)
        for line in sys.stdin:
            command = json.loads(line)
            match command["do"]:
                case "calls":
                    answer = load.calls(command["count"], command["at_once"])
                case "start":
                    answer = load.start(command["at_once"])
                case "await":
                    answer = load.await_version(command["version"], command["limit"])
                case "stop":
                    answer = load.stop()
            print(json.dumps(answer), flush=True)


main()
