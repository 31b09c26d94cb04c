// The ring, drawn: a stage for each ring of colours, which say what its time goes to, and the way of the tokens between.

import { draw, make } from "./dom.js";
import { share, shortened, unitsOf } from "./words.js";

const WIDTH = 460;
const HEIGHT = 330;
const MOST_LABELLED = 12;
const KINDS = ["compute", "wire", "idle"];
const WORDS = { compute: "computing", wire: "on the wire", idle: "idle" };

export class Ring {
  constructor(element) {
    this.element = element;
    this.shape = "";
    this.arcs = [];
  }

  /** Draw the stages, as a status has them; tokens go round where it `flows`. */
  update(stages, flows) {
    const shape = JSON.stringify(stages.map((each) => [each.device, each.first_unit, each.last_unit]));
    if (shape !== this.shape) {
      this.shape = shape;
      this.build(stages);
    }
    if (!this.svg) return;
    this.svg.classList.toggle("flows", flows);
    stages.forEach((stage, index) => this.fill(index, stage));
    const said = stages.map((each, index) => `stage ${index}, ${each.device}, ${unitsOf(each.first_unit, each.last_unit)}, ${aboutShares(each)}`);
    this.svg.setAttribute("aria-label", `The ring: ${said.join("; ")}.`);
  }

  build(stages) {
    this.arcs = [];
    this.svg = null;
    if (!stages.length) {
      this.element.replaceChildren(make("p", { class: "hint" }, "No model is placed: there is no ring."));
      return;
    }
    const place = placing(stages.length);
    const links = stages.map((_, index) => draw("path", { class: "link", d: place.link(index), pathLength: 100 }));
    const dots = stages.map((_, index) => draw("path", { class: "dot", d: place.link(index), pathLength: 100 }));
    const nodes = stages.map((stage, index) => this.node(stage, index, place));
    this.svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "ring" }, links, dots, nodes);
    this.element.replaceChildren(this.svg);
  }

  node(stage, index, place) {
    const { x, y, radius } = place.node(index);
    const circle = (attributes) => draw("circle", { cx: x, cy: y, r: radius, ...attributes });
    const arcs = KINDS.map((kind) => circle({ class: `arc ${kind}`, pathLength: 100, transform: `rotate(-90 ${x} ${y})` }));
    this.arcs.push(arcs);
    const number = draw("text", { class: "number", x, y: y + 5 }, String(index));
    const label = place.label(index);
    const name = draw("text", { class: "name", x: label.x, y: label.y, "text-anchor": label.anchor }, shortened(stage.device, 12));
    const units = draw("text", { class: "units", x: label.x, y: label.y + 16, "text-anchor": label.anchor }, unitsOf(stage.first_unit, stage.last_unit));
    const labels = place.isLabelled ? [name, units] : [];
    return draw("g", { class: "node" }, draw("title", {}, stage.device), circle({ class: "face" }), arcs, number, labels);
  }

  fill(index, stage) {
    const known = KINDS.map((kind) => stage[`${kind}_share`]);
    const isKnown = known.every((each) => typeof each === "number");
    let from = 0;
    this.arcs[index].forEach((arc, which) => {
      const part = isKnown ? Math.min(1, Math.max(0, known[which])) * 100 : which === 2 ? 100 : 0;
      arc.style.strokeDasharray = `${Math.min(part, 100 - from)} 100`;
      arc.style.strokeDashoffset = String(-from);
      from = Math.min(100, from + part);
    });
  }
}

function placing(count) {
  const isLabelled = count <= MOST_LABELLED;
  const radius = count > 20 ? 9 : count > MOST_LABELLED ? 14 : count > 6 ? 20 : 27;
  const [cx, cy] = [WIDTH / 2, HEIGHT / 2 - 6];
  const [rx, ry] = isLabelled ? [118, 94] : [190, 130];
  const angle = (index) => -Math.PI / 2 + (2 * Math.PI * index) / count;
  const point = (turn) => [cx + rx * Math.cos(turn), cy + ry * Math.sin(turn)];
  const round = (value) => Math.round(value * 100) / 100;
  return {
    isLabelled,
    node(index) {
      const [x, y] = point(angle(index));
      return { x: round(x), y: round(y), radius };
    },
    link(index) {
      if (count === 1) return `M ${cx} ${round(cy - ry)} A ${rx} ${ry} 0 1 1 ${cx - 0.1} ${round(cy - ry)}`;
      const [x0, y0] = point(angle(index));
      const [x1, y1] = point(angle(index + 1));
      return `M ${round(x0)} ${round(y0)} A ${rx} ${ry} 0 0 1 ${round(x1)} ${round(y1)}`;
    },
    label(index) {
      const turn = angle(index);
      const [x, y] = point(turn);
      const across = Math.cos(turn);
      if (across > 0.3) return { x: x + radius + 12, y: y - 2, anchor: "start" };
      if (across < -0.3) return { x: x - radius - 12, y: y - 2, anchor: "end" };
      return Math.sin(turn) < 0
        ? { x, y: Math.max(14, y - radius - 32), anchor: "middle" }
        : { x, y: y + radius + 20, anchor: "middle" };
    },
  };
}

export function aboutShares(stage) {
  if (typeof stage.compute_share !== "number") return "not measured yet";
  return KINDS.map((kind) => `${share(stage[`${kind}_share`])} ${WORDS[kind]}`).join(", ");
}

/** Tokens per second in the last while, as a line. */
export class Sparkline {
  constructor(element, most) {
    this.values = [];
    this.most = most;
    this.line = draw("polyline", { class: "spark" });
    element.append(draw("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, this.line));
  }

  add(value) {
    this.values = [...this.values, value ?? 0].slice(-this.most);
    const top = Math.max(1, ...this.values);
    const step = 100 / (this.most - 1);
    const begin = this.most - this.values.length;
    const points = this.values.map((each, index) => `${((begin + index) * step).toFixed(1)},${(23 - (each / top) * 21).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
  }
}

