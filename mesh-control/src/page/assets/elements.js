// Elements of the page. Texts come from peers, who name themselves: they become text nodes and never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Changes a text only where it is another: what did not change is not laid out again, nor read out. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const CLOSED = "M5 7V5a3 3 0 0 1 6 0v2h1.2a.8.8 0 0 1 .8.8v5.4a.8.8 0 0 1-.8.8H3.8a.8.8 0 0 1-.8-.8V7.8a.8.8 0 0 1 .8-.8zm1.6 0h2.8V5a1.4 1.4 0 0 0-2.8 0z";
const OPEN = "M9.4 7V4.400a1.4 1.4 0 0 1 2.8 0V6h1.6V4.400a3 3 0 0 0-6 0V7H3.800a.8.8 0 0 0-.8.8v5.4a.8.8 0 0 0 .8.8h8.4a.8.8 0 0 0 .8-.8V7.8a.8.8 0 0 0-.8-.8z";

/** The shape of a padlock in a box of 16. */
export const padlock = (protection) => (protection === "all" ? CLOSED : OPEN);

/** A padlock that stands in a text. */
export const lock = (protection, words) =>
  svg("svg", { class: `lock ${protection}`, viewBox: "0 0 16 16", width: 14, height: 14, role: "img", "aria-label": words },
    svg("path", { d: padlock(protection) }));
