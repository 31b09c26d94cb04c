// How the model is asked: what is said to it beforehand, and how its next word is chosen. What is left empty is not sent,
// so that the server's own settings hold.

import { byId, make } from "./dom.js";

export const NUMBERS = [
  { name: "temperature", label: "Temperature", least: 0, most: 2, step: 0.05, hint: "0 always takes the likeliest word" },
  { name: "top_p", label: "Top p", least: 0, most: 1, step: 0.01, hint: "words that make up this share of likelihood" },
  { name: "top_k", label: "Top k", least: 0, most: 1000, step: 1, hint: "only so many of the likeliest words; 0: all" },
  { name: "min_p", label: "Min p", least: 0, most: 1, step: 0.01, hint: "none that is less likely than this share of the best" },
  { name: "max_tokens", label: "Longest answer", least: 1, most: 1000000, step: 1, hint: "in tokens, about ¾ of a word each" },
  { name: "seed", label: "Seed", least: 0, most: 9007199254740991, step: 1, hint: "the same seed, the same answer" },
  { name: "repetition_penalty", label: "Repetition penalty", least: 0.1, most: 10, step: 0.05, hint: "above 1: says less twice" },
  { name: "presence_penalty", label: "Presence penalty", least: -2, most: 2, step: 0.1, hint: "above 0: new subjects" },
  { name: "frequency_penalty", label: "Frequency penalty", least: -2, most: 2, step: 0.1, hint: "above 0: rarer words" },
];

/** What of some settings goes into a request. */
export function asked(settings) {
  const found = {};
  for (const { name, least, most } of NUMBERS) {
    const value = settings[name];
    if (typeof value === "number" && value >= least && value <= most) found[name] = value;
  }
  return found;
}

/** The dialog that changes settings; `open` shows those of a conversation, and calls back with the new ones. */
export class SettingsDialog {
  constructor() {
    this.dialog = byId("settings");
    this.form = byId("settings-form");
    const fields = NUMBERS.map((each) => {
      const id = `setting-${each.name}`;
      const input = make("input", {
        ...{ id, name: each.name, type: "number", min: each.least, max: each.most, step: each.step },
        ...{ inputmode: "decimal", placeholder: "as the server has it", "aria-describedby": `${id}-hint`, autocomplete: "off" },
      });
      const hint = make("span", { class: "hint", id: `${id}-hint` }, each.hint);
      return make("div", { class: "field" }, make("label", { for: id }, each.label), input, hint);
    });
    byId("settings-numbers").append(...fields);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.dialog.close("kept");
    });
    byId("settings-reset").addEventListener("click", () => {
      this.form.reset();
      this.system.value = "";
      this.system.focus();
    });
    this.dialog.addEventListener("close", () => {
      if (this.dialog.returnValue === "kept") this.done?.(this.read());
      this.dialog.returnValue = "";
    });
  }

  get system() {
    return byId("setting-system");
  }

  open(settings, models, done) {
    this.done = done;
    this.form.reset();
    this.system.value = typeof settings.system === "string" ? settings.system : "";
    for (const { name } of NUMBERS) byId(`setting-${name}`).value = settings[name] ?? "";
    const choice = byId("setting-model");
    choice.replaceChildren(...models.map((each) => make("option", { value: each }, each)));
    byId("model-field").hidden = models.length < 2;
    if (models.includes(settings.model)) choice.value = settings.model;
    this.dialog.showModal();
  }

  read() {
    const found = {};
    const system = this.system.value.trim();
    if (system) found.system = system;
    for (const { name } of NUMBERS) {
      const value = byId(`setting-${name}`).valueAsNumber;
      if (Number.isFinite(value)) found[name] = value;
    }
    const choice = byId("setting-model");
    if (choice.options.length > 1) found.model = choice.value;
    return found;
  }
}
