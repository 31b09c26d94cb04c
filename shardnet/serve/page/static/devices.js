// The devices: a card for each, with what it holds and how it is. One that is gone stays there for a while, greyed.

import { make, setText } from "./dom.js";
import { counted, size, unitsOf } from "./words.js";

const GONE_MS = 15000;
const LOW_PERCENT = 20;
const HOT_C = 45;

export class Devices {
  constructor(element) {
    this.element = element;
    this.cards = new Map();
  }

  update(members, stages) {
    const numUnits = Math.max(1, ...stages.map((each) => each.last_unit + 1));
    const present = new Set(members.map((each) => each.name));
    for (const member of members) {
      if (!this.cards.has(member.name) || this.cards.get(member.name).goneAt) this.add(member.name);
      this.cards.get(member.name).show(member, numUnits);
    }
    for (const [name, card] of this.cards) {
      if (present.has(name)) continue;
      card.gone();
      if (Date.now() > card.goneAt + GONE_MS) this.remove(name);
    }
  }

  add(name) {
    this.remove(name);
    const card = new Card(name);
    this.cards.set(name, card);
    this.element.append(card.element);
  }

  remove(name) {
    this.cards.get(name)?.element.remove();
    this.cards.delete(name);
  }
}

class Card {
  constructor(name) {
    this.goneAt = 0;
    this.state = make("span", { class: "state" });
    this.units = make("p", { class: "held" });
    this.bar = make("div", { class: "bar units-bar", "aria-hidden": "true" });
    this.memoryBar = make("div", { class: "part" });
    this.facts = make("dl", {});
    this.values = new Map();
    this.why = make("p", { class: "hint", hidden: true });
    this.element = make(
      "li",
      { class: "device" },
      make("div", { class: "device-head" }, make("h3", {}, name), this.state),
      ...[this.units, this.bar, this.why, this.facts],
    );
    for (const fact of ["Memory", "Battery", "Temperature", "Computes on", "Conversations"]) {
      const value = make("dd", {});
      const row = make("div", {}, make("dt", {}, fact), value);
      if (fact === "Memory") row.append(make("div", { class: "bar", "aria-hidden": "true" }, this.memoryBar));
      this.values.set(fact, { row, value });
      this.facts.append(row);
    }
  }

  show(member, numUnits) {
    setText(this.state, member.state);
    this.state.dataset.state = member.state;
    const held = member.units.map(([first, last]) => unitsOf(first, last).replace(/^units? /, "")).join(", ");
    const isOne = member.units.length === 1 && member.units[0][0] === member.units[0][1];
    setText(this.units, held ? `Holds ${isOne ? "unit" : "units"} ${held}` : "Holds no units");
    this.drawUnits(member.units, numUnits);
    this.why.hidden = !member.why;
    setText(this.why, member.why ? `Pauses: ${member.why}.` : "");
    const { memory_bytes: memory, memory_usable_bytes: usable } = member;
    this.fact("Memory", memory === null ? null : `${size(memory)} held, ${size(usable)} free`);
    this.memoryBar.style.width = `${memory && usable !== null ? (100 * memory) / (memory + usable) : 0}%`;
    const battery = member.battery_percent;
    this.fact("Battery", battery === null ? null : `${Math.round(battery)}%${member.is_charging ? ", charging" : ""}`);
    this.warn("Battery", battery !== null && battery < LOW_PERCENT && !member.is_charging);
    this.fact("Temperature", member.temperature_c === null ? null : `${Math.round(member.temperature_c)} °C`);
    this.warn("Temperature", member.temperature_c >= HOT_C);
    const threads = member.num_threads === null ? "" : `, ${counted(member.num_threads, "thread")}`;
    this.fact("Computes on", member.compute ? `${member.compute}${threads}` : null);
    this.fact("Conversations", String(member.num_sessions));
  }

  gone() {
    if (this.goneAt) return;
    this.goneAt = Date.now();
    this.element.classList.add("is-gone");
    setText(this.state, "gone");
    this.state.dataset.state = "gone";
    setText(this.units, "Is not there any more");
    this.bar.replaceChildren();
  }

  fact(name, text) {
    const { row, value } = this.values.get(name);
    row.hidden = text === null;
    setText(value, text ?? "");
  }

  warn(name, isBad) {
    this.values.get(name).row.classList.toggle("is-bad", isBad);
  }

  drawUnits(units, numUnits) {
    const shape = JSON.stringify([units, numUnits]);
    if (shape === this.shape) return;
    this.shape = shape;
    this.bar.replaceChildren(
      ...units.map(([first, last]) => {
        const part = make("div", { class: "part" });
        part.style.left = `${(100 * first) / numUnits}%`;
        part.style.width = `${(100 * (last - first + 1)) / numUnits}%`;
        return part;
      }),
    );
  }
}
