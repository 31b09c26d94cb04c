// The placement: what the planner says of the stages, and what it predicts.

import { askJson, Refused } from "./api.js";
import { byId, make, setText } from "./dom.js";
import { counted, rate, size, unitsOf } from "./words.js";

export class Placement {
  constructor() {
    this.shown = "";
  }

  /** Ask for the plan where the model or its plan is another one than was shown. */
  async update(model, version) {
    const wanted = model ? `${version} ${model}` : "";
    if (wanted === this.shown || this.isAsking) return;
    if (!wanted) {
      this.shown = wanted;
      byId("placement").hidden = true;
      return;
    }
    this.isAsking = true;
    try {
      const plan = await askJson("/cluster/plan");
      this.draw(plan);
      this.shown = plan.version === version ? wanted : ""; // another one came meanwhile: ask again
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.shown = wanted;
      setText(byId("placement-summary"), `The plan is not known: ${error.message}`);
    } finally {
      this.isAsking = false;
    }
  }

  draw(plan) {
    byId("placement").hidden = false;
    setText(byId("placement-summary"), summary(plan));
    byId("placement-facts").replaceChildren(
      ...facts(plan).map(([name, value, hint]) => make("div", {}, make("dt", {}, name), make("dd", {}, value), hint && make("dd", { class: "hint" }, hint))),
    );
    byId("placement-stages").replaceChildren(
      ...plan.stages.map((stage, index) =>
        make(
          "tr",
          {},
          make("td", {}, String(index)),
          make("th", { scope: "row" }, stage.device),
          make("td", {}, unitsOf(stage.first_unit, stage.last_unit).replace(/^units? /, "")),
          make("td", { class: "right" }, size(stage.weight_bytes)),
          make("td", { class: "right" }, stage.kv_bytes_per_token ? `${size(1000 * stage.kv_bytes_per_token)}` : "–"),
        ),
      ),
    );
    const left = plan.left_out.map((each) => make("li", {}, make("strong", {}, each.device), `: ${each.why}`));
    byId("placement-left").replaceChildren(...left);
    byId("placement-left-out").hidden = !left.length;
  }
}

function summary(plan) {
  const how = plan.optimal ? ", proven best" : typeof plan.gap === "number" ? `, at most ${(100 * plan.gap).toFixed(1)}% from the best` : "";
  const why = plan.why ? ` ${plan.why[0].toUpperCase()}${plan.why.slice(1)}.`.replace(/\.\.$/, ".") : "";
  const method = plan.method ? ` by ${plan.method}, for ${plan.objective}${how}` : "";
  return `Plan ${plan.version}${method}: ${counted(plan.num_units, "unit")} of ${plan.model}, ${plan.numbers}.${why}`;
}

function facts(plan) {
  const found = [];
  if (plan.lap_s) {
    found.push(["Predicted, one conversation", `${rate(1 / plan.lap_s)} tokens/s`, `${(plan.lap_s * 1000).toFixed(1)} ms a token`]);
  }
  if (plan.rate_per_s) found.push(["Predicted, all together", `${rate(plan.rate_per_s)} tokens/s`, `for ${plan.objective}`]);
  if (plan.measured_lap_s) {
    found.push(["Measured, one conversation", `${rate(1 / plan.measured_lap_s)} tokens/s`, "middle of the latest"]);
  }
  found.push(["Weights", size(plan.weight_bytes), counted(new Set(plan.stages.map((each) => each.device)).size, "device")]);
  found.push(["Context", `${plan.context_tokens.toLocaleString()} tokens`, null]);
  return found;
}
