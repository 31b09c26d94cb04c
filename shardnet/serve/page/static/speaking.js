// What a screen reader is told of an answer while it comes: whole sentences, and nothing twice.

import { byId } from "./dom.js";

const LEAST = 60;
const SENTENCE = /[.!?:…][)"'”]?\s|\n/g;

export class Speaking {
  constructor() {
    this.region = byId("spoken");
    this.said = 0;
  }

  /** Another answer is heard from now on, of which so many characters need not be said. */
  begin(said = 0) {
    this.said = said;
    this.region.replaceChildren();
  }

  /** Say the sentences that are whole by now, and where it `isOver` the rest. */
  hear(text, isOver = false) {
    let end = isOver ? text.length : this.said;
    if (!isOver) {
      const rest = text.slice(this.said);
      for (const found of rest.matchAll(SENTENCE)) {
        if (found.index + found[0].length >= LEAST) end = this.said + found.index + found[0].length;
      }
    }
    if (end > this.said) this.say(text.slice(this.said, end));
    this.said = end;
  }

  say(text) {
    const line = document.createElement("p");
    line.textContent = text.replace(/[`*_#>|]+/g, " ").trim();
    this.region.append(line);
    while (this.region.childNodes.length > 20) this.region.firstChild.remove();
  }
}
