"""The scenarios, one line each, and their figures as one JSON object at the end. `run` installs what this needs.

Shares: with 10,000 calls at 95/5 a right split gives v2 between 430 and 573 in 999 of 1,000 runs: by the binomial
distribution itself 9.5 in 10,000 are outside. It is drawn once, and a run outside fails. The peers draw by chance of their own, so a
right split is found wrong by each peer once in 1,050 runs; by one of the five of a whole run, once in 210.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import ssl
import statistics
import sys
import tempfile
import time

import page
from lab import HERE, IMPOSTOR, SERVICE, Failed, Lab, spiffe, until
from peers import (
    CALLER,
    EnvoyDelta,
    EnvoyServer,
    EnvoySotw,
    GrpcJs,
    Grpcio,
    GrpcioOverTls,
    GrpcioServer,
    Mixed,
)
from prometheus import ANSWER_SECONDS, GRAFANA, KIALI, OURS, Prometheus
from strangers import Strangers, envoy, grpcio, lets_in, openssl, plaintext, python_ssl

# Where its programs are; the driver's `run` says.
PROMETHEUS = os.environ.get("PROMETHEUS", "/usr/bin")
CALLS = 10_000
INTERVAL_999 = range(430, 573 + 1)
AT_ONCE = 8
# Weight changes under load, the calls of which run from so many callers at once.
CHANGES = 200
LOAD = 4
# Subsets, each a cluster of its own, that come and go under load.
SUBSETS = 60
# Servers that come and go under load.
MOVES = 10
# From a save to calls that obey it. Far more than it takes, since times are told and not judged.
EFFECT_SECONDS = 20
# The same after the control plane was away, with the peers' backoff in it.
RETURN_SECONDS = 60
# Calls that must all be refused, and calls that must all be served.
REFUSED = 50
SERVED = 1_000
# So much of the end of what was said is told: causes come last.
SAID = 200
CHECKOUT_SECONDS = 120
# How Kiali tells a series that it would leave out: it has none of these.
DRAWN = (
    "source_workload_namespace", "source_workload", "source_canonical_service", "source_canonical_revision", "source_cluster",
    "destination_service_namespace", "destination_service", "destination_service_name", "destination_workload_namespace",
    "destination_workload", "destination_canonical_service", "destination_canonical_revision", "destination_cluster",
)


def split(mesh: Lab, peer) -> dict:
    """10,000 calls at 95/5, v2's share inside the interval of 99.9 %."""
    caller = peer.ready_caller()
    began = time.monotonic()
    tally = caller.ask({"do": "calls", "count": CALLS, "at_once": AT_ONCE})
    share = tally["by"].get("v2", 0)
    figures = {"calls": CALLS, "v2": share, "failed": tally["failed"], "seconds": round(time.monotonic() - began, 1)}
    require(tally["failed"] == 0, figures, f"calls failed: {tally['errors']}")
    require(share in INTERVAL_999, figures, f"v2 had {share} of {CALLS}, outside of {INTERVAL_999}")
    return figures


def swaps(mesh: Lab, peer) -> dict:
    """200 weight changes under load, each seen to take effect, and no call fails."""
    caller = peer.ready_caller()
    caller.ask({"do": "start", "at_once": LOAD})
    took = []
    for change in range(CHANGES):
        version = ("v2", "v1")[change % 2]
        mesh.split(*((0, 100) if version == "v2" else (100, 0)))
        seen = caller.ask({"do": "await", "version": version, "limit": EFFECT_SECONDS})
        if not seen["seen"]:
            break
        took.append(seen["ms"])
    figures, tally = changes_under_load(caller, took)
    require(len(took) == CHANGES, figures, f"a change took no effect within {EFFECT_SECONDS} s; {tally['errors']}")
    require(tally["failed"] == 0, figures, f"calls failed: {tally['errors']}")
    return figures


def moved(mesh: Lab, peer) -> dict:
    """A server is replaced ten times by another at another address, under load, and no call fails."""
    caller = peer.ready_caller()
    caller.ask({"do": "start", "at_once": LOAD})
    took = []
    for move in range(MOVES):
        version = f"v2-{move}"
        old = mesh.replace_v2(version)
        seen = caller.ask({"do": "await", "version": version, "limit": EFFECT_SECONDS})
        old.end()
        # Calls that begin after the old one ended must go on.
        after = caller.ask({"do": "await", "version": version, "limit": EFFECT_SECONDS})
        if not (seen["seen"] and after["seen"]):
            break
        took.append(seen["ms"])
    figures, tally = changes_under_load(caller, took)
    require(len(took) == MOVES, figures, f"a new server is not called; {tally['errors']}")
    require(tally["failed"] == 0, figures, f"calls failed: {tally['errors']}")
    return figures


