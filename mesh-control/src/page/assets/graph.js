// The picture: cards of services, with the shares of their versions, and curves of calls. Built anew when services or edges come and
// go; numbers change in place, so that whoever holds an edge with the keyboard keeps it.

import { svg } from "./elements.js";
import { plural } from "./format.js";
import { CARD, layout } from "./layout.js";
import { drawEdge, drawService, pieces, portsOf } from "./shapes.js";

/** So many edges have their numbers beside them always; of more, those that are looked at. */
const LABELLED = 60;
const MARGIN = 36;

export class Graph {
  #canvas;
  #picture;
  #shape = "";
  #edges = new Map();
  #services = new Map();
  #view = null;
  #whole = null;
  #choose;
  #moved = false;

  constructor(canvas, choose) {
    this.#canvas = canvas;
    this.#choose = choose;
    this.#moves();
  }

  /** Draws what is there now. */
  draw(model) {
    const down = this.#canvas.clientWidth < 600;
    const shape = JSON.stringify([down, model.services.map((one) => [one.id, one.rows]), model.edges.map((one) => one.id)]);
    if (shape !== this.#shape) {
      this.#shape = shape;
      this.#build(model, down);
    }
    for (const service of model.services) this.#services.get(service.id)?.update(service);
    for (const edge of model.edges) this.#edges.get(edge.id)?.update(edge);
  }

  /** Marks what is chosen, and what belongs to it; `null`: nothing. */
  mark(chosen) {
    this.#picture?.classList.toggle("choosing", chosen !== null);
    for (const [id, edge] of this.#edges) {
      const is = chosen?.id === id;
      edge.group.classList.toggle("chosen", is);
      edge.group.classList.toggle("near", is || edge.from === chosen?.id || edge.to === chosen?.id);
    }
    const near = new Set([chosen?.id]);
    for (const edge of this.#edges.values()) {
      if (edge.group.classList.contains("near")) near.add(edge.from).add(edge.to);
    }
    for (const [id, service] of this.#services) {
      service.group.classList.toggle("chosen", chosen?.id === id);
      service.group.classList.toggle("near", near.has(id));
    }
  }

