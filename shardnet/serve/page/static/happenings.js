// What has happened to a cluster, put together: a loss and what came of it are one story. Pure.

const MOST = 200;
const BAD = new Set(["lost", "suspected", "session broke off", "not loaded", "not resumed"]);
const GOOD = new Set(["joined", "recovered", "loaded", "resumed", "heard again", "unpaused"]);

/** Whether an event is good, bad, or neither. */
export function moodOf(event) {
  return BAD.has(event.event) ? "bad" : GOOD.has(event.event) ? "good" : "";
}

/** The last events, the oldest first, without those of single conversations where there are many. */
export function withMore(events, event) {
  return [...events, event].slice(-MOST);
}

/**
 * The last loss, if there was one in the last `withinS` seconds: {text, isRepaired, atS}.
 *
 * A device that held nothing is lost and nothing is repaired; one that others take over from is, when the model goes on.
 */
export function lastLoss(events, nowS, withinS) {
  const index = events.findLastIndex((each) => each.event === "lost" || each.event === "left");
  const takenOver = events.findLastIndex((each) => each.event === "taken over");
  const from = Math.max(index, takenOver);
  if (from < 0) return null;
  const story = events[from];
  const recovered = events.slice(Math.min(...[index, takenOver].filter((each) => each >= 0))).findLast((each) => each.event === "recovered");
  const atS = recovered ? recovered.at_s : story.at_s;
  if (atS < nowS - withinS) return null;
  const who = story.device || events[index]?.device || "A device";
  const what = story.event === "left" ? "left" : "lost";
  if (recovered) {
    const took = typeof recovered.seconds === "number" ? ` in ${recovered.seconds < 0.1 ? recovered.seconds.toFixed(2) : recovered.seconds.toFixed(1)} s` : "";
    return { text: `${who} ${what}, repaired${took}`, isRepaired: true, atS };
  }
  const isHeld = takenOver >= 0 && Math.abs(events[takenOver].at_s - story.at_s) < withinS && story.event !== "left";
  return { text: isHeld ? `${who} ${what}, others take over` : `${who} ${what}`, isRepaired: false, atS };
}
