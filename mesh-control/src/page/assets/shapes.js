// What the picture is made of: curves with their numbers, and cards. Each is drawn once and then changed in place.

import { set, say, svg, padlock } from "./elements.js";
import { health, percent, PROTECTION, protection, rate, duration, plural } from "./format.js";
import { CARD, HEAD, ROW, heightOf } from "./layout.js";

const LABEL = { height: 20, wide: 112 };

/** Where each edge leaves and arrives: spread along the cards, in the order of the other ends. */
export function portsOf(edges, places, down) {
  const ports = new Map(edges.map((edge) => [edge.id, { from: null, to: null }]));
  const across = (id) => (down ? places.get(id)?.x : places.get(id)?.y) ?? 0;
  for (const [end, other] of [["from", "to"], ["to", "from"]]) {
    const of = Map.groupBy ? Map.groupBy(edges, (edge) => edge[end]) : group(edges, end);
    for (const [id, mine] of of) {
      const place = places.get(id);
      if (!place) continue;
      mine.sort((a, b) => across(a[other]) - across(b[other]) || (a.id < b.id ? -1 : 1));
      mine.forEach((edge, at) => {
        const length = down ? CARD : place.height;
        const spread = Math.min(length - 24, 18 * (mine.length - 1));
        const shift = mine.length === 1 ? 0 : (at / (mine.length - 1) - 0.5) * spread;
        const middle = length / 2 + shift;
        const far = end === "from";
        ports.get(edge.id)[end] = down
          ? { x: place.x + middle, y: place.y + (far ? place.height : 0) }
          : { x: place.x + (far ? CARD : 0), y: place.y + middle };
      });
    }
  }
  return ports;
}

function group(edges, end) {
  const of = new Map();
  for (const edge of edges) of.set(edge[end], [...(of.get(edge[end]) ?? []), edge]);
  return of;
}

/** A curve's four points: forward a wave, backward a loop around. */
function curve({ from, to }, down) {
  const ahead = down ? to.y - from.y : to.x - from.x;
  const reach = ahead > 0 ? Math.max(40, ahead * 0.5) : Math.min(260, 90 - ahead * 0.3);
  const bend = ahead > 0 ? 0 : 120;
  return down
    ? [from, { x: from.x + bend, y: from.y + reach }, { x: to.x + bend, y: to.y - reach }, to]
    : [from, { x: from.x + reach, y: from.y + bend }, { x: to.x - reach, y: to.y + bend }, to];
}

function at([a, b, c, d], t) {
  const mix = (key) => (1 - t) ** 3 * a[key] + 3 * (1 - t) ** 2 * t * b[key] + 3 * (1 - t) * t * t * c[key] + t ** 3 * d[key];
  return { x: mix("x"), y: mix("y") };
}

/** The curves of an edge, one for each layer that it crosses to; it passes cards in a straight line. */
export function pieces({ from, to }, lanes, down) {
  const all = [];
  let last = from;
  for (const lane of lanes) {
    const middle = lane.height / 2;
    const [into, out] = down
      ? [{ x: lane.x + middle, y: lane.y }, { x: lane.x + middle, y: lane.y + lane.depth }]
      : [{ x: lane.x, y: lane.y + middle }, { x: lane.x + lane.depth, y: lane.y + middle }];
    all.push(curve({ from: last, to: into }, down));
    last = out;
  }
  all.push(curve({ from: last, to }, down));
  return all;
}

/** A place on the curve for its numbers where no others are. */
function free(curves, taken) {
  const wide = LABEL.wide + 6;
  for (const points of curves) {
    for (const t of [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74]) {
      const spot = at(points, t);
      if (taken.every((other) => Math.abs(other.x - spot.x) > wide || Math.abs(other.y - spot.y) > LABEL.height + 4)) {
        taken.push(spot);
        return spot;
      }
    }
  }
  return at(curves[0], 0.5);
}

export function drawEdge(edge, curves, taken, labelled) {
  const xy = (point) => `${point.x.toFixed(1)} ${point.y.toFixed(1)}`;
  const path = curves.map(([start, ...rest], index) => `${index ? "L" : "M"}${xy(start)}C${rest.map(xy).join(" ")}`).join("");
  const spot = labelled ? free(curves, taken) : at(curves[0], 0.5);
  const line = svg("path", { d: path, class: "line" });
  const drawn = svg("g", { class: "edge", role: "button", "data-edge": edge.id }, line);
  let [label, known] = [null, edge];
  const full = () => {
    if (label) return;
    label = drawLabel(spot);
    drawn.prepend(svg("path", { d: path, class: "touch" }));
    drawn.append(...(labelled ? [svg("path", { d: path, class: "flow" })] : []), label.group);
    label.update(known);
  };
  // Of two thousand edges few are looked at: the others are a line each.
  if (labelled) full();
  const update = (now) => {
    known = now;
    set(drawn, "data-health", health(now.numbers));
    set(line, "stroke-width", (1.3 + Math.min(4.5, Math.log10(1 + now.numbers.rate) * 1.5)).toFixed(2));
    const how = protection(now.numbers);
    set(drawn, "data-protection", how);
    set(drawn, "aria-label", describe(now, how));
    label?.update(now);
  };
  return { group: drawn, update, full, from: edge.from, to: edge.to };
}