def subsets(mesh: Lab, peer) -> dict:
    """Subsets come and go under load, in one save with the route to them, and no call fails: the cluster of each is new to
    the peer when the route to it is, and the old one is gone at once."""
    caller = peer.ready_caller()
    caller.ask({"do": "start", "at_once": LOAD})
    took, kept = [], {}
    for change in range(SUBSETS):
        version = ("v2", "v1")[change % 2]
        name = f"s{change}"
        # Every other time the old ones stay, so that coming is tried without going.
        kept = {name: version, **(kept if change % 4 < 2 else {})}
        mesh.route_to_subsets(kept, name)
        seen = caller.ask({"do": "await", "version": version, "limit": EFFECT_SECONDS})
        if not seen["seen"]:
            break
        took.append(seen["ms"])
    figures, tally = changes_under_load(caller, took)
    # As it was, for whoever comes after.
    mesh.split(95, 5)
    require(len(took) == SUBSETS, figures, f"a change took no effect within {EFFECT_SECONDS} s; {tally['errors']}")
    require(tally["failed"] == 0, figures, f"calls failed: {tally['errors']}")
    return figures


def changes_under_load(caller, took: list) -> tuple[dict, dict]:
    """Ends the load: figures of the changes that took effect, and the tally."""
    tally = caller.ask({"do": "stop"})
    figures = {
        "changes": len(took),
        "calls": tally["ok"] + tally["failed"],
        "failed": tally["failed"],
        "effect_ms_median": round(statistics.median(took), 1) if took else None,
        "effect_ms_most": max(took, default=None),
    }
    return figures, tally


def restarted(mesh: Lab, peer) -> dict:
    """The control plane is restarted under load: no call fails, and the next change takes effect."""
    caller = peer.ready_caller()
    caller.ask({"do": "start", "at_once": LOAD})
    mesh.split(0, 100)
    before = caller.ask({"do": "await", "version": "v2", "limit": EFFECT_SECONDS})
    mesh.restart_control_plane()
    mesh.split(100, 0)
    after = caller.ask({"do": "await", "version": "v1", "limit": RETURN_SECONDS})
    tally = caller.ask({"do": "stop"})
    figures = {"calls": tally["ok"] + tally["failed"], "failed": tally["failed"], "effect_ms": after["ms"]}
    require(before["seen"] and after["seen"], figures, f"a change took no effect; {tally['errors']}")
    require(tally["failed"] == 0, figures, f"calls failed: {tally['errors']}")
    return figures


def identity(mesh: Lab, peer) -> dict:
    """A server with another identity than is written down for it is refused; the same server under its own is not."""
    peer.ready_caller()
    before = peer.refusals()
    tally = peer.caller(IMPOSTOR).ask({"do": "calls", "count": REFUSED, "at_once": 1})
    figures = {"calls": REFUSED, "refused": tally["failed"], "said": max(tally["errors"], default="")[-SAID:]}
    counted = peer.refusals() - before
    if counted:
        figures["counted_fail_verify_san"] = counted
    require(tally["ok"] == 0, figures, "a server with another identity was called")
    named = counted > 0 or (peer.refusal and all(peer.refusal in error for error in tally["errors"]))
    require(named, figures, f"refused, but not for the identity: {tally['errors']}")
    return figures


def accepted_updates(mesh: Lab, peer) -> dict:
    """Envoy refused nothing that it was told, of any type."""
    peer.ready_caller()
    of_type = {
        "cds": r"cluster_manager\.cds\.",
        "eds": r"cluster\.outbound\|.*\.",
        "lds": r"listener_manager\.lds\.",
        "rds": r"http\..*\.rds\..*\.",
    }
    sums = {
        end: {kind: peer.envoy.total(f"^{start}update_{end}$") for kind, start in of_type.items()}
        for end in ("success", "rejected")
    }
    # Identities are told twice, in the field that Envoy enforces and in its deprecated forerunner: Envoy says that it saw one.
    deprecated = peer.envoy.total(r"^runtime\.deprecated_feature_use$")
    figures = {"update_rejected": sum(sums["rejected"].values()), "update_success": sums["success"],
               "deprecated_feature_use": deprecated}
    require(deprecated > 0, figures, f"the deprecated list of identities is not told; see {peer.envoy.process.log}")
    require(all(sums["success"].values()), figures, f"Envoy was not told everything; see {peer.envoy.process.log}")
    require(figures["update_rejected"] == 0, figures, f"{sums['rejected']}; see {peer.envoy.process.log}")
    return figures


