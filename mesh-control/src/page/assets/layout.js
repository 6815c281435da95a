// Where everything stands: layers from callers to the called, each in the order that crosses least. The same mesh gives the same
// picture, whoever looks and whenever: everything is sorted by name first and nothing is drawn by lot.

export const CARD = 216;
const HEAD = 52;
const ROW = 19;
const BETWEEN = 34;
const GAP = 190;
const SWEEPS = 8;
/** What an edge takes where it passes a layer. */
const LANE = 10;
/** The most services side by side on a narrow screen, so that their names can be read. */
const NARROW = 2;
/** How much wider than high a picture of many services becomes, as screens are. */
const ASPECT = 1.7;
/** So many edges pass between the cards of the layers that they skip; more would leave no room for cards. */
const LANED = 60;

/** How tall a service's card is. */
export const heightOf = (service) => HEAD + (service.rows > 0 ? service.rows * ROW + 6 : 0);
export { HEAD, ROW };

/**
 * Places of services by id, and of edges where they pass layers: `{places, lanes}`. `down`: from top to bottom, for narrow
 * screens.
 */
export function layout(services, edges, down) {
  const nodes = services.map((service) => ({ id: service.id, height: heightOf(service), out: [], in: [], rank: 0, order: 0 }));
  nodes.sort((a, b) => (a.id < b.id ? -1 : 1));
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const links = [];
  for (const edge of [...edges].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const [from, to] = [byId.get(edge.from), byId.get(edge.to)];
    if (!from || !to || from === to) continue;
    links.push({ from, to, id: edge.id });
  }
  rank(nodes, links);
  const lanes = new Map();
  const many = links.length > LANED;
  const most = down ? NARROW : many ? Math.ceil(Math.sqrt((nodes.length * (CARD + GAP)) / (ASPECT * (HEAD + BETWEEN)))) : Infinity;
  if (most < Infinity) columns(nodes, most, many);
  const layers = order(nodes, down || many ? links : passing(nodes, links, lanes));
  place(layers, down);
  return { places: byId, lanes };
}

/** Breaks layers of more than `most`; of many services it fills each, since a long chain would be a thin line. */
function columns(nodes, most, many) {
  const sorted = [...nodes].sort((a, b) => a.rank - b.rank || (a.id < b.id ? -1 : 1));
  let [column, filled, rank] = [0, 0, 0];
  for (const node of sorted) {
    if (filled === most || (!many && filled > 0 && node.rank !== rank)) [column, filled] = [column + 1, 0];
    rank = node.rank;
    node.rank = column;
    filled += 1;
  }
}

/** Edges that skip layers, in pieces: each has a place in every layer that it passes. */
function passing(nodes, links, lanes) {
  const pieces = [];
  for (const node of nodes) [node.out, node.in] = [[], []];
  for (const { from, to, id } of links) {
    let last = from;
    const passed = [];
    for (let rank = from.rank + 1; rank < to.rank; rank += 1) {
      const lane = { id: `${to.id} ${id}`, height: LANE, lane: true, out: [], in: [], rank, order: 0 };
      passed.push(lane);
      pieces.push({ from: last, to: lane });
      last = lane;
    }
    pieces.push({ from: last, to });
    if (passed.length > 0) lanes.set(id, passed);
    nodes.push(...passed);
  }
  for (const { from, to } of pieces) {
    if (from.rank >= to.rank) continue;
    from.out.push(to);
    to.in.push(from);
  }
  return pieces;
}

/** The longest way from whom nobody calls; what would close a circle is looked at from the other side. */
function rank(nodes, links) {
  for (const { from, to } of links) from.out.push(to);
  const state = new Map();
  const sorted = [];
  const called = new Set(links.map((link) => link.to));
  const visit = (first) => {
    const stack = [[first, 0]];
    state.set(first, 1);
    while (stack.length > 0) {
      const top = stack.at(-1);
      const [node] = top;
      if (top[1] < node.out.length) {
        const next = node.out[top[1]];
        top[1] += 1;
        if (state.get(next) === 1) {
          node.out.splice(top[1] - 1, 1);
          top[1] -= 1;
          next.out.includes(node) || node.in.push(next);
        } else if (!state.has(next)) {
          state.set(next, 1);
          stack.push([next, 0]);
        }
      } else {
        state.set(node, 2);
        sorted.push(node);
        stack.pop();
      }
    }
  };
  for (const node of nodes) if (!called.has(node) && !state.has(node)) visit(node);
  for (const node of nodes) if (!state.has(node)) visit(node);
  for (const node of nodes) node.in = [];
  for (const node of sorted.reverse()) {
    for (const next of node.out) {
      next.rank = Math.max(next.rank, node.rank + 1);
      next.in.push(node);
    }
  }
}

/** Sorts each layer by the middle of its neighbours, there and back, and keeps the best that was found. */
function order(nodes, links) {
  const whole = [];
  for (const node of nodes) (whole[node.rank] ??= []).push(node);
  for (const layer of whole) layer.forEach((node, at) => { node.order = at; });
  const middle = (node, others) => {
    if (others.length === 0) return node.order;
    return others.reduce((sum, other) => sum + other.order / Math.max(1, whole[other.rank].length - 1 || 1), 0) / others.length;
  };
  let [best, fewest] = [whole.map((layer) => [...layer]), crossings(links)];
  for (let sweep = 0; sweep < SWEEPS && fewest > 0; sweep += 1) {
    const forward = sweep % 2 === 0;
    for (const layer of forward ? whole : [...whole].reverse()) {
      const keys = new Map(layer.map((node) => [node, middle(node, forward ? node.in : node.out)]));
      const scale = Math.max(1, layer.length - 1);
      const key = (node) => ((forward ? node.in : node.out).length === 0 ? node.order / scale : keys.get(node));
      layer.sort((a, b) => key(a) - key(b) || (a.id < b.id ? -1 : 1));
      layer.forEach((node, at) => { node.order = at; });
    }
    const now = crossings(links);
    if (now < fewest) [best, fewest] = [whole.map((layer) => [...layer]), now];
  }
  best.forEach((layer) => layer.forEach((node, at) => { node.order = at; }));
  return best;
}

/** How many pairs of edges between the same layers cross, of at most so many edges: a measure, which need not be exact. */
const MEASURED = 600;
function crossings(links) {
  let crossed = 0;
  const some = links.length > MEASURED ? links.slice(0, MEASURED) : links;
  for (let a = 0; a < some.length; a += 1) {
    for (let b = a + 1; b < some.length; b += 1) {
      const [one, other] = [some[a], some[b]];
      if (one.from.rank !== other.from.rank || one.to.rank !== other.to.rank) continue;
      if ((one.from.order - other.from.order) * (one.to.order - other.to.order) < 0) crossed += 1;
    }
  }
  return crossed;
}

function place(layers, down) {
  const size = (node) => (down && !node.lane ? CARD : node.height);
  const breadth = (layer) => layer.reduce((sum, node) => sum + size(node) + BETWEEN, -BETWEEN);
  const widest = Math.max(0, ...layers.map(breadth));
  let along = 0;
  for (const layer of layers) {
    let across = (widest - breadth(layer)) / 2;
    for (const node of layer) {
      [node.x, node.y] = down ? [across, along] : [along, across];
      across += size(node) + BETWEEN;
    }
    const depth = down ? Math.max(...layer.map((node) => node.height)) : CARD;
    for (const node of layer) node.depth = depth;
    along += depth + (down ? 84 : GAP);
  }
}
