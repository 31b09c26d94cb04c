// One message of a conversation, as it stands on the page.

import { aboutStats } from "./answering.js";
import { icon, make, setText } from "./dom.js";
import { Shown } from "./markdown.js";

/** A list item that shows a message; `acts` are called for its buttons: edit, retry, copy. */
export class MessageView {
  constructor(message, acts) {
    this.message = message;
    this.acts = acts;
    this.element = make("li", { class: `message ${message.role}` });
    if (message.role === "user") this.drawUser();
    else this.drawAnswer();
  }

  drawUser() {
    const text = make("div", { class: "said" }, this.message.content);
    const edit = button("edit", "Edit", () => this.edit());
    const copy = button("copy", "Copy", (event) => this.acts.copy(this.message.content, event.currentTarget));
    this.editButton = edit;
    this.element.replaceChildren(heading("You"), text, make("div", { class: "acts" }, edit, copy));
  }

  drawAnswer() {
    this.reasoning = make("div", { class: "prose" });
    this.thinking = make("details", { class: "thinking", hidden: true }, make("summary", {}, "Reasoning"), this.reasoning);
    this.body = make("div", { class: "prose" });
    this.shown = new Shown(this.body);
    this.shownReasoning = new Shown(this.reasoning);
    this.waiting = make("p", { class: "waiting", hidden: true }, make("span", { class: "dots", "aria-hidden": "true" }), "Waiting for the first word");
    this.error = make("div", { class: "failed", role: "alert", hidden: true });
    this.notes = make("ul", { class: "notes" });
    this.meta = make("span", { class: "meta" });
    this.copyButton = button("copy", "Copy", (event) => this.acts.copy(this.message.content, event.currentTarget));
    this.retryButton = button("retry", "Retry", () => this.acts.retry());
    const acts = make("div", { class: "acts" }, this.copyButton, this.retryButton, this.meta);
    this.element.replaceChildren(heading("Answer"), this.thinking, this.body, this.waiting, this.notes, this.error, acts);
  }

  /** Draw an answer as it is now. Only the last one can be asked for again. */
  update(isOver, isLast) {
    const { content, reasoning = "", error, stopped, stats, notes = [] } = this.message;
    this.shown.update(content, isOver);
    this.thinking.hidden = !reasoning;
    if (reasoning) this.shownReasoning.update(reasoning, isOver || Boolean(content));
    this.waiting.hidden = isOver || Boolean(content || reasoning);
    this.error.hidden = !error;
    setText(this.error, error ?? "");
    if (this.notes.childElementCount !== notes.length) {
      this.notes.replaceChildren(...notes.map((each) => make("li", {}, each)));
    }
    setText(this.meta, [stopped ? "stopped" : "", aboutStats(stats)].filter(Boolean).join(" · "));
    this.copyButton.hidden = !isOver || !content;
    this.retryButton.hidden = !isOver || !isLast;
    this.element.classList.toggle("is-answering", !isOver);
    this.element.setAttribute("aria-busy", String(!isOver));
  }

  edit() {
    const input = make("textarea", { rows: 3, "aria-label": "Your message, to be changed" });
    input.value = this.message.content;
    const back = () => {
      this.drawUser();
      this.editButton.focus();
    };
    const submit = () => {
      const text = input.value.trim();
      if (text) this.acts.edit(text);
      else input.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") back();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
      }
    });
    const ask = make("button", { type: "button", class: "primary small", on: { click: submit } }, "Ask this instead");
    const cancel = make("button", { type: "button", class: "small", on: { click: back } }, "Cancel");
    const hint = make("p", { class: "hint" }, "What was said after it goes.");
    this.element.replaceChildren(heading("You"), input, hint, make("div", { class: "row" }, ask, cancel));
    input.focus();
  }
}

function heading(text) {
  return make("h2", { class: "who" }, text);
}

function button(name, label, act) {
  return make("button", { type: "button", class: "quiet small", on: { click: act } }, icon(name), label);
}
