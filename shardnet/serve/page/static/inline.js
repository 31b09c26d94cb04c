// Markdown within a line: code, emphasis, links. Gives nodes, and never markup. No text takes more than linear time, but
// for emphasis, which is left out where a paragraph holds thousands of asterisks.

import { icon, make } from "./dom.js";

const MOST_MARKS = 1000;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const BARE = /https?:\/\/[^\s<>"'`]+/y;
const SCHEMES = new Set(["http:", "https:", "mailto:"]);
const WORD = /[\p{L}\p{N}_]/u;
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;

/** The nodes of a text. */
export function inline(text) {
  const found = scan(text);
  const marks = found.filter((each) => each.mark).length;
  return nodesOf(marks && marks <= MOST_MARKS ? emphasised(found) : found);
}

/** Where a link may lead, or null: to another page or a mailbox, never to a script or a file. */
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** A link to another page, which learns nothing of this one. What it shows may lie; its title does not. */
export function link(href, children) {
  return make("a", { href, rel: "noopener noreferrer nofollow", target: "_blank", title: href }, children);
}

// Pieces are {text}, {node}, or {mark, count, opens, closes} of asterisks and their like.
function scan(text) {
  const pieces = [];
  const lacking = new Set();
  const brackets = [];
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) pieces.push({ text: plain });
    plain = "";
  };
  const put = (node, length) => {
    flush();
    pieces.push({ node });
    at += length;
  };
  while (at < text.length) {
    const char = text[at];
    if (char === "\\" && ESCAPABLE.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (char === "`") {
      const run = runOf(text, at);
      const end = lacking.has(run) ? -1 : closing(text, at + run, run);
      if (end < 0) {
        lacking.add(run);
        plain += text.slice(at, at + run);
        at += run;
      } else {
        const code = text.slice(at + run, end).replaceAll("\n", " ");
        const trimmed = /^ .*[^ ].* $/s.test(code) ? code.slice(1, -1) : code;
        put(make("code", {}, trimmed), end + run - at);
      }
    } else if (char === "\n") {
      plain = plain.replace(/(?: +|\\)$/, "");
      put(make("br"), 1);
    } else if (char === "&") {
      const entity = /^&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([a-z]{2,5}));/.exec(text.slice(at, at + 12));
      const known = entity && decoded(entity);
      plain += known ?? "&";
      at += known ? entity[0].length : 1;
    } else if (char === "<") {
      const address = /^<([a-z][a-z+.-]{1,30}:[^\s<>]{1,2000})>/i.exec(text.slice(at, at + 2048));
      const href = address && safeAddress(address[1]);
      if (href) {
        put(link(href, address[1]), address[0].length);
      } else {
        plain += char;
        at += 1;
      }
    } else if (char === "[" || (char === "!" && text[at + 1] === "[")) {
      flush();
      brackets.push(pieces.length);
      const open = char === "[" ? "[" : "![";
      pieces.push({ text: open });
      at += open.length;
    } else if (char === "]") {
      at += closeBracket(text, at, pieces, brackets, flush, (more) => (plain += more));
    } else if ("*_~".includes(char)) {
      const run = runOf(text, at);
      flush();
      pieces.push(markAt(text, at, run));
      at += run;
    } else if (char === "h" && !WORD.test(text[at - 1] ?? " ")) {
      BARE.lastIndex = at;
      const address = BARE.exec(text)?.[0].replace(/(?:[.,:;!?*_~'")\]]|&\w+;)+$/, "");
      const href = address && address.length < 2048 && !brackets.length ? safeAddress(address) : null;
      if (href) {
        put(link(href, address), address.length);
      } else {
        plain += char;
        at += 1;
      }
    } else {
      plain += char;
      at += 1;
    }
  }
  flush();
  return pieces;
}

function closeBracket(text, at, pieces, brackets, flush, add) {
  const target = /^\]\(\s{0,9}(?:<([^<>\n]{0,2000})>|((?:[^\s()\\]|\\[()]|\([^\s()]{0,500}\)){0,2000}))(?:\s{1,9}(?:"[^"]{0,500}"|'[^']{0,500}'))?\s{0,9}\)/;
  const opened = brackets.pop();
  const found = opened === undefined || text[at + 1] !== "(" ? null : target.exec(text.slice(at, at + 3100));
  if (!found) {
    add("]");
    return 1;
  }
  flush();
  const inner = pieces.splice(opened);
  const isPicture = inner[0].text.startsWith("!");
  inner.shift();
  const href = safeAddress((found[1] ?? found[2]).replace(/\\([()])/g, "$1"));
  const children = nodesOf(inner.length <= MOST_MARKS ? emphasised(inner) : inner);
  if (isPicture) {
    pieces.push({ node: picture(href, children) });
  } else {
    pieces.push(...(href ? [{ node: link(href, withoutLinks(children)) }] : children.map((node) => ({ node }))));
    if (href) brackets.length = 0; // no link stands within another one
  }
  return found[0].length;
}

/** An image is never fetched: whoever has it would learn who reads this, and when. */
function picture(href, children) {
  const label = children.map((node) => node.textContent ?? node).join("") || "image";
  const shown = [icon("picture"), make("span", {}, label)];
  const about = "Images are not loaded";
  if (!href) return make("span", { class: "picture", title: about }, shown);
  const found = link(href, shown);
  found.classList.add("picture");
  found.title = `${about}. ${href}`;
  return found;
}

function withoutLinks(nodes) {
  return nodes.map((node) => (node instanceof HTMLAnchorElement ? document.createTextNode(node.textContent) : node));
}

function runOf(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

function closing(text, from, run) {
  for (let at = text.indexOf("`", from); at >= 0; ) {
    const found = runOf(text, at);
    if (found === run) return at;
    at = text.indexOf("`", at + found);
  }
  return -1;
}

function decoded([, decimal, hexadecimal, name]) {
  if (name) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : null;
  const code = decimal ? Number.parseInt(decimal, 10) : Number.parseInt(hexadecimal, 16);
  return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
}

function markAt(text, at, run) {
  const before = text[at - 1] ?? " ";
  const after = text[at + run] ?? " ";
  const left = !SPACE.test(after) && (!PUNCTUATION.test(after) || SPACE.test(before) || PUNCTUATION.test(before));
  const right = !SPACE.test(before) && (!PUNCTUATION.test(before) || SPACE.test(after) || PUNCTUATION.test(after));
  const mark = text[at];
  const isWord = mark === "_";
  return {
    mark,
    count: run,
    opens: left && !(isWord && right && !PUNCTUATION.test(before)) && !(mark === "~" && run > 2),
    closes: right && !(isWord && left && !PUNCTUATION.test(after)) && !(mark === "~" && run > 2),
  };
}

/** Pieces with pairs of marks made elements, the inner ones first (CommonMark 0.31, "process emphasis", simplified). */
function emphasised(pieces) {
  const done = [];
  for (const piece of pieces) {
    if (!piece.mark) {
      done.push(piece);
      continue;
    }
    const mine = { ...piece };
    while (mine.closes && mine.count) {
      const opener = done.findLastIndex((each) => each.mark === mine.mark && each.opens && each.count && fits(each, mine));
      if (opener < 0) break;
      const used = Math.min(2, mine.count, done[opener].count);
      const tag = mine.mark === "~" ? "del" : used === 2 ? "strong" : "em";
      const inner = nodesOf(done.splice(opener + 1));
      done[opener].count -= used;
      mine.count -= used;
      done.push({ node: make(tag, {}, inner) });
    }
    if (mine.count) done.push(mine);
  }
  return done;
}

function fits(opener, closer) {
  return closer.mark !== "~" || opener.count === closer.count;
}

function nodesOf(pieces) {
  return pieces
    .filter((each) => each.node || each.text || each.count)
    .map((each) => each.node ?? document.createTextNode(each.text ?? each.mark.repeat(each.count)));
}
