// Small pictures for the panel.

import { html, svg } from "./elements.js";
import { count, duration, rate } from "./format.js";

const [WIDE, HIGH] = [320, 56];

/** Calls per second while the page was open, with the failed ones below. */
export function curve(points) {
  if (points.length < 2) return html("p", { class: "quiet" }, "A curve grows here while the page is open.");
  const most = Math.max(...points.map((point) => point.rate), 1e-9);
  const x = (at) => (at / (points.length - 1)) * WIDE;
  const y = (value) => HIGH - 2 - (value / most) * (HIGH - 8);
  const area = (key) => `M0 ${HIGH}${points.map((point, at) => `L${x(at).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("")}L${WIDE} ${HIGH}Z`;
  const line = points.map((point, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(point.rate).toFixed(1)}`).join("");
  return html("figure", {},
    svg("svg", { class: "curve", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": `Between ${rate(Math.min(...points.map((p) => p.rate)))} and ${rate(most)}` },
      svg("path", { class: "area", d: area("rate") }), svg("path", { class: "failed", d: area("failed") }), svg("path", { class: "top", d: line })),
    html("figcaption", {}, `at most ${rate(most)}`));
}

/** How long calls took: a bar for each of Istio's buckets from the first to the last that was hit. */
export function durations(counts, bounds) {
  const first = counts.findIndex((calls) => calls > 0);
  const last = counts.findLastIndex((calls) => calls > 0);
  if (first < 0) return html("p", { class: "quiet" }, "No call ended in the newest window, or its clients do not tell how long they took.");
  // Beyond the last bound there is none.
  const shown = counts.slice(first, last + 1).map((calls, at) => ({ calls, le_ms: bounds[first + at] ?? null }));
  const most = Math.max(...shown.map((bucket) => bucket.calls));
  const wide = WIDE / Math.max(shown.length, 4);
  const bars = shown.flatMap((bucket, at) => {
    const high = Math.max(1.5, (bucket.calls / most) * 46);
    const label = bucket.le_ms === null ? "more" : duration(bucket.le_ms).replace(" ms", "");
    return [
      svg("rect", { class: "bucket", x: at * wide + 2, y: 50 - high, width: wide - 4, height: high, rx: 2 },
        svg("title", {}, `${count(bucket.calls)} within ${bucket.le_ms === null ? "more" : duration(bucket.le_ms)}`)),
      svg("text", { class: "axis", x: at * wide + wide / 2, y: 63, "text-anchor": "middle" }, label),
    ];
  });
  const words = shown.map((bucket) => `${count(bucket.calls)} up to ${bucket.le_ms === null ? "more" : duration(bucket.le_ms)}`).join(", ");
  return svg("svg", { class: "durations", viewBox: `0 0 ${WIDE} 68`, role: "img", "aria-label": words }, ...bars);
}

/** A share, and where it should be. */
export function share(observed, configured, health) {
  const bar = svg("svg", { class: "bars", viewBox: "0 0 200 14", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", y: 3, width: 200, height: 8, rx: 4 }),
    svg("rect", { class: `share ${health}`, y: 3, width: 200 * (observed ?? 0), height: 8, rx: 4 }));
  if (configured !== null) bar.append(svg("rect", { class: "tick", x: Math.min(198, 200 * configured), y: 0, width: 2.5, height: 14 }));
  return bar;
}
