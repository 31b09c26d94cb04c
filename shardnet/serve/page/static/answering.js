// One answer: asked for, and read as it comes.

import { ask, Refused } from "./api.js";
import { eventsOf } from "./sse.js";
import { asked } from "./settings.js";

const CUT_OFF = "The answer was cut off: the connection to the server broke. What has come is kept; ask again for all of it.";

/**
 * Ask for an answer. `heard(answer)` is called for each piece, with all that has come: {content, reasoning}.
 *
 * Resolves to {content, reasoning, stats}; raises Refused, or AbortError where it was stopped.
 */
export async function answer(messages, settings, model, signal, heard) {
  const said = settings.system ? [{ role: "system", content: settings.system }, ...messages] : messages;
  const body = { model, messages: said, stream: true, stream_options: { include_usage: true }, ...asked(settings) };
  const begun = performance.now();
  const response = await ask("/v1/chat/completions", { body, signal });
  const got = { content: "", reasoning: "" };
  const stats = { tokens: null, cached: null, firstAfter: null, seconds: null, ended: null };
  let isOver = false;
  let lastAt = begun;
  try {
    for await (const { data } of eventsOf(response)) {
      if (data === "[DONE]") {
        isOver = true;
        break;
      }
      const chunk = readChunk(data);
      if (chunk.error) throw new Refused(String(chunk.error.message ?? "The answer broke off."), Number(chunk.error.code) || 0);
      if (takeChunk(chunk, got, stats)) {
        lastAt = performance.now();
        stats.firstAfter ??= (lastAt - begun) / 1000;
        heard(got);
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Refused) throw error;
    throw new Refused(CUT_OFF);
  }
  if (!isOver && stats.ended === null) throw new Refused(CUT_OFF);
  stats.seconds = (lastAt - begun) / 1000;
  return { ...got, stats };
}

function readChunk(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    throw new Refused("The server's answer cannot be read. Ask again.");
  }
}

/** Whether any text came. */
function takeChunk(chunk, got, stats) {
  if (chunk.usage) {
    stats.tokens = chunk.usage.completion_tokens ?? null;
    stats.cached = chunk.usage.prompt_tokens_details?.cached_tokens ?? null;
  }
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  stats.ended = choice.finish_reason ?? stats.ended;
  const content = choice.delta?.content ?? "";
  const reasoning = choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
  got.content += content;
  got.reasoning += reasoning;
  return Boolean(content || reasoning);
}

/** What an answer took, in words. */
export function aboutStats(stats) {
  if (!stats) return "";
  const parts = [];
  if (stats.tokens !== null) parts.push(stats.tokens === 1 ? "1 token" : `${stats.tokens} tokens`);
  const decoding = stats.seconds - stats.firstAfter;
  if (stats.tokens > 1 && decoding > 0) parts.push(`${((stats.tokens - 1) / decoding).toFixed(1)} tokens/s`);
  if (stats.firstAfter !== null) parts.push(`first after ${stats.firstAfter.toFixed(2)} s`);
  if (stats.ended === "length") parts.push("as long as was allowed");
  return parts.join(" · ");
}
