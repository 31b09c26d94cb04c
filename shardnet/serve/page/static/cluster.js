// The cluster: followed while the page is in sight, and shown.

import { ask, Refused } from "./api.js";
import { Devices } from "./devices.js";
import { byId, make, setText } from "./dom.js";
import { lastLoss, moodOf, withMore } from "./happenings.js";
import { Placement } from "./placement.js";
import { aboutShares, Ring, Sparkline } from "./ring.js";
import { eventsOf } from "./sse.js";
import { clock, counted, rate, unitsOf } from "./words.js";

const SILENT_MS = 6000;
const AGAIN_MS = [500, 1000, 2000, 4000];
const LOSS_SHOWN_S = 30;
const MOST_SHOWN = 60;
const SPARK_EVERY_MS = 1000;
const NOTED = new Set(["lost", "recovered", "taken over"]);

export class Cluster {
  /** `noted` is told in a sentence what those who wait for an answer may want to know. */
  constructor(noted) {
    this.noted = noted;
    this.events = [];
    this.status = null;
    this.openedAtS = Date.now() / 1000;
    this.ring = new Ring(byId("ring"));
    this.devices = new Devices(byId("devices"));
    this.placement = new Placement();
    this.spark = new Sparkline(byId("spark"), 60);
    this.sparkAt = 0;
    this.tries = 0;
    document.addEventListener("visibilitychange", () => this.followWhileSeen());
    this.followWhileSeen();
  }

  followWhileSeen() {
    if (document.hidden) this.controller?.abort();
    else if (!this.isFollowing) this.follow();
  }

  /** Begin anew, as after a key was entered. */
  again() {
    this.tries = 0;
    this.controller?.abort();
    clearTimeout(this.waiting);
    if (!this.isFollowing) this.follow();
  }

  async follow() {
    this.isFollowing = true;
    this.controller = new AbortController();
    const { signal } = this.controller;
    let silent = 0;
    const watch = () => {
      clearTimeout(silent);
      silent = setTimeout(() => this.controller.abort(), SILENT_MS);
    };
    let why = "The connection to the server broke.";
    try {
      const response = await ask("/cluster/events", { signal });
      watch();
      this.isAnew = true;
      for await (const { event, data } of eventsOf(response)) {
        watch();
        this.tries = 0;
        this.hear(event, JSON.parse(data));
      }
    } catch (error) {
      if (error instanceof Refused) why = error.message;
      if (error.status === 401) this.tries = Infinity;
    }
    clearTimeout(silent);
    this.isFollowing = false;
    if (document.hidden) return;
    this.away(why);
    if (this.tries === Infinity) return;
    this.waiting = setTimeout(() => !this.isFollowing && this.follow(), AGAIN_MS[Math.min(this.tries, AGAIN_MS.length - 1)]);
    this.tries += 1;
  }

  hear(kind, content) {
    if (kind === "away") {
      this.away(content.text);
    } else if (kind === "happened") {
      this.happened(content);
    } else if (kind === "status") {
      this.isAnew = false;
      this.status = content;
      this.draw();
    }
  }

  happened(event) {
    if (this.isAnew) {
      // The last events come first, of which this page may have some already.
      const isKnown = this.events.some((each) => each.at_s === event.at_s && each.text === event.text);
      if (isKnown) return;
    } else if (NOTED.has(event.event) && event.at_s > this.openedAtS - 5) {
      this.noted(event);
    }
    this.events = withMore(this.events, event);
    this.drawEvents();
    this.drawLoss();
  }

  away(why) {
    byId("pill").dataset.state = "away";
    setText(byId("pill-text"), "not connected");
    setText(byId("away"), why);
    byId("away").hidden = false;
    byId("cluster").classList.add("is-away");
  }

  draw() {
    const { status } = this;
    byId("away").hidden = true;
    byId("cluster").classList.remove("is-away");
    const flows = (status.tokens_per_s ?? 0) > 0.05;
    byId("pill").dataset.state = status.model ? (flows ? "busy" : "ready") : "none";
    const model = status.loading ? `loading ${status.loading}` : status.model || "no model";
    setText(byId("pill-text"), flows ? `${rate(status.tokens_per_s)} tokens/s` : model);
    setText(byId("fact-model"), model);
    setText(byId("fact-plan"), status.model ? `plan ${status.plan_version}, ${counted(status.stages.length, "stage")}` : status.why_none || "");
    setText(byId("fact-rate"), rate(status.tokens_per_s));
    setText(byId("fact-sessions"), status.sessions ? String(status.sessions.length) : "–");
    setText(byId("fact-sources"), sessionsInWords(status));
    setText(byId("fact-devices"), String(status.members.length));
    setText(byId("fact-states"), statesInWords(status.members));
    if (Date.now() > this.sparkAt + SPARK_EVERY_MS) {
      this.sparkAt = Date.now();
      this.spark.add(status.tokens_per_s);
    }
    this.ring.update(status.stages, flows);
    this.drawStages();
    this.devices.update(status.members, status.stages);
    byId("no-devices").hidden = status.members.length > 0;
    this.placement.update(status.model, status.plan_version);
    this.drawLoss();
  }

  drawStages() {
    const rows = this.status.stages.map((stage, index) => `${index}  ${stage.device}, ${unitsOf(stage.first_unit, stage.last_unit)}: ${aboutShares(stage)}`);
    const shown = [...byId("stages").children];
    rows.forEach((row, index) => {
      if (shown[index]) setText(shown[index], row);
      else byId("stages").append(make("li", {}, row));
    });
    shown.slice(rows.length).forEach((each) => each.remove());
  }

  drawLoss() {
    const loss = lastLoss(this.events, Date.now() / 1000, LOSS_SHOWN_S);
    const shown = byId("loss");
    shown.hidden = !loss;
    shown.classList.toggle("is-repaired", Boolean(loss?.isRepaired));
    setText(byId("loss-text"), loss ? `${loss.text}.` : "");
  }

  drawEvents() {
    const shown = this.events.slice(-MOST_SHOWN).reverse();
    byId("events").replaceChildren(
      ...shown.map((each) => {
        const time = make("time", { datetime: new Date(each.at_s * 1000).toISOString() }, clock(each.at_s));
        return make("li", { class: moodOf(each) || null }, time, make("span", {}, each.text));
      }),
    );
    byId("no-events").hidden = shown.length > 0;
  }
}

function sessionsInWords(status) {
  if (!status.sessions) return "";
  if (!status.sessions.length) return "nobody asks";
  const tokens = status.sessions.reduce((sum, each) => sum + each.num_tokens, 0);
  return `${counted(tokens, "token")} answered so far`;
}

function statesInWords(members) {
  const others = members.filter((each) => each.state !== "present");
  if (!others.length) return members.length ? "all present" : "none has joined";
  return others.map((each) => `${each.name} ${each.state}`).join(", ");
}
