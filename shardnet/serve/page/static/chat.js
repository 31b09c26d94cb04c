// The conversation that is shown, and the answers that are being given, each to its conversation.

import { answer } from "./answering.js";
import { askJson, Refused } from "./api.js";
import { byId, icon, setText } from "./dom.js";
import { MessageView } from "./message.js";
import { copied, notice } from "./notices.js";
import { SettingsDialog } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Speaking } from "./speaking.js";
import * as store from "./store.js";

const KEEP_EVERY_MS = 3000;
const NEAR_END = 60;

export class Chat {
  constructor() {
    this.runs = new Map(); // of each conversation's id, the answer that is being given
    this.models = [];
    this.speaking = new Speaking();
    this.settings = new SettingsDialog();
    this.input = byId("message");
    this.transcript = byId("transcript");
    this.list = byId("messages");
    this.sidebar = new Sidebar({
      open: (id) => this.show(store.one(id) ?? store.newConversation()),
      begin: () => this.begin(),
      removed: (id) => this.removed(id),
    });
    store.whenChangedElsewhere((id) => this.changedElsewhere(id));
    this.listen();
    const last = store.all()[0];
    this.show(last ?? store.newConversation(store.setting("settings") ?? {}));
  }

  listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.run) this.stop();
      else this.send();
    });
    this.input.addEventListener("input", () => this.fit());
    this.input.addEventListener("keydown", (event) => {
      const isTyped = matchMedia("(pointer: coarse)").matches; // there Enter begins a line, as people expect on a phone
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !isTyped) {
        event.preventDefault();
        if (!this.run) this.send();
      }
    });
    byId("chat").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.run && !event.defaultPrevented) this.stop();
    });
    byId("open-settings").addEventListener("click", () => this.changeSettings());
    this.transcript.addEventListener("scroll", () => this.followOrNot(), { passive: true });
    byId("to-end").addEventListener("click", () => this.toEnd());
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]");
      if (button) copied(button.closest("figure").querySelector("code").textContent, button);
    });
    addEventListener("pagehide", () => this.runs.forEach((run) => store.keep(run.conversation)));
    document.addEventListener("visibilitychange", () => this.run && this.draw(this.run));
  }

  /** Learn which models there are. Where the server does not say, it is asked again with the first message. */
  async findModels(signal) {
    const found = await askJson("/v1/models", { signal });
    this.models = (found.data ?? []).map((each) => String(each.id));
    return this.models;
  }

  get run() {
    return this.runs.get(this.conversation.id);
  }

  begin() {
    this.show(store.newConversation(store.setting("settings") ?? {}));
    this.input.focus();
  }

  show(conversation) {
    const running = this.runs.get(conversation.id);
    this.conversation = running ? running.conversation : conversation;
    this.speaking.begin(running?.message.content.length);
    this.drawAll();
    this.sidebar.draw(this.conversation.id);
    this.toEnd();
  }

  removed(id) {
    for (const [each, run] of this.runs) {
      if (id !== null && id !== each) continue;
      this.runs.delete(each); // what still comes of it is nobody's, and is not kept anew
      run.controller.abort();
    }
    if (id === null || id === this.conversation.id) this.show(store.newConversation(store.setting("settings") ?? {}));
    else this.sidebar.draw(this.conversation.id);
  }

  /** Another tab has said something in a conversation, or deleted it: what is shown here would undo that. */
  changedElsewhere(id) {
    this.sidebar.draw(this.conversation.id);
    const isHere = id === null || id === this.conversation.id;
    if (!isHere || this.run || !this.conversation.messages.length || this.list.querySelector("textarea")) return;
    const { scrollTop } = this.transcript;
    const wasAtEnd = this.isAtEnd;
    this.show(store.one(this.conversation.id) ?? store.newConversation(store.setting("settings") ?? {}));
    if (!wasAtEnd) this.transcript.scrollTop = scrollTop;
  }

  changeSettings() {
    const { conversation } = this;
    this.settings.open(conversation.settings, this.models, (found) => {
      conversation.settings = found;
      store.setting("settings", found);
      store.keep(conversation);
      this.drawHead();
    });
  }

  // What is drawn

  drawAll() {
    const { messages } = this.conversation;
    this.views = messages.map((message, index) => this.viewOf(message, index));
    this.list.replaceChildren(...this.views.map((each) => each.element));
    this.updateLast();
    this.drawHead();
  }

  viewOf(message, index) {
    const view = new MessageView(message, {
      copy: copied,
      edit: (text) => this.askAgain(index, text),
      retry: () => this.askAgain(index - 1),
    });
    if (message.role === "assistant") view.update(true, false);
    return view;
  }

  updateLast() {
    this.views.forEach((view, index) => {
      const isLast = index === this.views.length - 1;
      if (view.message.role === "assistant") view.update(!(isLast && this.run), isLast);
    });
  }

  drawHead() {
    const isEmpty = !this.conversation.messages.length;
    byId("empty").hidden = !isEmpty;
    setText(byId("talk-title"), this.conversation.title || "New conversation");
    const changed = Object.keys(this.conversation.settings).length > 0;
    byId("open-settings").classList.toggle("is-set", changed);
    const send = byId("send");
    send.replaceChildren(icon(this.run ? "stop" : "send"));
    send.setAttribute("aria-label", this.run ? "Stop the answer" : "Send");
    send.title = this.run ? "Stop the answer (Esc)" : "Send";
    send.classList.toggle("is-stop", Boolean(this.run));
  }

  draw(run) {
    if (run.conversation !== this.conversation || run.isDrawing) return;
    run.isDrawing = true;
    requestAnimationFrame(() => {
      run.isDrawing = false;
      if (run.conversation !== this.conversation || !this.runs.has(this.conversation.id)) return;
      this.views.at(-1).update(false, true);
      this.stayAtEnd();
    });
  }

  fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }

  followOrNot() {
    const { scrollTop, scrollHeight, clientHeight } = this.transcript;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    byId("to-end").hidden = this.isAtEnd;
  }

  stayAtEnd() {
    if (this.isAtEnd) this.transcript.scrollTop = this.transcript.scrollHeight;
    else this.followOrNot();
  }

  toEnd() {
    this.transcript.scrollTop = this.transcript.scrollHeight;
    this.followOrNot();
  }

  // What is asked

  send() {
    const text = this.input.value.trim();
    if (!text) return;
    this.input.value = "";
    this.fit();
    this.append({ role: "user", content: text });
    this.answer();
  }

  /** Ask once more, from the message of an index on: as it is, or with another text. */
  askAgain(index, text) {
    this.run?.controller.abort();
    const { messages } = this.conversation;
    messages.splice(index + 1);
    if (text !== undefined) messages[index] = { role: "user", content: text };
    this.runs.delete(this.conversation.id);
    this.drawAll();
    this.answer();
    this.input.focus();
  }

  append(message) {
    const index = this.conversation.messages.push(message) - 1;
    this.views.push(this.viewOf(message, index));
    this.list.append(this.views[index].element);
    byId("empty").hidden = true;
  }

  async answer() {
    const { conversation } = this;
    const message = { role: "assistant", content: "", reasoning: "", notes: [] };
    const said = asRequest(conversation.messages);
    const run = { conversation, message, controller: new AbortController(), isDrawing: false, keptAt: Date.now() };
    this.runs.set(conversation.id, run);
    this.append(message);
    this.updateLast();
    this.keep(conversation);
    this.drawHead();
    this.toEnd();
    this.speaking.begin();
    this.speaking.say("Asked.");
    try {
      const model = await this.modelFor(conversation, run.controller.signal);
      const { stats } = await answer(said, conversation.settings, model, run.controller.signal, (got) => this.hear(run, got));
      message.stats = stats;
      if (!message.content && !message.reasoning) message.notes.push("The model said nothing.");
    } catch (error) {
      if (error.name === "AbortError") message.stopped = true;
      else if (error instanceof Refused) message.error = error.message;
      else message.error = `This page has made a mistake: ${error.message}`;
    }
    this.end(run);
  }

  async modelFor(conversation, signal) {
    if (!this.models.length) await this.findModels(signal);
    const wanted = conversation.settings.model;
    const model = this.models.includes(wanted) ? wanted : this.models[0];
    if (!model) throw new Refused("No model is loaded. Load one: shardnet load MODEL");
    return model;
  }

  hear(run, got) {
    if (this.runs.get(run.conversation.id) !== run) return; // asked anew meanwhile, or removed
    run.message.content = got.content;
    run.message.reasoning = got.reasoning;
    this.draw(run);
    if (run.conversation === this.conversation) this.speaking.hear(got.content);
    if (Date.now() > run.keptAt + KEEP_EVERY_MS) {
      run.keptAt = Date.now();
      this.keep(run.conversation);
    }
  }

  end(run) {
    if (this.runs.get(run.conversation.id) !== run) return; // asked anew meanwhile, or removed
    this.runs.delete(run.conversation.id);
    this.keep(run.conversation);
    if (run.conversation === this.conversation) {
      this.updateLast();
      this.stayAtEnd();
      this.drawHead();
      if (!run.message.error) this.speaking.hear(run.message.content, true);
      this.speaking.say(run.message.stopped ? "The answer was stopped." : run.message.error ? "" : "The answer is complete.");
    }
    if (run.message.error) this.models = []; // another one may be loaded now
  }

  stop() {
    this.run?.controller.abort();
  }

  keep(conversation) {
    const gone = store.keep(conversation);
    if (gone) notice(gone === 1 ? "The oldest conversation went, to make room." : `The ${gone} oldest conversations went, to make room.`);
    if (!store.areKept() && !this.hasWarned) {
      this.hasWarned = true;
      notice("This browser keeps nothing for this page: conversations are gone when it is closed. Export what you need.");
    }
    this.sidebar.draw(this.conversation.id);
    if (conversation === this.conversation) setText(byId("talk-title"), conversation.title || "New conversation");
  }

  /** Something happened to the cluster that those who wait for an answer may want to know. */
  note(text) {
    for (const run of this.runs.values()) {
      run.message.notes.push(text);
      this.draw(run);
    }
  }
}

/** What was said, as a request has it: no message is empty, and nobody speaks twice in a row. */
function asRequest(messages) {
  const said = [];
  for (const { role, content } of messages) {
    if (!content) continue;
    if (said.at(-1)?.role === role) said.at(-1).content += `\n\n${content}`;
    else said.push({ role, content });
  }
  return said;
}
