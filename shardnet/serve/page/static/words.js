// Numbers and moments in words.

const BYTES = ["B", "kB", "MB", "GB", "TB"];

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < BYTES.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 99.5 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${BYTES[unit]}`;
}

export function counted(number, one, more = `${one}s`) {
  return `${number} ${number === 1 ? one : more}`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond >= 100 ? String(Math.round(perSecond)) : perSecond.toFixed(1);
}

export function share(value) {
  return value === null || value === undefined ? "?" : `${Math.round(Math.min(1, Math.max(0, value)) * 100)}%`;
}

export function unitsOf(first, last) {
  return first === last ? `unit ${first}` : `units ${first}–${last}`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export function shortened(text, most) {
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : text;
}
