// The list of conversations: beside the one that is shown, and on a small screen over it.

import { byId, icon, make } from "./dom.js";
import { confirmed } from "./notices.js";
import * as store from "./store.js";

export class Sidebar {
  constructor(acts) {
    this.acts = acts;
    this.element = byId("sidebar");
    this.toggle = byId("open-sidebar");
    this.isNarrow = matchMedia("(max-width: 760px)");
    byId("new-conversation").addEventListener("click", () => this.choose(() => this.acts.begin()));
    byId("export").addEventListener("click", () => save(store.all()));
    byId("delete-all").addEventListener("click", () => this.removeAll());
    this.toggle.addEventListener("click", () => this.set(!this.isOpen));
    byId("sidebar-shade").addEventListener("click", () => this.set(false));
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isOpen) {
        event.preventDefault();
        this.set(false);
        this.toggle.focus();
      }
    });
    this.isNarrow.addEventListener("change", () => this.set(false));
    this.set(false);
  }

  /** Only a small screen knows open and closed. */
  set(isOpen) {
    this.isOpen = isOpen && this.isNarrow.matches;
    this.element.classList.toggle("is-open", this.isOpen);
    this.element.inert = this.isNarrow.matches && !this.isOpen;
    byId("sidebar-shade").hidden = !this.isOpen;
    this.toggle.setAttribute("aria-expanded", String(this.isOpen));
    if (this.isOpen) byId("new-conversation").focus();
  }

  choose(act) {
    this.set(false);
    act();
  }

  draw(current) {
    this.current = current;
    const found = store.all();
    const held = document.activeElement?.closest?.("#conversations button")?.dataset;
    byId("conversations").replaceChildren(...found.map((each) => this.row(each)));
    byId("no-conversations").hidden = found.length > 0;
    byId("export").disabled = byId("delete-all").disabled = found.length === 0;
    if (held?.id) byId("conversations").querySelector(`[data-id="${CSS.escape(held.id)}"][data-act="${held.act}"]`)?.focus();
  }

  row(conversation) {
    const { id, title } = conversation;
    const isCurrent = id === this.current ? "true" : null;
    const open = make(
      "button",
      { type: "button", class: "conversation", "aria-current": isCurrent, title, "data-id": id, "data-act": "open" },
      title || "New conversation",
    );
    open.addEventListener("click", () => this.choose(() => this.acts.open(id)));
    const remove = make(
      "button",
      { type: "button", class: "quiet small", "aria-label": `Delete: ${title}`, title: "Delete", "data-id": id, "data-act": "remove" },
      icon("trash"),
    );
    remove.addEventListener("click", () => this.remove(conversation));
    return make("li", { class: isCurrent ? "is-current" : null }, open, remove);
  }

  async remove({ id, title }) {
    if (!(await confirmed(`Delete “${title}”? It is kept nowhere else.`, "Delete"))) return;
    store.remove(id);
    this.acts.removed(id);
    byId("new-conversation").focus();
  }

  async removeAll() {
    if (!(await confirmed("Delete all conversations of this browser? They are kept nowhere else.", "Delete all"))) return;
    store.removeAll();
    this.acts.removed(null);
    byId("new-conversation").focus();
  }
}

function save(conversations) {
  const url = URL.createObjectURL(new Blob([store.exported(conversations)], { type: "application/json" }));
  const day = new Date().toISOString().slice(0, 10);
  make("a", { href: url, download: `shardnet-conversations-${day}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
