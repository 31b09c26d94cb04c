// Colours for code, by what most languages have in common: comments, texts, numbers, words of the language.

import { make } from "./dom.js";

const MOST_CHARACTERS = 20000;
const HASH = new Set(["python", "py", "bash", "sh", "shell", "zsh", "yaml", "yml", "toml", "ruby", "rb", "r", "make", "makefile", "dockerfile", "perl", "nix"]);
const DASHES = new Set(["sql", "lua", "haskell", "hs", "ada", "elm"]);
const PLAIN = new Set(["", "text", "txt", "plain", "plaintext", "markdown", "md", "console", "output", "diff", "csv", "log"]);
const WORDS = new Set(
  (
    "abstract and as assert async await base begin bool boolean break byte case catch char class const constexpr continue " +
    "debugger def default defer del delete do done double elif else elsif end enum except export extends extern fi final " +
    "finally float fn for foreach from func function global go goto if impl implements import in include inline instanceof " +
    "int interface is lambda let local long loop match mod module move mut namespace new nil none nonlocal not null of or " +
    "override package pass private protected pub public raise range readonly record ref require return self short signed " +
    "sizeof static struct super switch template then this throw throws trait true false try type typedef typename typeof " +
    "undefined union unless unsafe unsigned until use using val var virtual void volatile when where while with yield " +
    "select insert update create table alter drop join on group order by having limit values into set"
  ).split(" "),
);
const STRINGS = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|` + "`(?:[^`\\\\]|\\\\.)*`";
const REST = String.raw`|(?<number>\b(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b)|(?<word>[A-Za-z_$][\w$]*)`;

/** The nodes of a text of code. */
export function coloured(text, language) {
  const name = language.toLowerCase();
  if (PLAIN.has(name) || text.length > MOST_CHARACTERS) return [document.createTextNode(text)];
  const nodes = [];
  let plain = 0;
  for (const found of text.matchAll(patternOf(name))) {
    const kind = kindOf(found.groups);
    if (kind === null) continue;
    if (found.index > plain) nodes.push(document.createTextNode(text.slice(plain, found.index)));
    nodes.push(make("span", { class: `code-${kind}` }, found[0]));
    plain = found.index + found[0].length;
  }
  nodes.push(document.createTextNode(text.slice(plain)));
  return nodes;
}

function patternOf(name) {
  const line = HASH.has(name) ? String.raw`#[^\n]*` : DASHES.has(name) ? String.raw`--[^\n]*` : String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)|<!--[^]*?(?:-->|$)`;
  const long = name === "python" || name === "py" ? String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|` : "";
  return new RegExp(`(?<text>${long}${STRINGS})|(?<comment>${line})${REST}`, "gi");
}

function kindOf(groups) {
  if (groups.text !== undefined) return "text";
  if (groups.comment !== undefined) return "comment";
  if (groups.number !== undefined) return "number";
  return WORDS.has(groups.word) || WORDS.has(groups.word.toLowerCase()) ? "word" : null;
}
