// What is asked of the server, and what is said where it cannot be had.

const KEY = "shardnet.key";
const AWAY = "The server does not answer. Is it still running, and is this device in its network?";

/** Something went wrong: a sentence for a person. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The key that was entered, as long as this tab is open, or for good. A browser that keeps nothing has it until then. */
export const key = {
  held: "",
  get() {
    return this.held || stored(() => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY)) || "";
  },
  set(value, forGood) {
    this.forget();
    if (!value) return;
    const isKept = stored(() => (forGood ? localStorage : sessionStorage).setItem(KEY, value) ?? true);
    if (!isKept) this.held = value;
  },
  forget() {
    this.held = "";
    stored(() => sessionStorage.removeItem(KEY));
    stored(() => localStorage.removeItem(KEY));
  },
};

function stored(act) {
  try {
    return act();
  } catch {
    return null; // it is full, or the browser lets this page keep nothing
  }
}

let askForKey = async () => false;

/** Name who asks the user for a key: called with why, resolves to whether one was entered. */
export function whenKeyIsWanted(ask) {
  askForKey = ask;
}

/** Ask the server. Resolves to the response; with a `body`, by POST. Raises Refused, or AbortError. */
export async function ask(path, { body, signal, method } = {}) {
  for (;;) {
    const used = key.get();
    const headers = used ? { authorization: `Bearer ${used}` } : {};
    if (body !== undefined) headers["content-type"] = "application/json";
    const request = {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
    };
    let response;
    try {
      response = await fetch(path, request);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(AWAY);
    }
    if (response.ok) return response;
    if (response.status === 401) {
      const why = used ? "The server does not know this key." : "This server wants a key.";
      if (used !== key.get() || (await askForKey(why))) continue;
      throw new Refused(`${why} Enter it, and ask again.`, 401);
    }
    throw new Refused(await sentence(response), response.status);
  }
}

/** The same, and what the answer holds. */
export async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch {
    throw new Refused("The server's answer cannot be read. Ask again.");
  }
}

async function sentence(response) {
  let said = "";
  try {
    const content = await response.json();
    const told = content?.error?.message ?? content?.detail;
    if (typeof told === "string") said = told;
  } catch {
    // A proxy, say, that knows no JSON.
  }
  const again = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const when = Number.isFinite(again) ? ` Ask again in ${again} s.` : "";
  if (said) return said + (/again in/i.test(said) ? "" : when);
  if (response.status === 429) return `The cluster has no room for another answer now.${when}`;
  if (response.status === 503) return `No model answers at the moment.${when}`;
  return `The server refused (${response.status}).${when}`;
}