/** The numbers beside an edge. */
function drawLabel(spot) {
  const [icon, words, box] = [svg("path"), svg("text", { x: 20, y: 14 }), svg("rect", { rx: 6, height: LABEL.height })];
  const group = svg("g", { class: "label" }, box, svg("g", { transform: "translate(5 3.5) scale(.8)" }, icon), words);
  const update = ({ numbers }) => {
    const [how, text] = [protection(numbers), labelOf(numbers)];
    set(icon, "d", padlock(how));
    set(icon, "class", `lock ${how}`);
    say(words, text);
    // Six and a half to a letter: measuring each would lay everything out once more.
    const wide = 28 + text.length * 6.3;
    set(box, "width", wide.toFixed(0));
    set(group, "transform", `translate(${(spot.x - wide / 2).toFixed(1)} ${(spot.y - LABEL.height / 2).toFixed(1)})`);
  };
  return { group, update };
}

function labelOf(numbers) {
  const errors = numbers.error_rate > 0 ? ` · ${percent(numbers.error_rate)} err` : "";
  const slow = numbers.latency_ms ? ` · ${duration(numbers.latency_ms.p99)}` : "";
  return `${rate(numbers.rate)}${errors || slow}`;
}

export function describe(edge, how = protection(edge.numbers)) {
  const { numbers } = edge;
  const slow = numbers.latency_ms ? `, 99 of 100 within ${duration(numbers.latency_ms.p99)}` : "";
  return `${edge.from_name} to ${edge.to_name}: ${rate(numbers.rate)}, ${percent(numbers.error_rate ?? 0)} errors${slow}, ${PROTECTION[how]}`;
}

const BAR = 70;

export function drawService(service, place) {
  const height = heightOf(service);
  const [sub, ring, badge] = [svg("text", { class: "sub", x: 38, y: 39 }), svg("circle", { class: "error", cx: 20, cy: 26, r: 9 }), svg("text", { class: "badge", x: CARD - 12, y: 21, "text-anchor": "end" })];
  const name = svg("text", { class: "name", x: 38, y: 22 }, cut(service.name, 22));
  const rows = Array.from({ length: service.rows }, (_, at) => {
    const y = HEAD + at * ROW;
    const parts = {
      name: svg("text", { class: "version", x: 14, y: y + 10 }),
      track: svg("rect", { class: "track", x: 74, y: y + 2, width: BAR, height: 8, rx: 4 }),
      bar: svg("rect", { class: "share", x: 74, y: y + 2, height: 8, rx: 4 }),
      tick: svg("rect", { class: "tick", y: y - 1, width: 2, height: 14, rx: 1 }),
      text: svg("text", { class: "shares", x: CARD - 12, y: y + 10, "text-anchor": "end" }),
    };
    return { group: svg("g", { "data-version": "" }, ...Object.values(parts)), ...parts };
  });
  const drawn = svg("g", { class: "service", role: "button", tabindex: 0, "data-service": service.id, transform: `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})` },
    svg("rect", { class: "card", width: CARD, height, rx: 11 }),
    svg("circle", { class: "ring", cx: 20, cy: 26, r: 9 }), ring, name, sub, badge,
    ...rows.map((row) => row.group), svg("title", {}, service.host ?? service.id));
  const around = 2 * Math.PI * 9;
  const update = (now) => {
    const { inbound } = now;
    set(drawn, "data-health", now.edges_in === 0 ? "caller" : health(inbound));
    const share = inbound.error_rate ?? 0;
    set(ring, "stroke-dasharray", `${(share * around).toFixed(2)} ${around.toFixed(2)}`);
    const slow = inbound.latency_ms ? ` · p99 ${duration(inbound.latency_ms.p99)}` : "";
    say(sub, now.edges_in === 0 ? `${now.namespace} · ${plural(now.processes, "client")}` : `${rate(inbound.rate)}${slow}`);
    say(badge, now.refusing > 0 ? `⚠ ${now.refusing} refuses` : "");
    const words = [];
    now.shares.forEach((share, index) => {
      const row = rows[index];
      if (!row) return;
      say(row.name, cut(share.name, 9));
      set(row.group, "data-version", share.name);
      set(row.bar, "width", (BAR * (share.observed ?? 0)).toFixed(1));
      set(row.bar, "class", `share ${share.health}`);
      set(row.tick, "x", (73 + BAR * (share.configured ?? 0)).toFixed(1));
      set(row.tick, "visibility", share.configured === null ? "hidden" : "visible");
      const text = `${short(share.observed)} / ${short(share.configured)} %`;
      say(row.text, text);
      words.push(`${share.name}: ${short(share.observed)} percent of the calls, configured ${short(share.configured)}`);
    });
    set(drawn, "aria-label", `Service ${now.name} in ${now.namespace}: ${rate(inbound.rate)}, ${percent(share)} errors${words.length ? `; ${words.join("; ")}` : ""}`);
  };
  return { group: drawn, update };
}

const short = (share) => (share === null || share === undefined ? "–" : (share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0).replace(/\.0$/, ""));
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
