// The same in words: edges as a table, clients with what each acknowledged, and what the control plane has to say of its documents.

import { html, lock } from "./elements.js";
import { count, duration, health, percent, PROTECTION, protection, rate } from "./format.js";

/** Whether a client uses what it was sent. */
export function badge(client) {
  const states = client.resources.map((resource) => resource.state);
  const is = states.includes("refused") ? "refuses" : states.includes("waiting") ? "is being told" : states.length ? "in sync" : "no stream";
  return html("span", { class: `badge ${is.replaceAll(" ", "-")}` }, is);
}

/** The edges. */
export function edges(model, history, choose) {
  if (model.edges.length === 0) return [nothing(model)];
  const heads = ["From", "To", "Calls", "Errors", "p50", "p90", "p99", "In flight", "Protection", "Observed / configured"];
  const rows = model.edges.map((edge) => {
    const { numbers } = edge;
    const how = protection(numbers);
    const split = history.split(edge);
    const shares = edge.clusters.length < 2 ? "" : edge.clusters.map((one) =>
      `${one.name} ${percent(split.sum > 0 ? split.counts.get(one.cluster) / split.sum : null)} / ${percent(one.configured)}`).join(", ");
    return html("tr", { "data-edge": edge.id, onclick: () => choose({ kind: "edge", id: edge.id }) },
      html("th", { scope: "row" }, edge.from_name),
      html("td", {}, html("button", { type: "button", class: "name-link", "aria-label": `Open ${edge.from_name} to ${edge.to_name}` }, edge.to_name)),
      html("td", { class: "number" }, rate(numbers.rate)), html("td", { class: `number ${health(numbers)}` }, percent(numbers.error_rate)),
      html("td", { class: "number" }, duration(numbers.latency_ms?.p50)), html("td", { class: "number" }, duration(numbers.latency_ms?.p90)),
      html("td", { class: "number" }, duration(numbers.latency_ms?.p99)), html("td", { class: "number" }, count(numbers.in_progress)),
      html("td", {}, lock(how, PROTECTION[how]), " ", html("small", {}, PROTECTION[how])), html("td", {}, shares));
  });
  return [table("Who calls whom", heads, rows)];
}

/** The connected clients. */
export function clients(mesh) {
  if (mesh.clients.length === 0) return [html("p", { class: "nothing" }, "Nobody is connected.")];
  const kinds = ["LDS", "RDS", "CDS", "EDS", "ECDS"];
  const heads = ["Client", "Identity", "Address", "Told as", "", ...kinds, "Load reports"];
  const rows = mesh.clients.flatMap((client) => {
    const cell = (kind) => {
      const resource = client.resources.find((one) => one.kind === kind);
      if (!resource) return html("td", { class: "quiet" }, "–");
      return html("td", { class: `state ${resource.state}`, title: `sent ${resource.sent ?? "nothing"}` }, html("span", {}, resource.state), html("small", { class: "mono" }, resource.accepted ?? "–"));
    };
    const refused = client.resources.filter((one) => one.state === "refused");
    const reports = client.reports === null ? "none" : `${count(client.reports)}${client.left_out ? `, ${count(client.left_out)} left out` : ""}`;
    return [
      html("tr", {}, html("th", { scope: "row", class: "mono", title: client.node }, client.name ?? client.node), html("td", { class: "mono" }, client.identity ?? "–"),
        html("td", { class: "mono" }, client.address ?? "–"), html("td", {}, client.group || "–"), html("td", {}, badge(client)), ...kinds.map(cell), html("td", {}, reports)),
      ...refused.map((one) => html("tr", { class: "why" }, html("td", { colspan: heads.length }, html("b", {}, `refuses ${one.kind} ${one.sent ?? ""}: `), one.reason ?? "", one.refused_at ? html("small", {}, ` (since ${one.refused_at})`) : null))),
    ];
  });
  return [table("Who is connected, and what each uses", heads, rows)];
}

/** The folder, and what is to be said of it. */
export function configuration({ configuration }) {
  const { accepted, rejected, is_rejected: bad, diagnostics } = configuration;
  const about = bad
    ? "The newest reading of the folder was refused: what clients have is the last good one."
    : accepted === 0 ? "Nothing was published yet." : "The newest reading of the folder is published.";
  return [
    html("div", { class: `notice ${bad ? "bad" : "good"}` }, html("b", {}, about), html("small", {}, ` ${count(accepted)} published, ${count(rejected)} refused since the start.`)),
    diagnostics.length === 0 ? html("p", { class: "nothing" }, "Nothing is to be said of its documents.")
      : html("ul", { class: "diagnostics" }, diagnostics.map((one) => html("li", { class: one.severity },
        html("span", { class: `badge ${one.severity}` }, `${one.severity} ${one.code}`),
        html("code", {}, one.line > 0 ? `${one.file}:${one.line}:${one.column}` : one.file),
        html("p", {}, [one.document, one.field, one.message].filter(Boolean).join(": "))))),
  ];
}

/** What there is instead of a picture. */
export function nothing(model) {
  if (model.filtered) return html("p", { class: "nothing" }, "No service of that name calls, or is called.");
  return html("div", { class: "nothing" }, html("p", {}, "Nobody calls anybody yet."),
    html("p", { class: "quiet" }, "An edge appears with the first call of a client that is connected here, when it next reports."));
}

function table(caption, heads, rows) {
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    html("table", { class: "list" }, html("caption", {}, caption), html("thead", {}, html("tr", {}, heads.map((title) => html("th", { scope: "col" }, title)))), html("tbody", {}, rows)));
}