def served(mesh: Lab, server) -> dict:
    """Our client calls a peer that is whom it claims to be, which sees who calls."""
    mesh.publish_peer(server.port, server.account)
    report = checkout(mesh, SERVED)
    seen = server.served()
    figures = {"calls": SERVED, "ok": report["ok"], "caller": seen["callers"], "p50_us": report["p50_us"]}
    require(report["ok"] == SERVED, figures, f"calls failed: {report['errors']}")
    require(seen == {"calls": SERVED, "callers": [spiffe(CALLER)]}, figures, f"the peer saw {seen}")
    return figures


def both(mesh: Lab, mixed) -> dict:
    """Of a service half is in process and half behind an Envoy: a caller of either kind is served by both halves, over mutual TLS."""
    caller = mixed.client.ready_caller()
    tallies = {
        "envoy": caller.ask({"do": "calls", "count": SERVED, "at_once": AT_ONCE}),
        "in_process": checkout(mesh, SERVED),
    }
    seen = mixed.server.served()
    figures = {f"{name}_{version}": tally["by"].get(version, 0) for name, tally in tallies.items() for version in ("v1", "v2")}
    figures |= {"calls": len(tallies) * SERVED, "failed": sum(tally["failed"] for tally in tallies.values()), "caller": seen["callers"]}
    require(figures["failed"] == 0, figures, f"calls failed: {[tally['errors'] for tally in tallies.values()]}")
    require(all(tally["by"].get(version) for tally in tallies.values() for version in ("v1", "v2")), figures, "a half was not called")
    require(seen["callers"] == [spiffe(CALLER)], figures, f"the peer saw {seen}")
    return figures


def refused(mesh: Lab, server) -> dict:
    """Our client does not call a peer that shows another identity of the same CA, and says whom it met."""
    mesh.publish_peer(server.port, "payment")
    report = checkout(mesh, REFUSED)
    seen = server.served()
    said = max(report["errors"], default="")
    figures = {"calls": REFUSED, "refused": report["failed"], "said": said[-SAID:]}
    require(report["ok"] == 0 and seen["calls"] == 0, figures, "a peer with another identity was called")
    told = all(spiffe(server.account) in error for error in report["errors"])
    require(told, figures, f"the reason does not say whom it met: {report['errors']}")
    return figures


def stranger(mesh: Lab, server) -> dict:
    """A peer that lets in only somebody else refuses our client; the calls end, with the reason."""
    mesh.publish_peer(server.port, server.account)
    report = checkout(mesh, REFUSED)
    figures = {"calls": REFUSED, "refused": report["failed"], "said": max(report["errors"], default="")[-SAID:],
               "counted_fail_verify_san": server.envoy.total(r"ssl\.fail_verify_san$")}
    require(report["ok"] == 0 and server.served()["calls"] == 0, figures, "a caller was served that is not let in")
    require(figures["counted_fail_verify_san"] > 0, figures, "refused, but not for the identity")
    return figures


def kept_out(mesh: Lab, strangers) -> dict:
    """Plaintext, no certificate, an old TLS and every wrong certificate, by Python's ssl: nobody is answered, and no handler runs."""
    before = strangers.handled()
    tried = dict(plaintext(strangers))
    tried["no certificate"] = python_ssl(strangers, None)
    tried["TLS 1.2"] = python_ssl(strangers, strangers.caller, ssl.TLSVersion.TLSv1_2)
    tried |= {name: python_ssl(strangers, files) for name, files in strangers.wrong.items()}
    return judged(strangers, before, tried, python_ssl(strangers, strangers.caller), python_ssl(strangers, strangers.right))


