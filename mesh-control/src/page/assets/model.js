// From what the control plane says to what is shown: what is filtered out, and the shares of a service's versions over all its callers.

import { health } from "./format.js";

const ZERO = { window: 0, total: 0 };
const NONE = { rate: 0, error_rate: null, calls: ZERO, failed: ZERO, tries: ZERO, in_progress: 0, secured: null, latency_ms: null, buckets: [] };

/** What is shown of an answer, for services whose names hold `search`, and those that they call or are called by. */
export function modelOf(mesh, history, search) {
  const words = search.trim().toLowerCase();
  const byId = new Map(mesh.services.map((service) => [service.id, service]));
  let edges = mesh.edges.map((edge) => ({ ...edge, from_name: byId.get(edge.from)?.name ?? edge.from, to_name: byId.get(edge.to)?.name ?? edge.to }));
  let services = mesh.services;
  if (words) {
    const found = new Set(services.filter((one) => `${one.id} ${one.host ?? ""}`.toLowerCase().includes(words)).map((one) => one.id));
    edges = edges.filter((edge) => found.has(edge.from) || found.has(edge.to));
    const near = new Set([...found, ...edges.flatMap((edge) => [edge.from, edge.to])]);
    services = services.filter((one) => near.has(one.id));
  }
  const inbound = new Map();
  for (const edge of edges) (inbound.get(edge.to) ?? inbound.set(edge.to, []).get(edge.to)).push(edge);
  services = services.map((service) => {
    const into = inbound.get(service.id) ?? [];
    const shares = sharesOf(into, history);
    return { ...service, inbound: service.inbound ?? NONE, edges_in: into.length, shares, rows: shares.length };
  });
  return { services, edges, filtered: words !== "" };
}

/** Of a service that is called in versions, or by rules that name shares: each version's part, observed and configured. */
function sharesOf(edges, history) {
  const versions = new Map();
  let sum = 0;
  for (const edge of edges) {
    const split = history.split(edge);
    sum += split.sum;
    for (const one of edge.clusters) {
      const known = versions.get(one.name) ?? { name: one.name, calls: 0, configured: one.configured, worst: one.numbers };
      known.calls += split.counts.get(one.cluster) ?? 0;
      // Callers that were told different shares have none in common.
      if (known.configured !== one.configured) known.configured = null;
      if ((one.numbers.error_rate ?? 0) > (known.worst.error_rate ?? 0)) known.worst = one.numbers;
      versions.set(one.name, known);
    }
  }
  if (versions.size < 2) return [];
  const all = [...versions.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return all.map((one) => ({ name: one.name, configured: one.configured, observed: sum > 0 ? one.calls / sum : null, health: health(one.worst) }));
}
