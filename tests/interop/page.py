"""The page of a real control plane in a real browser: a canary under load, and the same page over a mesh that is too large to start here.

What is asserted is what is in the document, after the page's own scripts put it there; pictures of it are kept beside the logs.
"""

import functools
import http.server
import json
import pathlib
import threading
import urllib.request

from browser import Browser
from lab import HERE, SERVICE, START_SECONDS, Failed, Lab, until

ASSETS = HERE.parent.parent / "mesh-control" / "src" / "page" / "assets"
EDGE = "default/checkout>default/payment"
# Calls before the page is looked at: v2's share of them, of 10 of 100, is between these in 99.9 % of runs.
WEIGHTS = (90, 10)
FAILING = 0.5
# From a call to a picture of it: a window of reports, and the page's own pace.
SEEN_SECONDS = 60
# A mesh as large as is promised, and the time until its picture stands.
SERVICES, EDGES = 200, 2_000
FIRST_PICTURE_MS = 1_000
TRIES = 5
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# The element of an edge, as the page's scripts find it.
ELEMENT = f"""document.querySelector('g[data-edge="{EDGE}"]')"""


class Page:
    """A caller that calls on and on, two versions of which one fails half of its calls, and a browser on the page."""

    def __init__(self, mesh: Lab):
        self.mesh = mesh
        mesh.serve_payments(v2=("--fail-rate", FAILING))
        mesh.split(*WEIGHTS)
        command = [mesh.binaries / "checkout", "--target", f"xds:///{SERVICE}", "--every-ms", 1000, "--concurrency", 1]
        self.caller = mesh.start("checkout", command, GRPC_XDS_BOOTSTRAP=str(mesh.bootstrap("checkout", "v1")))
        self.address = f"http://{mesh.page}/"
        self.browser = Browser(mesh)
        self.browser.prefer("dark")

    def said(self) -> dict:
        with urllib.request.urlopen(f"{self.address}api/v1/mesh", timeout=START_SECONDS) as answer:
            return json.load(answer)

    def edge(self) -> dict | None:
        """The edge as the control plane tells it, once both versions were called."""
        edges = [edge for edge in self.said()["edges"] if edge["id"] == EDGE]
        known = edges and {one["name"]: one["numbers"]["calls"]["total"] for one in edges[0]["clusters"]}
        return edges[0] if known and known.get("v1") and known.get("v2") else None

    def open(self, **size):
        self.browser.open(self.address, **size)
        self.browser.until("the picture", "document.documentElement.dataset.firstPictureMs")

    def kept(self, name: str):
        self.browser.picture(self.mesh.folder / f"{name}.png")

    def require(self, script: str, why: str, figures: dict):
        if not (found := self.browser.run(script)):
            raise Failed(f"{why}: {script} is {found!r}", figures)


def drawn(mesh: Lab, page: Page) -> dict:
    """The canary's services, its edge with a closed padlock, and its shares beside what the control plane itself says."""
    edge = until("both versions are told", page.edge, SEEN_SECONDS)
    page.open()
    browser = page.browser
    figures = {"first_picture_ms": int(browser.run("document.documentElement.dataset.firstPictureMs")),
               "calls": edge["numbers"]["calls"]["total"], "failed": edge["numbers"]["failed"]["total"]}
    page.require(f"{ELEMENT}.dataset.protection === 'all'", "the padlock is open", figures)
    page.require(f"/mutual TLS/.test({ELEMENT}.getAttribute('aria-label'))", "the padlock is not told", figures)
    services = browser.run("[...document.querySelectorAll('g[data-service]')].map((one) => one.dataset.service)")
    if not {"default/checkout", "default/payment"} <= set(services):
        raise Failed(f"services are missing: {services}", figures)
    shares = "[...document.querySelectorAll('g[data-service=\"default/payment\"] g[data-version]')].map((one) => " \
             "[one.dataset.version, one.querySelector('.shares').textContent])"
    shares = dict(browser.run(shares))
    configured = {version: text.split("/")[1] for version, text in shares.items()}
    if configured != {"v1": f" {WEIGHTS[0]} %", "v2": f" {WEIGHTS[1]} %"}:
        raise Failed(f"the weights are not {WEIGHTS}: {shares}", figures)
    # The picture and the answer are of one moment where no report came in between.
    told = "(async () => { const mesh = await (await fetch('/api/v1/mesh')).json(); const edge = mesh.edges.find((one) => one.id === " \
           f"'{EDGE}'); const all = edge.clusters.reduce((sum, one) => sum + one.numbers.calls.window, 0); return " \
           "Object.fromEntries(edge.clusters.map((one) => [one.name, 100 * one.numbers.calls.window / all])); })()"

    def agrees() -> bool:
        observed = browser.run(told)
        page.open()
        seen = dict(browser.run("[...document.querySelectorAll('g[data-service=\"default/payment\"] g[data-version]')].map((one) => "
                                "[one.dataset.version, parseFloat(one.querySelector('.shares').textContent)])"))
        return all(abs(seen[name] - observed[name]) <= 0.6 for name in ("v1", "v2"))

    until("the shares that are drawn are those that are told", agrees, SEEN_SECONDS)
    failures = edge["clusters"][[one["name"] for one in edge["clusters"]].index("v2")]["failures"]
    if {(one["protocol"], one["code"]) for one in failures} != {("grpc", 13)}:
        raise Failed(f"v2 fails with INTERNAL alone, and is told to have: {failures}", figures)
    page.kept("drawn")
    browser.prefer("light")
    page.kept("drawn-light")
    browser.prefer("dark")
    if browser.complaints:
        raise Failed(f"the page complains: {browser.complaints}", figures)
    return figures


