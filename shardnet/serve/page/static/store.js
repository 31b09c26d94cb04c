// The conversations of this browser. They are kept here and nowhere else, and never grow beyond what a browser keeps.

const PREFIX = "shardnet.conversation.";
export const MOST_CONVERSATIONS = 50;
export const MOST_CHARACTERS = 2_000_000;
const MOST_TITLE = 60;
const ROLES = new Set(["user", "assistant"]);

let memory = new Map(); // where the browser keeps nothing
let keeps = true;

/** A conversation that nothing was said in. */
export function newConversation(settings = {}) {
  return { id: crypto.randomUUID?.() ?? fallbackId(), title: "", changed: Date.now(), messages: [], settings: { ...settings } };
}

function fallbackId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** All that are kept, the one that was changed last first. */
export function all() {
  const found = [];
  for (const name of names()) {
    const read = parsed(raw(name));
    if (read) found.push(read);
  }
  return found.sort((one, other) => other.changed - one.changed);
}

/** The one of an id, or null. */
export function one(id) {
  return parsed(raw(PREFIX + id));
}

/** Keep a conversation. Returns how many older ones had to go for it. Empty ones are not kept. */
export function keep(conversation) {
  if (!conversation.messages.length) return 0;
  if (!conversation.title) conversation.title = titleOf(conversation.messages[0].content);
  conversation.changed = Date.now();
  const text = JSON.stringify(conversation);
  let gone = 0;
  let others = sizes().filter((each) => each.id !== conversation.id);
  const isTooMuch = () => others.length >= MOST_CONVERSATIONS || total(others) + text.length > MOST_CHARACTERS;
  while (others.length && isTooMuch()) {
    remove(others.pop().id);
    gone += 1;
  }
  while (!write(PREFIX + conversation.id, text)) {
    others = sizes().filter((each) => each.id !== conversation.id);
    if (!others.length) {
      keeps = false; // it is full of other pages' things, or keeps nothing at all
      continue;
    }
    remove(others.pop().id);
    gone += 1;
  }
  return gone;
}

/** Whether conversations are here after the page was closed. */
export const areKept = () => keeps;

export function remove(id) {
  memory.delete(PREFIX + id);
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    keeps = false;
  }
}

export function removeAll() {
  for (const name of names()) remove(name.slice(PREFIX.length));
}

/** All of it as a file. */
export function exported(conversations) {
  const messages = ({ settings, messages }) => [
    ...(settings.system ? [{ role: "system", content: settings.system }] : []),
    ...messages.map(({ role, content }) => ({ role, content })),
  ];
  const shown = conversations.map((each) => ({
    title: each.title,
    changed: new Date(each.changed).toISOString(),
    messages: messages(each),
  }));
  return JSON.stringify({ conversations: shown }, null, 1);
}

/** Call when another tab has changed something, with the id of the conversation, or null where that may be any. */
export function whenChangedElsewhere(act) {
  addEventListener("storage", (event) => {
    if (event.key === null) act(null);
    else if (event.key.startsWith(PREFIX)) act(event.key.slice(PREFIX.length));
  });
}

/** A setting of this browser. */
export function setting(name, value) {
  try {
    if (value === undefined) return JSON.parse(localStorage.getItem(`shardnet.${name}`) ?? "null");
    localStorage.setItem(`shardnet.${name}`, JSON.stringify(value));
  } catch {
    // It is not kept, and holds until the page is closed.
  }
  return value ?? null;
}

export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].replace(/\s+/g, " ");
  const characters = [...line];
  return characters.length > MOST_TITLE ? `${characters.slice(0, MOST_TITLE).join("")}…` : line || "Without words";
}

function names() {
  const found = new Set(memory.keys());
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      const name = localStorage.key(index);
      if (name.startsWith(PREFIX)) found.add(name);
    }
  } catch {
    keeps = false;
  }
  return [...found];
}

function raw(name) {
  if (memory.has(name)) return memory.get(name);
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function write(name, text) {
  if (!keeps) {
    memory.set(name, text);
    return true;
  }
  try {
    localStorage.setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

function sizes() {
  return all().map((each) => ({ id: each.id, size: JSON.stringify(each).length }));
}

function total(found) {
  return found.reduce((sum, each) => sum + each.size, 0);
}

/** What was kept may have been changed by anybody: only what has the right shape is taken. */
function parsed(text) {
  try {
    const read = JSON.parse(text ?? "null");
    if (typeof read?.id !== "string" || !Array.isArray(read.messages)) return null;
    const messages = read.messages.filter((each) => ROLES.has(each?.role) && typeof each.content === "string").map(message);
    const settings = typeof read.settings === "object" && read.settings !== null ? read.settings : {};
    return { id: read.id, title: String(read.title ?? ""), changed: Number(read.changed) || 0, messages, settings };
  } catch {
    return null;
  }
}

function message({ role, content, reasoning, error, stopped, stats, notes }) {
  if (role === "user") return { role, content };
  const told = Array.isArray(notes) ? notes.map(String) : [];
  const found = { role, content, reasoning: String(reasoning ?? ""), notes: told, stopped: Boolean(stopped) };
  if (typeof error === "string") found.error = error;
  if (typeof stats?.seconds === "number" && typeof stats.firstAfter === "number") found.stats = stats;
  return found;
}
