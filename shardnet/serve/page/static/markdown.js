// Markdown in blocks: paragraphs, headings, lists, quotes, tables, code. Gives elements, and never markup: HTML in a
// text is shown as it stands. What has come before stays as it is drawn while a text grows.

import { icon, make } from "./dom.js";
import { coloured } from "./highlight.js";
import { inline } from "./inline.js";

const MOST_DEPTH = 10;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|)$/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Shows a text that grows within an element. */
export class Shown {
  constructor(element) {
    this.element = element;
    this.blocks = [];
  }

  /** Draw the text. Only blocks that differ from those of last time are made anew. Unless it `isOver`, more follows. */
  update(text, isOver) {
    const blocks = blocksOf(text.replace(/\r\n?/g, "\n").split("\n"));
    blocks.forEach((block, index) => {
      block.isOpen = !isOver && index === blocks.length - 1;
    });
    let same = 0;
    while (same < blocks.length && same < this.blocks.length && isSame(blocks[same], this.blocks[same])) same += 1;
    while (this.element.childNodes.length > same) this.element.lastChild.remove();
    this.element.append(...blocks.slice(same).map((block) => elementOf(block, 0)));
    this.blocks = blocks;
  }
}

function isSame(one, other) {
  return one.source === other.source && one.kind === other.kind && one.isOpen === other.isOpen;
}

/** The blocks of some lines: {kind, source, ...}, in order. */
export function blocksOf(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = blockAt(lines, at);
    block.source = lines.slice(at, at + block.taken).join("\n");
    blocks.push(block);
    at += block.taken;
  }
  return blocks;
}

function blockAt(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return codeAt(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: headingText(heading[2] ?? ""), taken: 1 };
  if (RULE.test(line)) return { kind: "rule", taken: 1 };
  if (QUOTE.test(line)) return quoteAt(lines, at);
  if (ITEM.test(line)) return listAt(lines, at);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && cells(line).length === cells(lines[at + 1]).length) {
    return tableAt(lines, at);
  }
  return paragraphAt(lines, at);
}

function headingText(text) {
  return text.trim().replace(/^#+$|[ \t]#+$/, "").trimEnd();
}

function codeAt(lines, at, [, mark, about]) {
  const language = /^[^\s{]*/.exec(about.trim())[0];
  const indent = /^ */.exec(lines[at])[0].length;
  const isEnd = (line) => {
    const trimmed = line.trim();
    return trimmed.length >= mark.length && trimmed === mark[0].repeat(trimmed.length) && /^ {0,3}\S/.test(line);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const isClosed = end < lines.length;
  const text = lines.slice(at + 1, end).map((line) => line.replace(new RegExp(`^ {0,${indent}}`), ""));
  return { kind: "code", language, text: text.join("\n"), isClosed, taken: (isClosed ? end + 1 : end) - at };
}

function quoteAt(lines, at) {
  let end = at;
  while (end < lines.length && lines[end].trim() && (QUOTE.test(lines[end]) || !begins(lines[end]))) end += 1;
  return { kind: "quote", lines: lines.slice(at, end).map((line) => line.replace(QUOTE, "")), taken: end - at };
}

function listAt(lines, at) {
  const isOrdered = /\d/.test(ITEM.exec(lines[at])[2]);
  const start = isOrdered ? Number.parseInt(ITEM.exec(lines[at])[2], 10) : null;
  const items = [];
  let isLoose = false;
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || RULE.test(lines[end]) || /\d/.test(item[2]) !== isOrdered) break;
    const spaces = Math.min((item[3] ?? " ").length, 4);
    const indent = item[1].length + item[2].length + spaces;
    const own = [(item[4] ?? "").trimStart()];
    let next = end + 1;
    let blank = false;
    while (next < lines.length) {
      const line = lines[next].replaceAll("\t", "    ");
      const depth = line.length - line.trimStart().length;
      if (!line.trim()) {
        blank = true;
        own.push("");
      } else if (depth >= Math.min(indent, item[1].length + 2)) {
        if (blank) isLoose = true;
        blank = false;
        own.push(line.slice(Math.min(depth, indent)));
      } else if (blank || begins(line)) {
        break;
      } else {
        own.push(line.trimStart());
      }
      next += 1;
    }
    while (own.length > 1 && !own.at(-1)) own.pop();
    items.push(own);
    end = next;
    if (blank && end < lines.length && ITEM.test(lines[end])) isLoose = true;
  }
  while (end > at + 1 && !lines[end - 1].trim()) end -= 1;
  return { kind: "list", isOrdered, start, isLoose, items, taken: end - at };
}

function tableAt(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end += 1;
  const sides = cells(lines[at + 1]).map((cell) => (/:$/.test(cell) ? (/^:/.test(cell) ? "center" : "right") : ""));
  return { kind: "table", head: cells(lines[at]), sides, rows: lines.slice(at + 2, end).map(cells), taken: end - at };
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraphAt(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end])) end += 1;
  return { kind: "paragraph", text: lines.slice(at, end).map((line) => line.trimStart()).join("\n").trimEnd(), taken: end - at };
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

function elementOf(block, depth) {
  const inner = (lines) => {
    if (depth >= MOST_DEPTH) return [document.createTextNode(lines.join("\n"))];
    return blocksOf(lines).map((each) => elementOf(each, depth + 1));
  };
  switch (block.kind) {
    case "code":
      return codeElement(block);
    case "heading":
      return make(`h${Math.min(6, block.level + 2)}`, {}, inline(block.text));
    case "rule":
      return make("hr");
    case "quote":
      return make("blockquote", {}, inner(block.lines));
    case "list":
      return listElement(block, inner);
    case "table":
      return tableElement(block);
    default:
      return make("p", {}, inline(block.text));
  }
}

function listElement(block, inner) {
  const items = block.items.map((lines) => {
    const task = /^\[([ xX])\] +/.exec(lines[0]);
    const own = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
    const children = inner(own);
    const first = children[0];
    if (!block.isLoose && first instanceof HTMLParagraphElement) children.splice(0, 1, ...first.childNodes);
    const done = task && (task[1] === " " ? "☐ " : "☑ ");
    return make("li", { class: task ? "task" : null }, done, children);
  });
  const start = block.isOrdered && block.start !== 1 ? block.start : null;
  return make(block.isOrdered ? "ol" : "ul", { start }, items);
}

function tableElement(block) {
  const row = (tag, found) =>
    make("tr", {}, block.sides.map((side, index) => make(tag, { class: side || null }, inline(found[index] ?? ""))));
  const table = make("table", {}, make("thead", {}, row("th", block.head)), make("tbody", {}, block.rows.map((each) => row("td", each))));
  return make("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function codeElement(block) {
  const isDone = block.isClosed || !block.isOpen;
  const code = make("code", {}, isDone ? coloured(block.text, block.language) : block.text);
  const copy = make("button", { type: "button", class: "quiet small", "data-copy": "code" }, icon("copy"), "Copy");
  const head = make("figcaption", {}, make("span", {}, block.language || "text"), copy);
  const label = `Code${block.language ? `, ${block.language}` : ""}`;
  return make("figure", { class: "code" }, head, make("pre", { tabindex: "0", role: "region", "aria-label": label }, code));
}