def opened(mesh: Lab, page: Page) -> dict:
    """With the keyboard alone: to an edge, its panel, and back; and the table that says the same."""
    page.open()
    browser = page.browser
    figures = {}
    for pressed in range(40):
        browser.press("Tab")
        if browser.run(f"document.activeElement === {ELEMENT}"):
            break
    figures["tabs"] = pressed + 1
    page.require(f"document.activeElement === {ELEMENT}", "no tab leads to the edge", figures)
    browser.press("Enter")
    page.require("!document.getElementById('panel').hidden", "Enter opens nothing", figures)
    text = browser.run("document.getElementById('panel').textContent")
    for expected in ("checkout → payment", "Every call goes over mutual TLS", "INTERNAL", "v2", "configured", "in sync",
                     "spiffe://cluster.local/ns/default/sa/checkout"):
        if expected not in text:
            raise Failed(f"the panel does not say {expected!r}: {text}", figures)
    page.require("document.querySelectorAll('#panel .durations .bucket').length > 0", "no durations are drawn", figures)
    page.kept("opened")
    browser.press("Escape")
    page.require("document.getElementById('panel').hidden", "Escape closes nothing", figures)
    page.require(f"document.activeElement === {ELEMENT}", "the focus is not given back", figures)
    browser.run("document.getElementById('tab-table').click()")
    page.require(f"""document.querySelector('tr[data-edge="{EDGE}"]').textContent.includes('mutual TLS')""", "the table lacks the edge", figures)
    browser.run("document.getElementById('tab-clients').click()")
    rows = "document.querySelectorAll('#view-clients tbody tr').length"
    page.require(f"{rows} === 3 && document.querySelectorAll('#view-clients .badge.in-sync').length === 3", "three clients are in sync", figures)
    browser.run("document.getElementById('tab-configuration').click()")
    page.require("document.getElementById('view-configuration').textContent.includes('is published')", "the configuration is not told", figures)
    return figures


def narrow(mesh: Lab, page: Page) -> dict:
    """One column on a small screen: nothing sticks out of it, and an edge opens below the picture."""
    page.open(width=390, height=844)
    browser = page.browser
    figures = {"width": browser.run("document.documentElement.scrollWidth")}
    page.require("document.documentElement.scrollWidth <= innerWidth", "it is wider than the screen", figures)
    page.kept("narrow")
    browser.run(f"{ELEMENT}.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))")
    below = "document.getElementById('panel').getBoundingClientRect().top >= document.getElementById('view-graph').getBoundingClientRect().bottom"
    page.require(below, "the panel is not below the picture", figures)
    page.require("document.getElementById('panel').getBoundingClientRect().width === innerWidth", "the panel is not as wide as the screen", figures)
    page.require("document.documentElement.scrollWidth <= innerWidth", "it is wider than the screen with its panel", figures)
    page.kept("narrow-opened")
    return figures


def many(mesh: Lab, page: Page) -> dict:
    """200 services and 2,000 edges stand within a second, by the page's own clock; machines are noisy, so the best of five counts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Large, json.dumps(large(page.said())).encode()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser, took = page.browser, []
        for _ in range(TRIES):
            browser.open(f"http://127.0.0.1:{server.server_port}/")
            took.append(int(browser.until("the picture", "document.documentElement.dataset.firstPictureMs")))
        figures = {"services": browser.run("document.querySelectorAll('g[data-service]').length"),
                   "edges": browser.run("document.querySelectorAll('g[data-edge]').length"), "first_picture_ms": min(took)}
        page.kept("many")
        if (figures["services"], figures["edges"]) != (SERVICES, EDGES) or min(took) > FIRST_PICTURE_MS:
            raise Failed(f"it took {took} ms", figures)
        # The same mesh gives the same picture.
        places = "[...document.querySelectorAll('g[data-service]')].map((one) => one.getAttribute('transform')).join()"
        before = browser.run(places)
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        browser.until("the picture", "document.documentElement.dataset.firstPictureMs")
        if browser.run(places) != before:
            raise Failed("it is drawn otherwise each time", figures)
        return figures
    finally:
        server.shutdown()


def large(said: dict) -> dict:
    """As many edges as are promised, each like the one that was really told."""
    like = next(edge for edge in said["edges"] if edge["id"] == EDGE)
    service = next(one for one in said["services"] if one["id"] == like["to"])
    names = [f"team-{at % 8}/service-{at:03}" for at in range(SERVICES)]
    services = [{**service, "id": name, "namespace": name.split("/")[0], "name": name.split("/")[1], "clients": []} for name in names]
    steps = EDGES // SERVICES
    # Each calls some that come after it, and the last ones some of the first: circles, too.
    pairs = [(at, (at + 1 + 7 * step) % SERVICES) for at in range(SERVICES) for step in range(steps)]
    edges = [{**like, "id": f"{names[a]}>{names[b]}", "from": names[a], "to": names[b]} for a, b in pairs]
    return {**said, "services": services, "edges": edges}


class Large(http.server.BaseHTTPRequestHandler):
    """The page's files as they are in the source, and an answer that was made."""

    def __init__(self, said: bytes, *rest):
        self._said = said
        super().__init__(*rest)

    def do_GET(self):  # noqa: N802 - the name is the library's
        path = self.path.removeprefix("/assets/").lstrip("/") or "index.html"
        file = ASSETS / pathlib.Path(path).name
        body = self._said if self.path.startswith("/api/") else file.read_bytes() if file.is_file() else b""
        self.send_response(200 if body else 404)
        self.send_header("content-type", "application/json" if self.path.startswith("/api/") else KINDS.get(file.suffix, "text/plain"))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
