// What a person must hear now, at the edge of the screen, for a while.

import { byId, icon, make } from "./dom.js";

const SHOWN_MS = 7000;

/** Show a sentence; with an `act`, a button that does it. */
export function notice(text, { label = "", act = null, kind = "" } = {}) {
  const close = () => element.remove();
  const done = make("button", { type: "button", class: "quiet small", "aria-label": "Close", on: { click: close } }, icon("close"));
  const button =
    act && make("button", { type: "button", class: "small", on: { click: () => (close(), act()) } }, label);
  const element = make("div", { class: `notice ${kind}` }, make("span", {}, text), button, done);
  byId("notices").append(element);
  setTimeout(close, SHOWN_MS);
}

/** Ask whether something should really be done. */
export function confirmed(question, label) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = question;
  byId("confirm-yes").textContent = label;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Put a text where it can be pasted from. */
export async function copied(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    notice("The browser does not let this page copy here. Select the text, and copy it yourself.");
    return;
  }
  const label = button.lastChild;
  if (!label || button.dataset.copied) return;
  const before = label.textContent;
  button.dataset.copied = "yes";
  label.textContent = "Copied";
  setTimeout(() => {
    label.textContent = before;
    delete button.dataset.copied;
  }, 1500);
}
