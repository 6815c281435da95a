"""A stock Prometheus that scrapes our caller and our servers, and what Kiali and Istio's dashboards ask it.

The queries are theirs, with the windows shortened to what a test may take.
"""

import json
import pathlib
import subprocess
import urllib.parse
import urllib.request

from lab import HERE, SERVICE, START_SECONDS, Failed, Lab, free_port, until

# How often it scrapes, and over how long rates are taken: some scrapes.
SCRAPE_SECONDS = 1
WINDOW = "10s"
# Until every series has two samples within the window.
ANSWER_SECONDS = 60

# What users are given: the configuration that is run here, and the dashboard whose expressions are asked.
OBSERVABILITY = HERE.parent.parent / "examples" / "observability"
EXAMPLE_SECONDS = 5
# What Grafana puts in the place of the dashboard's variables where all is chosen.
VARIABLES = {"$__rate_interval": WINDOW, "$namespace": ".*", "$service": ".*"}

# By what Kiali groups (its `G`), and the same without how a call ended.
PAIR = (
    "source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,"
    "destination_cluster,destination_service_namespace,destination_service,destination_service_name,"
    "destination_workload_namespace,destination_workload,destination_canonical_service,destination_canonical_revision"
)
ENDED = f"{PAIR},request_protocol,response_code,grpc_response_status,response_flags"


def _kiali() -> dict[str, str]:
    total, took = "istio_requests_total", "istio_request_duration_milliseconds"
    to, by = 'reporter="destination",destination_workload_namespace="default"', 'reporter="source",source_workload_namespace="default"'
    service = 'reporter="destination",destination_service_namespace="default"'
    rate = f"rate({{}}[{WINDOW}])"

    def rates(name: str, where: str) -> str:
        return rate.format(f"{name}{{{where}}}")

    queries = {
        "graph of the called": f"sum({rates(total, to)}) by ({ENDED}) > 0",
        "graph of callers": f"sum({rates(total, by)}) by ({ENDED}) > 0",
        "padlock": f"sum({rates(total, to)}) by ({PAIR},source_principal,destination_principal,connection_security_policy) > 0",
        "health of a service": f'{rates(total, "destination_service_namespace=" + chr(34) + "default" + chr(34))} > 0',
    }
    for end, where in (("called", service), ("callers", by)):
        queries[f"average of the {end}"] = (
            f"sum({rates(took + '_sum', where)}) by ({PAIR},request_protocol) / "
            f"sum({rates(took + '_count', where)}) by ({PAIR},request_protocol) > 0"
        )
        for quantile in ("0.5", "0.95", "0.99"):
            buckets = f"sum({rates(took + '_bucket', where)}) by (le,{PAIR},request_protocol)"
            queries[f"p{quantile} of the {end}"] = f"histogram_quantile({quantile}, {buckets}) > 0"
        for name in ("istio_request_bytes_sum", "istio_response_bytes_sum"):
            queries[f"{name} of the {end}"] = f"sum({rates(name, where)}) by ({PAIR}) > 0"
        for name in ("istio_request_messages_total", "istio_response_messages_total"):
            queries[f"{name} of the {end}"] = f"sum({rates(name, where)}) by ({PAIR}) > 0"
    return queries


def _grafana() -> dict[str, str]:
    total, took = "istio_requests_total", "istio_request_duration_milliseconds_bucket"
    service = f'destination_service=~"{SERVICE}.*"'
    mutual = 'connection_security_policy="mutual_tls"'
    return _panels(service, mutual) | {
        "mesh: volume": f'sum(irate({total}{{reporter=~"source|waypoint"}}[{WINDOW}]))',
        "mesh: success": f'sum(rate({total}{{reporter=~"source|waypoint",response_code!~"5.."}}[{WINDOW}]))',
        "mesh: latency": f'histogram_quantile(0.99, sum(rate({took}{{reporter=~"source|waypoint"}}[{WINDOW}])) by '
        "(le,destination_workload,destination_workload_namespace))",
        "mesh: versions": "sum(istio_build) by (component,tag)",
        "service: variable": f"sum({total}) by (destination_service)",
        "service: by source": f"sum(irate({total}{{{mutual},{service},reporter=\"destination\"}}[{WINDOW}])) by "
        "(source_workload,source_workload_namespace,response_code)",
        "service: sizes": f"histogram_quantile(.5, sum(irate(istio_request_bytes_bucket{{{mutual},reporter=\"destination\",{service}}}"
        f"[{WINDOW}])) by (source_workload,source_workload_namespace,le))",
        "service: answers": f"histogram_quantile(.5, sum(irate(istio_response_bytes_bucket{{{mutual},reporter=\"destination\",{service}}}"
        f"[{WINDOW}])) by (source_workload,source_workload_namespace,le))",
        "workload: inbound": f'sum(irate({total}{{reporter="destination",{mutual},destination_workload_namespace="default",'
        f'destination_workload=~"payment-v1"}}[{WINDOW}])) by (source_workload,source_workload_namespace,response_code)',
        "workload: outbound": f'sum(irate({total}{{destination_principal=~"spiffe.*",source_workload_namespace="default",'
        f'source_workload=~"checkout-v1",reporter="source",{service}}}[{WINDOW}])) by (destination_service,response_code)',
        "flagger: success": f'sum(rate({total}{{reporter="destination",destination_workload_namespace="default",'
        f'destination_workload=~"payment-v1",response_code!~"5.*"}}[{WINDOW}])) / sum(rate({total}{{reporter="destination",'
        f'destination_workload_namespace="default",destination_workload=~"payment-v1"}}[{WINDOW}])) * 100',
    }


