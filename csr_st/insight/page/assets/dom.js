// Elements, numbers in words, and the marks of words in texts. Texts become text nodes, never HTML.

function el(tag, properties = {}, ...children) {
  const svg = ["svg", "rect", "line", "title"].includes(tag);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    } else made.setAttribute(name, value === true ? "" : value);
  }
  fill(made, ...children);
  return made;
}

// Replaces what an element holds; children may be nested arrays, and null for none.
function fill(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined));
}

const counted = new Intl.NumberFormat("en");
const count = (number, noun) =>
  `${counted.format(number)} ${noun}${number === 1 ? "" : "s"}`;

// What one entry of the page is: "text", "image" or "item"; `things` are several.
let thing = "text";
let things = "texts";

function callThem(noun) {
  thing = noun;
  things = `${noun}s`;
}

const withArticle = (noun) => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
const capital = (word) => word[0].toUpperCase() + word.slice(1);

function percent(share) {
  if (share === 0) return "0%";
  if (share < 0.001) return "under 0.1%";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

// Numbers rounded to `digits` so that they add up to their rounded sum, as a reader would check.
function rounded(shares, digits = 3) {
  const scale = 10 ** digits;
  const total = Math.round(shares.reduce((sum, share) => sum + share, 0) * scale);
  const whole = shares.map((share) => Math.floor(share * scale));
  const left = shares.map((share, place) => [share * scale - whole[place], place]);
  left.sort((one, other) => other[0] - one[0]);
  let missing = total - whole.reduce((sum, share) => sum + share, 0);
  for (const [, place] of left) {
    if (missing-- <= 0) break;
    whole[place] += 1;
  }
  return { parts: whole.map((share) => (share / scale).toFixed(digits)), total: (total / scale).toFixed(digits) };
}

// As the words of names were found: runs of letters and digits.
const WORD = /[\p{L}\p{N}_]+/gu;
const EXCERPT = 300; // characters

function wordsOf(names) {
  const found = new Map();
  for (const [name, mark] of names) {
    for (const word of name.toLowerCase().match(WORD) ?? []) if (!found.has(word)) found.set(word, mark);
  }
  return found;
}

// A place near `at` where a text can be cut: at a space if one is near, never inside a character.
function cutNear(text, at) {
  if (at <= 0) return 0;
  if (at >= text.length) return text.length;
  for (let place = at; place > Math.max(0, at - 24); place--) if (text[place - 1] === " ") return place;
  const low = text.charCodeAt(at);
  return low >= 0xdc00 && low < 0xe000 ? at + 1 : at;
}

// The text with words marked, as nodes; `words` maps a word in lower case to its mark's class.
function marked(text, words) {
  const nodes = [];
  let done = 0;
  if (words.size) {
    for (const match of text.matchAll(WORD)) {
      const mark = words.get(match[0].toLowerCase());
      if (mark === undefined) continue;
      if (match.index > done) nodes.push(text.slice(done, match.index));
      nodes.push(el("mark", { class: mark }, match[0]));
      done = match.index + match[0].length;
    }
  }
  nodes.push(text.slice(done));
  return nodes;
}

// The small picture of an image, if the page has one; `size` is a class.
function picture(data, row, size = "") {
  const content = data.pictures[row];
  if (!content) return null;
  const alt = data.texts[row].trim() ? "" : `Image ${row + 1}`; // else the caption stands beside it
  return el("img", { class: `picture ${size}`.trim(), src: `data:image/jpeg;base64,${content}`, alt });
}

// An entry as nodes: its picture, and its text or caption with words marked.
function entry(page, row, words, limit) {
  const { data } = page;
  if (!page.isImage(row)) return excerpt(data.texts[row], words, page.length(row), limit);
  const shown = picture(data, row) ?? el("p", { class: "soft small" }, `Image ${row + 1}: this page had no room for its picture`);
  return [shown, data.texts[row].trim() ? excerpt(data.texts[row], words, page.length(row), limit) : null].flat();
}

// A paragraph that shows the part of a text with the first marked words, and all of it on request.
function excerpt(text, words, length, limit = EXCERPT) {
  const shown = el("p", { class: "text", dir: "auto" });
  const cut = length > text.length
    ? ` … (cut here: ${counted.format(text.length)} of ${counted.format(length)} characters)`
    : "";
  if (text.length <= limit + 40) {
    shown.append(...(text.trim() ? marked(text, words) : [el("em", {}, "(an empty text)")]), cut);
    return [shown];
  }
  let first = 0;
  for (const match of words.size ? text.matchAll(WORD) : []) {
    if (words.has(match[0].toLowerCase())) {
      first = match.index;
      break;
    }
  }
  const start = first < limit - 60 ? 0 : cutNear(text, first - 80);
  const end = cutNear(text, start + limit);
  const part = () => [start ? "… " : "", ...marked(text.slice(start, end), words), end < text.length ? " …" : ""];
  shown.append(...part());
  const more = el("button", {
    type: "button",
    class: "plain",
    "aria-expanded": "false",
    onclick: () => {
      const open = more.getAttribute("aria-expanded") === "false";
      more.setAttribute("aria-expanded", String(open));
      more.textContent = open ? "Show less" : "Show the whole text";
      shown.replaceChildren(...(open ? [...marked(text, words), cut] : part()));
    },
  }, "Show the whole text");
  return [shown, more];
}
