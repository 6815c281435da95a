// What was seen since the page was opened: the shares of the last minute, and the curves of the last five. The control plane keeps
// the newest window and the totals alone.

const MINUTE = 60_000;
const KEPT = 5 * MINUTE;

export class History {
  #samples = [];
  #weights = new Map();
  #since = new Map();

  /** Takes an answer in, at a moment in milliseconds. */
  take(mesh, now) {
    const edges = new Map();
    for (const edge of mesh.edges) {
      const clusters = new Map(edge.clusters.map((one) => [one.cluster, one.numbers.calls.total]));
      edges.set(edge.id, { calls: edge.numbers.calls.total, failed: edge.numbers.failed.total, clusters });
      // Shares are those since the weights were changed, as a canary's next step begins a new count.
      const weights = edge.clusters.map((one) => `${one.cluster}=${one.configured}`).join();
      if (this.#weights.has(edge.id) && this.#weights.get(edge.id) !== weights) this.#since.set(edge.id, now);
      this.#weights.set(edge.id, weights);
    }
    this.#samples.push({ now, edges });
    while (this.#samples[0].now < now - KEPT) this.#samples.shift();
  }

  /** How the calls of an edge were divided: `{counts: Map(cluster -> calls), seconds}`; by the newest window before there is more. */
  split(edge) {
    const newest = this.#samples.at(-1);
    const from = Math.max(newest.now - MINUTE, this.#since.get(edge.id) ?? 0);
    const oldest = this.#samples.find((sample) => sample.now >= from && sample.edges.has(edge.id));
    const [before, after] = [oldest?.edges.get(edge.id), newest.edges.get(edge.id)];
    const counts = new Map();
    let sum = 0;
    for (const one of edge.clusters) {
      const grown = (after?.clusters.get(one.cluster) ?? 0) - (before?.clusters.get(one.cluster) ?? 0);
      // A process that was started anew begins at nothing.
      counts.set(one.cluster, Math.max(0, grown));
      sum += Math.max(0, grown);
    }
    // Reports come in windows: of less than two of them some clients would be in it twice and others not at all.
    const seconds = Math.round((newest.now - (oldest?.now ?? newest.now)) / 1000);
    if (sum > 0 && seconds * 1000 >= 2 * edge.numbers.span_ms) return { counts, sum, seconds };
    sum = 0;
    for (const one of edge.clusters) {
      counts.set(one.cluster, one.numbers.calls.window);
      sum += one.numbers.calls.window;
    }
    return { counts, sum, seconds: Math.round(edge.numbers.span_ms / 1000) };
  }

  /** Calls and failures per second, from sample to sample. */
  curve(id) {
    const points = [];
    for (let at = 1; at < this.#samples.length; at += 1) {
      const [before, after] = [this.#samples[at - 1], this.#samples[at]];
      const [a, b] = [before.edges.get(id), after.edges.get(id)];
      if (!a || !b) continue;
      const seconds = (after.now - before.now) / 1000;
      points.push({
        now: after.now,
        rate: Math.max(0, b.calls - a.calls) / seconds,
        failed: Math.max(0, b.failed - a.failed) / seconds,
      });
    }
    return points;
  }
}