def _panels(service: str, mutual: str) -> dict[str, str]:
    """The panels of Istio's service and workload dashboards that are alike: each quantile of each histogram, for whom it is told by.
    Those of calls without mutual TLS are empty here by right, where a server tells; a caller says of none what it was."""
    server = f'reporter=~"destination",{mutual}'
    tellers = {
        "service, by caller": (f"{server},{service}", "source_workload,source_workload_namespace"),
        "service, by workload": (f"{server},{service}", "destination_workload,destination_workload_namespace"),
        "workload, inbound": (f'{server},destination_workload_namespace=~"default",destination_workload=~"payment-v1"',
                              "source_workload,source_workload_namespace"),
        "workload, outbound": (f'reporter="source",connection_security_policy!="mutual_tls",source_workload_namespace=~"default",'
                               f'source_workload=~"checkout-v1",{service}', "destination_service"),
    }
    queries = {}
    for teller, (where, by) in tellers.items():
        for histogram in ("duration_milliseconds", "bytes", "response_bytes"):
            name = f"istio_{histogram if histogram.startswith('response') else 'request_' + histogram}"
            for quantile in ("0.50", "0.90", "0.95", "0.99"):
                query = f"histogram_quantile({quantile}, sum(irate({name}_bucket{{{where}}}[{WINDOW}])) by ({by},le))"
                if histogram.startswith("duration"):
                    # They take seconds where there are any.
                    seconds = name.replace("milliseconds", "seconds")
                    query = f"({query} / 1000) or histogram_quantile({quantile}, sum(irate({seconds}_bucket{{{where}}}[{WINDOW}])) by ({by},le))"
                queries[f"{teller}: {name} {quantile}"] = query
        calls = f"istio_requests_total{{{where}"
        queries[f"{teller}: volume"] = f"round(sum(irate({calls}}}[{WINDOW}])) by ({by},response_code), 0.001)"
        queries[f"{teller}: success"] = f'sum(irate({calls},response_code!~"5.*"}}[{WINDOW}])) by ({by}) / sum(irate({calls}}}[{WINDOW}])) by ({by})'
    return queries


class Prometheus:
    """Scrapes a caller that calls on and on and the two servers that it calls."""

    def __init__(self, mesh: Lab, binaries: str):
        self.mesh = mesh
        self._binaries = binaries
        # Some calls fail, so that there is something to tell of failures.
        mesh.serve_payments(v2=("--fail-rate", 0.5))
        command = [mesh.binaries / "checkout", "--target", f"xds:///{SERVICE}", "--every-ms", 1000,
                   "--concurrency", 1, "--admin", "127.0.0.1:0"]
        caller = mesh.start("checkout", command, GRPC_XDS_BOOTSTRAP=str(mesh.bootstrap("checkout", "v1")))
        self.targets = [caller.logged("admin port address="), *mesh.admins]
        config = mesh.folder / "prometheus.yml"
        example = (OBSERVABILITY / "prometheus.yml").read_text()
        config.write_text(example.replace(f"{EXAMPLE_SECONDS}s", f"{SCRAPE_SECONDS}s"))
        (mesh.folder / "targets.json").write_text(json.dumps([{"targets": self.targets}]))
        self.check(config)
        port = free_port()
        self._api = f"http://127.0.0.1:{port}/api/v1"
        self.process = mesh.start("prometheus", [
            f"{binaries}/prometheus", f"--config.file={config}", f"--storage.tsdb.path={mesh.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ])
        until(f"Prometheus answers (see {self.process.log})", self._is_up)

    def _is_up(self) -> bool:
        try:
            return bool(self.ask("up"))
        except OSError:
            return False

    def ask(self, query: str) -> list:
        """The series that a query gives now."""
        url = f"{self._api}/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
            said = json.load(answer)
        if said["status"] != "success":
            raise Failed(f"{query}: {said}")
        return said["data"]["result"]

    def until(self, query: str) -> list:
        """The same, once there are any that are numbers."""
        numbers = lambda: [one for one in self.ask(query) if one["value"][1] != "NaN"]  # noqa: E731
        return until(f"{query} gives something", numbers, ANSWER_SECONDS)

    def check(self, config: pathlib.Path):
        """Has Prometheus' own program read a configuration, and the example's as it is."""
        for path in (config, OBSERVABILITY / "prometheus.yml"):
            command = [f"{self._binaries}/promtool", "check", "config", path]
            done = subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False)
            if done.returncode != 0:
                raise Failed(f"promtool refuses {path}: {(done.stdout + done.stderr).decode(errors='replace')}")

    def lint(self, target: str) -> str:
        """What Prometheus' own linter says of a scrape."""
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=START_SECONDS) as answer:
            text = answer.read()
        done = subprocess.run([f"{self._binaries}/promtool", "check", "metrics"], input=text, capture_output=True,
                              timeout=START_SECONDS, check=False)
        return done.stderr.decode(errors="replace")


def _ours() -> dict[str, str]:
    """The expressions of our own dashboard, by panel."""
    queries = {}
    for path in sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"]
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                if "$" in query:
                    raise Failed(f"{panel['title']}: a variable that nobody knows: {query}")
                queries[f"{panel['title']} {target['refId']}"] = query
    return queries


KIALI, GRAFANA, OURS = _kiali(), _grafana(), _ours()