def openssl_kept_out(mesh: Lab, strangers) -> dict:
    """The same by `openssl s_client`."""
    before = strangers.handled()
    said = {
        "no certificate": openssl(strangers, None),
        "TLS 1.2": openssl(strangers, strangers.caller, "-tls1_2"),
        **{name: openssl(strangers, files) for name, files in strangers.wrong.items()},
    }
    untold = [name for name, (_, told) in said.items() if "alert" not in told]
    tried = {name: heard for name, (heard, _) in said.items()}
    figures = judged(strangers, before, tried, openssl(strangers, strangers.caller)[0], openssl(strangers, strangers.right)[0])
    require(not untold, figures, f"refused without an alert: {untold}")
    return figures


def calls_kept_out(mesh: Lab, strangers) -> dict:
    """gRPC's own client, in plaintext, with certificates of another CA, another domain, and of another time, and as a member of the
    mesh whom the policy does not name; and as the one whom it names."""
    before = strangers.handled()
    wrong = ("rogue", "expired", "other-domain", "two-names")
    shown = {"plaintext": None, **{name: strangers.wrong[name] for name in wrong}, "another member": strangers.member}
    tallies = {name: grpcio(strangers, files) for name, files in shown.items()}
    ran = strangers.handled() - before
    good = grpcio(strangers, strangers.caller)
    served = [name for name, tally in tallies.items() if tally["ok"]]
    member = max(tallies["another member"]["errors"], default="")
    figures = {"tried": len(tallies), "handled": ran, "good": good["ok"], "member": member[-SAID:]}
    require(not served and ran == 0, figures, f"calls were served: {served}")
    require("RBAC" in member or "PERMISSION_DENIED" in member, figures, "another member is not refused by the policy")
    require(good["ok"] > 0 and good["failed"] == 0, figures, f"the one who may call is refused: {good['errors']}")
    return figures


def envoy_kept_out(mesh: Lab, strangers) -> dict:
    """The same by an Envoy that passes calls on, with every wrong certificate; and by one that shows the right ones."""
    before = strangers.handled()
    shown = {"plaintext": None, **strangers.wrong, "another-member": strangers.member}
    tallies = {name: envoy(strangers, name, files) for name, files in shown.items()}
    ran = strangers.handled() - before
    good = [envoy(strangers, name, files) for name, files in (("caller", strangers.caller), ("right", strangers.right))]
    served = [name for name, tally in tallies.items() if tally["ok"] or tally["failed"] == 0]
    unheard = [name for name, tally in tallies.items() if tally["connected"] == 0]
    member = max(tallies["another-member"]["errors"], default="")
    figures = {"tried": len(tallies), "handled": ran, "good": sum(tally["ok"] for tally in good), "member": member[-SAID:],
               "connected": sum(tally["connected"] for tally in tallies.values())}
    require(not served and ran == 0, figures, f"calls were served: {served}")
    require(not unheard, figures, f"these never came as far as our server, and prove nothing: {unheard}")
    require("RBAC" in member or "PERMISSION_DENIED" in member, figures, "another member is not refused by the policy")
    wrong = [tally["errors"] for tally in good if tally["failed"] or not tally["ok"]]
    require(not wrong, figures, f"the one who may call is refused: {wrong}")
    return figures


def judged(strangers, before: int, tried: dict, *good: bytes) -> dict:
    """Nobody of `tried` was let in, all of `good` were."""
    answered = [name for name, heard in tried.items() if lets_in(heard) or b"HTTP/1.1 200" in heard]
    figures = {"tried": len(tried), "handled": strangers.handled() - before}
    require(not answered and figures["handled"] == 0, figures, f"let in: {answered}")
    require(all(lets_in(heard) for heard in good), figures, "whoever is right is refused, too: the others prove nothing")
    return figures


def scraped(mesh: Lab, peer) -> dict:
    """Prometheus takes every scrape of all three, and its linter has nothing to say of them."""
    up = until("all targets are up", lambda: len([one for one in peer.ask("up") if one["value"][1] == "1"]) == 3)
    said = {target: peer.lint(target) for target in peer.targets}
    series = int(peer.until("count({__name__=~'istio_.*'})")[0]["value"][1])
    figures = {"targets": 3 if up else 0, "series": series}
    # Istio's own names are not to its taste: durations in milliseconds.
    wrong = [line for text in said.values() for line in text.splitlines()
             if line and "istio_request_duration_milliseconds" not in line]
    require(not wrong, figures, f"promtool says: {wrong[:5]}")
    return figures


