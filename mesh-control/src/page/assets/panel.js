// What is known of one edge or one service, beside the picture.

import * as charts from "./charts.js";
import { html, lock } from "./elements.js";
import { count, duration, ending, FLAGS, health, percent, plural, PROTECTION, protection, rate } from "./format.js";
import { badge } from "./tables.js";

/** The panel of an edge. */
export function edge(edge, { history, clients, bounds, choose }) {
  const { numbers } = edge;
  const how = protection(numbers);
  const split = history.split(edge);
  const tries = numbers.tries.total - numbers.calls.total - numbers.in_progress;
  return [
    head(html("h2", {}, link(edge.from, edge.from_name, choose), " → ", link(edge.to, edge.to_name, choose))),
    html("p", { class: `protection ${how}` }, lock(how, PROTECTION[how]), secured(numbers, how)),
    tiles([
      ["calls", rate(numbers.rate)],
      ["errors", percent(numbers.error_rate), health(numbers)],
      ["in flight", count(numbers.in_progress)],
      ["p50", duration(numbers.latency_ms?.p50)],
      ["p90", duration(numbers.latency_ms?.p90)],
      ["p99", duration(numbers.latency_ms?.p99)],
    ]),
    charts.curve(history.curve(edge.id)),
    section("Where it goes", `${plural(split.sum, "call")} in ${split.seconds} s`, shares(edge, split)),
    section("How long", "the newest window", charts.durations(numbers.buckets, bounds)),
    section("How it fails", "since its clients connected", failures(edge, numbers)),
    routes(edge),
    section("Who", plural(clients.length, "process").replace("processs", "processes"), html("ul", { class: "who" }, clients.map(client))),
    tries > 0 ? html("p", { class: "quiet" }, `${plural(tries, "try").replace("trys", "tries")} more than calls: they were repeated, or raced.`) : null,
  ];
}

/** The panel of a service. */
export function service(service, { callers, called, clients, choose }) {
  const row = (one, id, name) =>
    html("li", {}, html("button", { type: "button", class: "edge-link", onclick: () => choose({ kind: "edge", id: one.id }) },
      html("i", { class: `dot ${health(one.numbers)}` }), html("span", {}, name), html("b", {}, rate(one.numbers.rate)),
      html("small", {}, percent(one.numbers.error_rate ?? 0))));
  const list = (all, key) => html("ul", { class: "edges" }, all.map((one) => row(one, one[key], one[`${key}_name`])));
  return [
    head(html("h2", {}, service.name, " ", html("small", {}, service.namespace))),
    service.host ? html("p", { class: "quiet mono" }, service.host) : null,
    tiles([
      ["calls", rate(service.inbound.rate)],
      ["errors", percent(service.inbound.error_rate), health(service.inbound)],
      ["p99", duration(service.inbound.latency_ms?.p99)],
    ]),
    service.endpoints.length > 0
      ? section("Endpoints", "as configured", html("ul", { class: "who" }, service.endpoints.map((one) =>
          html("li", {}, html("span", {}, one.version), html("small", {}, `${one.healthy} of ${one.all} healthy`)))))
      : null,
    section("Called by", "", callers.length ? list(callers, "from") : html("p", { class: "quiet" }, "Nobody that is connected.")),
    section("Calls", "", called.length ? list(called, "to") : html("p", { class: "quiet" }, "Nobody.")),
    clients.length > 0 ? section("Its processes", "", html("ul", { class: "who" }, clients.map(client))) : null,
  ];
}

function secured({ secured, calls }, how) {
  if (!secured || calls.total === 0) return " Its clients do not tell what protects their calls, or made none.";
  if (how === "all") return " Every call goes over mutual TLS.";
  return ` ${count(secured.total)} of ${count(calls.total)} calls went over mutual TLS; what reached nobody went over nothing.`;
}

function head(title) {
  return html("div", { class: "panel-head" }, title, html("button", { type: "button", class: "close", "aria-label": "Close (Escape)", "data-close": true }, "×"));
}

function tiles(all) {
  return html("dl", { class: "tiles" }, all.map(([name, value, is]) => html("div", { class: is ?? "" }, html("dt", {}, name), html("dd", {}, value))));
}

function section(title, note, ...content) {
  return html("section", {}, html("h3", {}, title, note ? html("small", {}, note) : null), ...content);
}

function link(id, name, choose) {
  return html("button", { type: "button", class: "name-link", onclick: () => choose({ kind: "service", id }) }, name);
}

function shares(edge, split) {
  return html("table", { class: "shares" },
    html("thead", {}, html("tr", {}, ["", "", "of the calls", "configured", "errors", "p99"].map((title) => html("th", { scope: "col" }, title)))),
    html("tbody", {}, edge.clusters.map((one) => {
      const observed = split.sum > 0 ? split.counts.get(one.cluster) / split.sum : null;
      return html("tr", { title: one.cluster },
        html("th", { scope: "row" }, one.name), html("td", { class: "wide" }, charts.share(observed, one.configured, health(one.numbers))),
        html("td", {}, percent(observed)), html("td", {}, percent(one.configured)),
        html("td", {}, percent(one.numbers.error_rate)), html("td", {}, duration(one.numbers.latency_ms?.p99)));
    })));
}

function failures(edge, numbers) {
  const all = edge.clusters.flatMap((one) => one.failures.map((failure) => ({ ...failure, name: one.name })));
  const drops = edge.clusters.flatMap((one) => one.drops.map((drop) => ({ ...drop, name: one.name })));
  if (all.length + drops.length === 0) {
    return html("p", { class: "quiet" }, numbers.failed.total > 0 ? `${plural(numbers.failed.total, "failure")}; its clients do not tell which.` : "It did not.");
  }
  all.sort((a, b) => b.calls - a.calls || (ending(a) < ending(b) ? -1 : 1));
  const flags = (text) => (text === "-" ? null : html("small", {}, text.split(",").map((flag) => FLAGS[flag] ?? flag).join(", ")));
  return html("ul", { class: "failures" },
    all.map((one) => html("li", {}, html("b", {}, count(one.calls)), html("span", {}, html("code", {}, ending(one)), one.flags === "-" ? null : html("code", { class: "flags" }, one.flags), flags(one.flags)), html("small", {}, one.name))),
    drops.map((one) => html("li", {}, html("b", {}, count(one.calls)), html("span", {}, html("code", {}, "dropped"), html("small", {}, one.category ?? "for a limit of the cluster")), html("small", {}, one.name))));
}

function routes(edge) {
  if (edge.routes.length < 2) return null;
  return section("Rules", "in the order in which they are tried", html("ol", { class: "rules" }, edge.routes.map((route) =>
    html("li", {}, html("code", {}, route.match), html("small", {}, route.shares.map((share) => `${share.name} ${percent(share.share)}`).join(", "))))));
}

function client(one) {
  const refused = one.resources.filter((resource) => resource.state === "refused");
  return html("li", { class: refused.length ? "bad" : "" }, html("span", { class: "mono", title: one.node }, one.identity ?? one.node), badge(one),
    refused.map((resource) => html("p", { class: "reason" }, `${resource.kind}: ${resource.reason}`)));
}
