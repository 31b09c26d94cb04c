// Puts the page together: its two views, the colours, the key.

import { key, whenKeyIsWanted } from "./api.js";
import { Chat } from "./chat.js";
import { Cluster } from "./cluster.js";
import { byId, setText } from "./dom.js";
import { Invitation } from "./invitation.js";
import { notice } from "./notices.js";

const THEMES = ["system", "light", "dark"];
const VIEWS = ["chat", "cluster"];

/** Show the view that the address names. */
function route() {
  const wanted = location.hash.slice(1);
  const view = VIEWS.includes(wanted) ? wanted : "chat";
  for (const each of VIEWS) {
    byId(each).hidden = each !== view;
    const tab = byId(`to-${each}`);
    if (each === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = view === "chat" ? "Chat – shardnet" : "Cluster – shardnet";
  byId("skip").href = view === "chat" ? "#message" : "#cluster-title";
}

function setUpSkip() {
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the view
    byId(byId("skip").getAttribute("href").slice(1)).focus();
  });
}

function setUpTheme() {
  const button = byId("theme");
  const show = () => {
    const theme = document.documentElement.dataset.theme ?? "system";
    button.setAttribute("aria-label", `Colours: ${theme}. Change`);
    button.title = `Colours: ${theme}`;
    button.dataset.theme = theme;
  };
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("shardnet.theme", next);
    } catch {
      // It holds until the page is closed.
    }
    show();
  });
  show();
}

/** Whoever wants a key waits for the same dialog. */
function setUpKey(entered) {
  const dialog = byId("key");
  const input = byId("key-input");
  let asking = null;
  const askFor = (why) => {
    asking ??= new Promise((resolve) => {
      setText(byId("key-why"), why);
      input.value = "";
      byId("key-forget").hidden = !key.get();
      dialog.returnValue = "";
      dialog.showModal();
      input.focus();
      dialog.addEventListener(
        "close",
        () => {
          const isGiven = dialog.returnValue === "kept" && input.value.trim() !== "";
          if (isGiven) key.set(input.value.trim(), byId("key-for-good").checked);
          input.value = "";
          asking = null;
          resolve(isGiven);
        },
        { once: true },
      );
    });
    return asking;
  };
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("kept");
  });
  byId("key-forget").addEventListener("click", () => {
    key.forget();
    dialog.close("");
    notice("The key is forgotten on this device.");
  });
  byId("open-key").addEventListener("click", async () => {
    if (await askFor("A server that others can reach wants a key. Whoever started it has one.")) entered();
  });
  whenKeyIsWanted(askFor);
}

function setUpDialogs() {
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close(button.dataset.close));
  }
}

addEventListener("hashchange", route);
route();
setUpSkip();
setUpTheme();
setUpDialogs();
let cluster = null;
const chat = new Chat();
setUpKey(() => {
  chat.models = [];
  cluster.again();
});
new Invitation();
cluster = new Cluster((event) => chat.note(event.text));
chat.findModels().catch(() => {}); // the first question says it, where it matters
document.documentElement.dataset.ready = "yes";