def kiali(mesh: Lab, peer) -> dict:
    """Each of Kiali's queries gives something, no series of its graph is one that it leaves out, and both ends tell the same edges."""
    answers = {name: peer.until(query) for name, query in KIALI.items()}
    figures = {"queries": len(answers), "series": sum(len(found) for found in answers.values())}
    ends = ("graph of the called", "graph of callers")

    def edges() -> list[set]:
        return [{tuple(sorted(one["metric"].items())) for one in peer.ask(KIALI[end])} for end in ends]

    # What failed before the caller knew its way is of one end alone, until the window has passed.
    until("both ends tell the same edges", lambda: (found := edges())[0] == found[1] != set(), ANSWER_SECONDS)
    for end in ends:
        for one in peer.ask(KIALI[end]):
            unknown = [name for name in DRAWN if one["metric"].get(name, "unknown") == "unknown"]
            require(not unknown, figures, f"Kiali leaves out {one['metric']}: {unknown}")
    figures["edges"] = len(edges()[0])
    locked = [one for one in answers["padlock"] if one["metric"]["connection_security_policy"] == "mutual_tls"]
    require(len(locked) == len(answers["padlock"]), figures, f"not all is mutual TLS: {answers['padlock']}")
    return figures


def grafana(mesh: Lab, peer) -> dict:
    """So does each kind of query of Istio's dashboards, and of Flagger."""
    answers = {name: peer.until(query) for name, query in GRAFANA.items()}
    rate = float(answers["flagger: success"][0]["value"][1])
    figures = {"queries": len(answers), "success": rate}
    require(rate == 100, figures, "calls that succeeded are told as others")
    return figures


def ours(mesh: Lab, peer) -> dict:
    """So does each expression of the dashboard that we give to users, and the sums in it are right."""
    answers = {name: peer.until(query) for name, query in OURS.items()}
    number = lambda name: float(answers[name][0]["value"][1])  # noqa: E731
    figures = {"queries": len(answers), "failed": round(number("Failed A"), 4), "mutual_tls": number("Mutual TLS A")}
    shares = sum(float(one["value"][1]) for one in answers["Shares of versions A"])
    require(abs(shares - 1) < 1e-6, figures, f"the shares of one service are {shares} together")
    require(0 < figures["failed"] < 0.5 and figures["mutual_tls"] == 1, figures, "half of v2's calls fail, and all are mutual TLS")
    return figures


def discovered(mesh: Lab, plane) -> dict:
    """Our server goes by a filter that is a resource of its own at another's control plane: without it nobody is served, and then
    it decides."""
    figures = {}

    def says(filter_kind: str | None, reached: bool, said: str):
        heard = plane.ask({"filter": filter_kind})
        require(heard["asked"] and not heard["refused"], figures, f"the server does not take what it is told: {heard}")

        def is_so() -> bool:
            report = checkout(mesh, 1)
            return bool(report["ok"]) == reached and all(said in error for error in report["errors"])

        until(f"calls while the filter is {filter_kind}", is_so, EFFECT_SECONDS)
        report = checkout(mesh, REFUSED)
        step = f"{len(figures)}_{filter_kind or 'absent'}"
        figures[step] = report["ok"]
        require(report["ok"] == (REFUSED if reached else 0), figures, f"{step}: {report['errors']}")

    mesh.publish_peer(plane.port, "payment")
    says(None, False, "Unavailable")
    says("open", True, "")
    says("closed", False, "PermissionDenied")
    says("open", True, "")
    return figures


def checkout(mesh: Lab, calls: int) -> dict:
    """Our client, as a process of its own that joins the mesh."""
    command = [mesh.binaries / "checkout", "--target", f"xds:///{SERVICE}", "--calls", calls, "--concurrency", AT_ONCE]
    caller = mesh.start("checkout", command, GRPC_XDS_BOOTSTRAP=str(mesh.bootstrap(CALLER)))
    return caller.answer(CHECKOUT_SECONDS)


def require(kept: bool, figures: dict, otherwise: str):
    if not kept:
        raise Failed(otherwise, figures)


def guarded(mesh: Lab):
    plane, _, port = mesh.serve_by([sys.executable, HERE / "plane.py"])
    plane.port = port
    return plane


def client(make):
    def start(mesh: Lab):
        mesh.serve_payments()
        return make(mesh)

    return start