  focus(id) {
    (this.#edges.get(id) ?? this.#services.get(id))?.group.focus();
  }

  fit() {
    this.#moved = false;
    this.#look(this.#whole);
  }

  /** Comes closer or goes farther, around the middle or a point of the canvas. */
  zoom(factor, at = [0.5, 0.5]) {
    if (!this.#view) return;
    const [x, y, width, height] = this.#view;
    const next = Math.min(Math.max(width * factor, 200), this.#whole[2] * 4);
    const ratio = next / width;
    this.#moved = true;
    this.#look([x + width * at[0] * (1 - ratio), y + height * at[1] * (1 - ratio), next, height * ratio]);
  }

  #build(model, down) {
    const { places, lanes } = layout(model.services, model.edges, down);
    const labelled = model.edges.length <= LABELLED;
    this.#edges.clear();
    this.#services.clear();
    const [lines, cards] = [svg("g"), svg("g")];
    const ports = portsOf(model.edges, places, down);
    const taken = [];
    for (const edge of model.edges) {
      if (!places.has(edge.from) || !places.has(edge.to)) continue;
      const points = pieces(ports.get(edge.id), lanes.get(edge.id) ?? [], down);
      const drawn = drawEdge(edge, points, taken, labelled);
      this.#edges.set(edge.id, drawn);
      lines.append(drawn.group);
    }
    for (const service of model.services) {
      const drawn = drawService(service, places.get(service.id));
      this.#services.set(service.id, drawn);
      cards.append(drawn.group);
    }
    const title = `${plural(model.services.length, "service")}, ${plural(model.edges.length, "edge")}`;
    const picture = svg("svg", { role: "group", "aria-label": `Who calls whom: ${title}. Arrow keys go from edge to edge, Enter opens one.`, class: labelled ? "labelled" : "crowded" },
      cards, lines);
    this.#listen(picture);
    this.#picture = picture;
    this.#stops();
    let [right, bottom] = [0, 0];
    for (const place of places.values()) {
      [right, bottom] = [Math.max(right, place.x + CARD), Math.max(bottom, place.y + place.height)];
    }
    this.#whole = [-MARGIN, -MARGIN, right + 2 * MARGIN, bottom + 2 * MARGIN];
    // A narrow screen scrolls along a picture as wide as it is.
    const [, , width, height] = this.#whole;
    this.#canvas.parentElement.style.height = down ? `${Math.max(420, (height / width) * this.#canvas.clientWidth + 58).toFixed(0)}px` : "";
    this.#look(this.#moved ? this.#view : this.#whole);
    // Last: to ask for the size of the canvas with all of it in place would lay it out twice.
    this.#canvas.replaceChildren(picture);
  }

  /** The first edge takes the focus from outside; arrows go on from there. With few, each takes it. */
  #stops() {
    const few = this.#edges.size <= LABELLED;
    let first = true;
    for (const edge of this.#edges.values()) {
      edge.group.setAttribute("tabindex", few || first ? 0 : -1);
      first = false;
    }
  }

  /** One for all: to listen at each of two thousand would take longer than to draw them. */
  #listen(picture) {
    const at = (event) => event.target.closest("[data-edge], [data-service]")?.dataset;
    const look = (event) => this.#edges.get(at(event)?.edge)?.full();
    const open = (event) => {
      const { edge, service } = at(event) ?? {};
      look(event);
      if (edge) this.#choose({ kind: "edge", id: edge });
      else if (service) this.#choose({ kind: "service", id: service });
    };
    picture.addEventListener("click", open);
    picture.addEventListener("pointerover", look);
    picture.addEventListener("focusin", look);
    picture.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return this.#walk(event);
      event.preventDefault();
      open(event);
    });
  }

  #walk(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const groups = [...this.#edges.values()].map((edge) => edge.group);
    const at = groups.indexOf(document.activeElement);
    if (step === undefined || at < 0) return;
    event.preventDefault();
    groups[(at + step + groups.length) % groups.length].focus();
  }

  #look(view) {
    this.#view = view;
    // Small meshes are not blown up: a card is as large as it was drawn, at most.
    const [width, height] = [this.#canvas.clientWidth || 1, this.#canvas.clientHeight || 1];
    let [x, y, w, h] = view;
    if (view === this.#whole) {
      const grow = Math.max(1, width / 1.25 / w, 0);
      if (height / 1.25 > h && width / 1.25 > w) {
        [x, y, w, h] = [x - (width / 1.25 - w) / 2, y - (height / 1.25 - h) / 2, w * grow, height / 1.25];
        this.#view = [x, y, w, h];
      }
    }
    this.#picture?.setAttribute("viewBox", [x, y, w, h].map((one) => one.toFixed(1)).join(" "));
    this.#picture?.setAttribute("preserveAspectRatio", "xMidYMid meet");
  }

  #moves() {
    const canvas = this.#canvas;
    let from = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      this.zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height]);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => { from = { x: event.clientX, y: event.clientY, view: this.#view, gone: false }; });
    canvas.addEventListener("pointermove", (event) => {
      if (!from?.view || event.buttons === 0) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (!from.gone && Math.hypot(dx, dy) < 5) return;
      if (!from.gone) canvas.setPointerCapture(event.pointerId);
      from.gone = this.#moved = true;
      const scale = Math.max(from.view[2] / canvas.clientWidth, from.view[3] / canvas.clientHeight);
      this.#look([from.view[0] - dx * scale, from.view[1] - dy * scale, from.view[2], from.view[3]]);
    });
    canvas.addEventListener("click", (event) => { if (from?.gone) event.stopPropagation(); }, { capture: true });
    new ResizeObserver(() => { if (this.#whole && !this.#moved) this.#look(this.#whole); }).observe(canvas);
  }
}
