// How one more device gets in: a QR code and a command, in a dialog.

import { askJson } from "./api.js";
import { byId, draw, setText } from "./dom.js";
import { copied } from "./notices.js";

export class Invitation {
  constructor() {
    this.dialog = byId("invitation");
    byId("invite").addEventListener("click", () => this.open());
    byId("copy-command").addEventListener("click", (event) => copied(byId("invite-command").textContent, event.currentTarget));
    byId("copy-qr").addEventListener("click", (event) => copied(this.text, event.currentTarget));
    this.dialog.addEventListener("close", () => clearTimeout(this.again));
  }

  async open() {
    byId("invite-qr").replaceChildren();
    byId("invite-what").hidden = true;
    setText(byId("invite-error"), "Asking the cluster …");
    this.dialog.showModal();
    await this.draw();
  }

  async draw() {
    let told;
    try {
      told = await askJson("/cluster/invitation", { method: "POST" });
    } catch (error) {
      setText(byId("invite-error"), error.message);
      return;
    }
    this.text = told.qr;
    setText(byId("invite-error"), "");
    byId("invite-what").hidden = false;
    byId("invite-qr").replaceChildren(drawn(told.modules));
    setText(byId("invite-command"), told.command);
    setText(byId("invite-until"), until(told));
    if (this.dialog.open) this.again = setTimeout(() => this.draw(), 10000); // one that was used is replaced
  }
}

/** A QR code: dark on light whatever the colours of the page are, or no phone finds it. */
function drawn(rows) {
  const path = rows.flatMap((row, y) => [...row.matchAll(/1+/g)].map((run) => `M${run.index} ${y}h${run[0].length}v1h-${run[0].length}z`));
  const code = draw("path", { d: path.join(""), fill: "#000" });
  const size = rows.length;
  const light = draw("rect", { width: size, height: size, fill: "#fff" });
  return draw("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "QR code of the invitation", "shape-rendering": "crispEdges" }, light, code);
}

function until(told) {
  const code = told.code === null ? "" : `The code counts for ${left(told.code_until_s)}, `;
  const qr = `the QR code for ${left(told.qr_until_s)}.`;
  const said = code + qr;
  return `${said[0].toUpperCase()}${said.slice(1)} Each lets in one device.`;
}

function left(untilSeconds) {
  const minutes = Math.max(1, Math.round((untilSeconds - Date.now() / 1000) / 60));
  return minutes < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}
