// The page: asks the control plane every few seconds, and shows what it says. It only reads.

import { html, say, set } from "./elements.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { Graph } from "./graph.js";
import { History } from "./history.js";
import { modelOf } from "./model.js";
import * as panel from "./panel.js";
import * as tables from "./tables.js";

const API = "/api/v1/mesh";
/** Reports come every few seconds; to ask more often than this shows nothing newer. */
const [MIN_PAUSE, MAX_PAUSE, PATIENCE] = [1000, 5000, 10_000];
const VIEWS = ["graph", "table", "clients", "configuration"];

const find = (id) => document.getElementById(id);
const history = new History();
const graph = new Graph(find("canvas"), (what) => choose(what));
let [mesh, model, chosen, view, opener] = [null, null, null, "graph", null];

async function ask() {
  let pause = MAX_PAUSE;
  try {
    const answer = await fetch(API, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
    if (!answer.ok) throw new Error(`the control plane answered ${answer.status}`);
    mesh = await answer.json();
    history.take(mesh, Date.now());
    pause = Math.min(Math.max(mesh.interval_ms / 2, MIN_PAUSE), MAX_PAUSE);
    document.body.classList.remove("stale");
    show();
  } catch (error) {
    document.body.classList.add("stale");
    say(find("state"), mesh ? "Lost the control plane: this is what it said last." : `Cannot reach the control plane: ${error.message}`);
  }
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", ask, { once: true }) : ask()), pause);
}

function show() {
  if (!mesh) return;
  model = modelOf(mesh, history, find("search").value);
  head();
  if (view === "graph") {
    if (model.edges.length + model.services.length > 0) {
      graph.draw(model);
      graph.mark(chosen);
    } else find("canvas").replaceChildren(tables.nothing(model));
  }
  if (view === "table") refill("view-table", tables.edges(model, history, choose));
  if (view === "clients") refill("view-clients", tables.clients(mesh));
  if (view === "configuration") refill("view-configuration", tables.configuration(mesh));
  if (chosen) details();
  if (!document.documentElement.dataset.firstPictureMs) {
    requestAnimationFrame(() => setTimeout(() => { document.documentElement.dataset.firstPictureMs = performance.now().toFixed(0); }));
  }
}

/** Fills anew, and gives the focus back to what had it. */
function refill(id, content) {
  const [into, focused] = [find(id), document.activeElement];
  const [all, scroll] = [[...into.querySelectorAll("button, [tabindex]")], into.querySelector(".scroll")];
  const at = all.indexOf(focused);
  const [top, left] = [scroll?.scrollTop ?? 0, scroll?.scrollLeft ?? 0];
  into.replaceChildren(...content);
  if (at >= 0) into.querySelectorAll("button, [tabindex]")[at]?.focus({ preventScroll: true });
  into.querySelector(".scroll")?.scrollTo({ top, left });
}

function head() {
  const { totals, configuration, clients } = mesh;
  const refusing = clients.filter((one) => one.resources.some((resource) => resource.state === "refused")).length;
  const errors = configuration.diagnostics.filter((one) => one.severity === "error").length;
  const state = configuration.is_rejected ? "The newest configuration was refused; the last good one serves."
    : refusing > 0 ? `${plural(refusing, "client")} ${refusing === 1 ? "refuses" : "refuse"} what it was sent.` : "Everybody uses what was published.";
  say(find("state"), clients.length === 0 ? "Nobody is connected." : state);
  set(find("state"), "class", configuration.is_rejected || refusing > 0 ? "bad" : "good");
  const all = [
    ["services", count(mesh.services.length)], ["clients", count(clients.length)], ["calls", rate(totals.rate)],
    ["errors", percent(totals.error_rate), totals.error_rate > 0.05 ? "bad" : totals.error_rate > 0.001 ? "warn" : ""],
    ["p50", duration(totals.latency_ms?.p50)], ["p99", duration(totals.latency_ms?.p99)],
    ["mutual TLS", totals.secured && totals.calls.total > 0 ? percent(totals.secured.total / totals.calls.total) : "–"],
  ];
  find("tiles").replaceChildren(...all.map(([name, value, is]) => html("div", { class: is ?? "" }, html("dt", {}, name), html("dd", {}, value))));
  say(find("count-clients"), refusing > 0 ? `⚠ ${refusing}` : count(clients.length));
  say(find("count-configuration"), errors > 0 ? `⚠ ${errors}` : "");
}

function choose(what) {
  if (what && !chosen) opener = document.activeElement;
  chosen = what;
  graph.mark(chosen);
  const aside = find("panel");
  aside.hidden = what === null;
  document.body.classList.toggle("with-panel", what !== null);
  if (what === null) {
    aside.replaceChildren();
    if (opener?.isConnected) opener.focus({ preventScroll: true });
    opener = null;
    return;
  }
  details();
  aside.querySelector("[data-close]")?.focus({ preventScroll: true });
  if (matchMedia("(max-width: 599px)").matches) aside.scrollIntoView({ block: "start" });
}

function details() {
  const of = (ids) => mesh.clients.filter((client) => ids.includes(client.stream));
  let content = null;
  if (chosen.kind === "edge") {
    const edge = model.edges.find((one) => one.id === chosen.id);
    content = edge && panel.edge(edge, { history, clients: of(edge.clients), bounds: mesh.bounds_ms, choose });
  } else {
    const service = model.services.find((one) => one.id === chosen.id);
    const [callers, called] = [model.edges.filter((one) => one.to === chosen.id), model.edges.filter((one) => one.from === chosen.id)];
    content = service && panel.service(service, { callers, called, clients: of(service.clients), choose });
  }
  if (!content) return choose(null);
  const aside = find("panel");
  const [focused, top] = [[...aside.querySelectorAll("button")].indexOf(document.activeElement), aside.scrollTop];
  aside.replaceChildren(...content.filter(Boolean));
  aside.querySelector("[data-close]").addEventListener("click", () => choose(null));
  if (focused >= 0) aside.querySelectorAll("button")[focused]?.focus({ preventScroll: true });
  aside.scrollTop = top;
}

function open(next) {
  view = next;
  for (const one of VIEWS) {
    find(`view-${one}`).hidden = one !== next;
    const tab = find(`tab-${one}`);
    tab.setAttribute("aria-selected", one === next);
    tab.tabIndex = one === next ? 0 : -1;
  }
  show();
}

for (const [at, name] of VIEWS.entries()) {
  const tab = find(`tab-${name}`);
  tab.addEventListener("click", () => open(name));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = VIEWS[(at + step + VIEWS.length) % VIEWS.length];
    open(next);
    find(`tab-${next}`).focus();
  });
}
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  open("table");
  find("view-table").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) choose(null);
  else if (event.key === "/" && document.activeElement !== find("search")) {
    event.preventDefault();
    find("search").focus();
  }
});
find("search").addEventListener("input", show);
find("zoom-in").addEventListener("click", () => graph.zoom(1 / 1.3));
find("zoom-out").addEventListener("click", () => graph.zoom(1.3));
find("zoom-fit").addEventListener("click", () => graph.fit());
find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark")) === "dark";
  root.dataset.theme = dark ? "light" : "dark";
});
let narrow = innerWidth < 600;
addEventListener("resize", () => {
  if (narrow !== innerWidth < 600) {
    narrow = !narrow;
    show();
  }
});
ask();