# Name of a group: how its peer is started, and what is tried with it. A group has a mesh of its own.
GROUPS = {
    "grpcio": (client(Grpcio), (split, swaps, subsets, restarted, moved, identity)),
    "grpcio-over-tls": (client(GrpcioOverTls), (split, identity)),
    "grpc-js": (client(GrpcJs), (split, swaps, subsets, restarted, moved, identity)),
    "envoy-sotw": (client(EnvoySotw), (split, swaps, subsets, restarted, moved, identity, accepted_updates)),
    "envoy-delta": (client(EnvoyDelta), (split, swaps, subsets, restarted, moved, identity, accepted_updates)),
    "grpcio-server": (lambda mesh: GrpcioServer(mesh, "payment"), (served,)),
    "grpcio-other-server": (lambda mesh: GrpcioServer(mesh, "somebody-else"), (refused,)),
    "grpcio-plane": (guarded, (discovered,)),
    "envoy-server": (lambda mesh: EnvoyServer(mesh, "payment"), (served,)),
    "envoy-other-server": (lambda mesh: EnvoyServer(mesh, "somebody-else"), (refused,)),
    "mixed": (Mixed, (both,)),
    "strangers": (Strangers, (kept_out, openssl_kept_out, calls_kept_out, envoy_kept_out)),
    "prometheus": (lambda mesh: Prometheus(mesh, PROMETHEUS), (scraped, kiali, grafana, ours)),
    "page": (page.Page, (page.drawn, page.opened, page.narrow, page.many)),
    "envoy-closed-server": (lambda mesh: EnvoyServer(mesh, "payment", caller="somebody-else"), (stranger,)),
}


def main() -> int:
    names = [f"{group}/{scenario.__name__}" for group, (_, tried) in GROUPS.items() for scenario in tried]
    parser = argparse.ArgumentParser(description="Real peers against both ends of our xDS stream.")
    parser.add_argument("wanted", nargs="*", help="groups or scenarios; all of them by default")
    parser.add_argument("--may-lack-openssl", action="store_true", help="leave out, loudly, what needs it where it is not there")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--binaries", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(names))
        return 0
    wanted = [name for name in names if not arguments.wanted or {name, name.split("/")[0]} & set(arguments.wanted)]
    lacking = arguments.may_lack_openssl and shutil.which("openssl") is None
    if lacking and "strangers/openssl_kept_out" in wanted:
        wanted.remove(name := "strangers/openssl_kept_out")
        print(f"\n!!!\n!!! LEFT OUT, openssl is not there: {name}. The wide ring would fail.\n!!!\n", file=sys.stderr)
    unknown = set(arguments.wanted) - set(names) - set(GROUPS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    # So that `with` blocks end what they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=arguments.work))
    results = {}
    for group, (start, scenarios) in GROUPS.items():
        chosen = [scenario for scenario in scenarios if f"{group}/{scenario.__name__}" in wanted]
        if chosen:
            play(group, start, chosen, Lab(work / group, arguments.binaries), results)
    failed = [name for name, figures in results.items() if not figures["kept"]]
    print(json.dumps({"verdict": "FAILED" if failed else "ok", "failed": failed, "scenarios": results}))
    if failed:
        print(f"logs: {work}", file=sys.stderr)
    else:
        pictures = sorted(work.glob("page/*.png"))
        for picture in pictures:
            picture.replace(arguments.work / picture.name)
        if pictures:
            print(f"pictures: {arguments.work}", file=sys.stderr)
        shutil.rmtree(work)
    return 1 if failed else 0


def play(group: str, start, scenarios: list, mesh: Lab, results: dict):
    """Runs the scenarios of a group one after the other; one that fails does not end the others."""
    left = [f"{group}/{scenario.__name__}" for scenario in scenarios]
    try:
        with mesh:
            peer = start(mesh)
            for scenario in scenarios:
                try:
                    figures, why = scenario(mesh, peer), ""
                except Failed as broken:
                    figures, why = broken.figures, str(broken)
                tell(left.pop(0), figures, why, results)
    except Exception as error:  # noqa: BLE001 - whatever it is, the scenarios that are left did not keep their promise
        for name in left:
            tell(name, {}, f"{type(error).__name__}: {error}", results)


def tell(name: str, figures: dict, why: str, results: dict):
    told = " ".join(f"{key}={value}" for key, value in figures.items())
    print(f"{'FAILED' if why else 'ok'} {name} {told}{': ' + why if why else ''}", flush=True)
    results[name] = {"kept": not why, **figures, **({"why": why} if why else {})}


if __name__ == "__main__":
    sys.exit(main())
