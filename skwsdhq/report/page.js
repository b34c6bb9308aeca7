(() => {
"use strict";
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const [M, K, D] = data.shape;
const STEP = 60; // pictures that are added at a time

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}
const floats = (text) => new Float32Array(bytes(text));
const whole = (text, wide) => (wide ? new Uint32Array(bytes(text)) : new Uint16Array(bytes(text)));

const codebooks = floats(data.codebooks), vectors = floats(data.vectors);
const codes = data.wide ? new Uint16Array(bytes(data.codes)) : new Uint8Array(bytes(data.codes));
const first = whole(data.first, data.n > 65535);
const wordVectors = floats(data.wordVectors), wordFirst = whole(data.wordFirst, data.n > 65535);

// --- ranking, as the library does it -----------------------------------------------------------

// The similarity is the float32 sum of M entries of a look-up table; of equal ones the row that
// comes first is first.
function similarities(query) {
  const table = new Float32Array(M * K);
  for (let j = 0; j < M * K; j++) {
    let sum = 0;
    for (let d = 0; d < D; d++) sum += query[d] * codebooks[j * D + d];
    table[j] = sum;
  }
  const found = new Float32Array(data.n);
  for (let i = 0; i < data.n; i++) {
    let sum = table[codes[i * M]];
    for (let m = 1; m < M; m++) sum = Math.fround(sum + table[m * K + codes[i * M + m]]);
    found[i] = sum;
  }
  return found;
}

function ranked(query, known, left) {
  const scores = similarities(query);
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  // What the library itself found comes first: the last bits of a sum may differ here.
  const seen = new Set(known);
  if (left !== null) seen.add(left);
  return { scores, rows: [...known, ...order.filter((row) => !seen.has(row))] };
}

function ofRow(row) {
  const known = first.subarray(row * data.nFirst, (row + 1) * data.nFirst);
  return ranked(vectors.subarray(row * D, (row + 1) * D), known, row);
}

const places = new Map(data.words.map((word, i) => [word, data.wordOf[i]]));
const tidy = (text) => text.replace(/[\u200b\ufeff]/g, " ").normalize("NFC").trim().replace(/\s+/gu, " ");

// A tag, also where its words are joined in another way or in capitals.
function placeOf(text) {
  for (const name of [tidy(text), tidy(text.toLowerCase())]) {
    const parts = name.split(/[\s_-]+/u).filter(Boolean);
    for (const form of [name, " ", "_", "-", ""].map((by, i) => (i ? parts.join(by) : name)))
      if (places.has(form)) return places.get(form);
  }
  return undefined;
}

function vectorOf(text) {
  const place = placeOf(text);
  if (place !== undefined) return wordVectors.subarray(place * D, (place + 1) * D);
  const parts = tidy(text).split(/[\s_-]+/u).filter(Boolean).map(placeOf);
  if (parts.length < 2 || parts.includes(undefined)) return null;
  const mean = new Float64Array(D);
  for (const part of parts) for (let d = 0; d < D; d++) mean[d] += wordVectors[part * D + d];
  return unit(mean);
}

function unit(vector) {
  let size = 0;
  for (const value of vector) size += value * value;
  size = Math.sqrt(size);
  return size > 1e-6 ? vector.map((value) => value / size) : null;
}

// "beach, -people": words that begin with "-" count against what carries them.
function readWords(text) {
  const whole = tidy(text);
  const isTag = !whole.startsWith("-") && placeOf(whole) !== undefined;
  return (isTag ? [whole] : whole.split(",").map(tidy).filter(Boolean)).map((word) =>
    word.length > 1 && word.startsWith("-") ? [tidy(word.slice(1)), -1] : [word, 1]);
}

function ofWords(words) {
  if (words.length === 1 && words[0][1] === 1 && placeOf(words[0][0]) !== undefined) {
    const place = placeOf(words[0][0]);
    const known = wordFirst.subarray(place * data.nWordFirst, (place + 1) * data.nWordFirst);
    return ranked(vectorOf(words[0][0]), known, null);
  }
  const sum = new Float64Array(D);
  for (const [word, weight] of words) {
    const vector = vectorOf(word);
    if (!vector) throw new Error(`No picture has the tag “${word}”.${offer(word)}`);
    for (let d = 0; d < D; d++) sum[d] += weight * vector[d];
  }
  const query = unit(sum);
  if (!query) throw new Error("These words cancel each other; nothing is left to look for.");
  return ranked(Float32Array.from(query), [], null);
}

function offer(word) {
  const start = tidy(word.toLowerCase()).slice(0, 3);
  const near = data.words.filter((other) => other.startsWith(start)).slice(0, 4);
  return near.length ? ` There are: ${near.join(", ")}.` : "";
}

// --- pictures ----------------------------------------------------------------------------------

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // never as markup: names come from strangers
  return made;
}

function fill(thumb, row) {
  const source = data.pictures && data.pictures[row];
  if (source) {
    const image = element("img");
    image.alt = "";
    image.decoding = "async";
    image.src = source;
    thumb.replaceChildren(image);
  } else {
    thumb.classList.add("none");
    thumb.replaceChildren(element("bdi", "", data.names[row]));
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    fill(entry.target.querySelector(".thumb"), Number(entry.target.dataset.row));
  }
}, { rootMargin: "300px" });

const tagsOf = (row) => data.tags[row].map((tag) => data.tagNames[tag]);

function dress(button) {
  const row = Number(button.dataset.row);
  const tags = tagsOf(row);
  button.title = `${data.names[row]}\n${tags.slice(0, 12).join(", ")}${tags.length > 12 ? ", …" : ""}`;
  button.setAttribute("aria-label", `Look for pictures like ${data.names[row]}`);
  seen.observe(button);
}

function pictureButton(row) {
  const button = element("button", "pic");
  button.type = "button";
  button.dataset.row = row;
  button.append(element("span", "thumb"), element("bdi", "name", data.names[row]));
  dress(button);
  return button;
}

// --- what is shown -----------------------------------------------------------------------------

const state = { row: null, words: null, filter: null };
let shown = { rows: [], scores: null }, count = 0;

function shares(a, b) {
  const of = data.judged || data.tags;
  const own = new Set(of[a]);
  return of[b].some((label) => own.has(label));
}

function add() {
  const list = at("results");
  for (const row of shown.rows.slice(count, count + STEP)) {
    const item = element("li");
    const button = pictureButton(row);
    item.append(button);
    if (shown.scores) {
      let told = shown.scores[row].toFixed(2);
      if (state.row !== null && data.isJudged[state.row] && data.isJudged[row]) {
        const hit = shares(state.row, row);
        item.className = hit ? "hit" : "miss";
        told = `${hit ? "✓" : "✗"} ${told}`;
      }
      item.append(element("p", "figure", told));
    }
    list.append(item);
  }
  count = Math.min(count + STEP, shown.rows.length);
}

function show(focus) {
  at("problem").textContent = "";
  let found = { rows: Array.from({ length: data.n }, (_, i) => i), scores: null };
  try {
    if (state.row !== null) found = ofRow(state.row);
    else if (state.words) found = ofWords(state.words);
  } catch (error) {
    state.words = null;
    at("problem").textContent = error.message;
  }
  let rows = found.rows;
  if (state.filter !== null) rows = rows.filter((row) => data.tags[row].includes(state.filter));
  shown = { rows, scores: found.scores };
  count = 0;
  at("results").replaceChildren();
  add();
  tell();
  if (focus) {
    at("told").focus({ preventScroll: true });
    at("search").scrollIntoView();
  }
  moreIsSeen.unobserve(at("more"));
  moreIsSeen.observe(at("more"));
}

function tell() {
  const parts = [`${shown.rows.length} picture${shown.rows.length === 1 ? "" : "s"}`];
  if (state.filter !== null) parts.push(`with the tag “${data.tagNames[state.filter]}”`);
  if (state.row !== null) parts.push(`by likeness to ${data.names[state.row]}`);
  if (state.words) parts.push(`by ${state.words.map(([w, x]) => (x < 0 ? "-" : "") + w).join(", ")}`);
  at("told").textContent = parts.join(" ");
  at("clear").hidden = state.row === null && !state.words && state.filter === null;
  const panel = at("query");
  panel.hidden = state.row === null;
  panel.replaceChildren();
  if (state.row === null) return;
  const thumb = element("span", "thumb"), side = element("div");
  fill(thumb, state.row);
  const title = element("p");
  title.append(element("strong", "", "Query: "), element("bdi", "", data.names[state.row]));
  side.append(title);
  const precision = data.precision[state.row];
  if (precision !== null) side.append(element("p", "figure", `average precision ${precision.toFixed(2)}`));
  const chips = element("div", "chips");
  for (const tag of data.tags[state.row]) {
    const chip = element("button", "chip");
    chip.type = "button";
    chip.append(element("bdi", "", data.tagNames[tag]));
    chip.setAttribute("aria-label", `Only pictures with the tag ${data.tagNames[tag]}`);
    chip.addEventListener("click", () => filterBy(tag));
    chips.append(chip);
  }
  side.append(chips);
  panel.append(thumb, side);
}

function filterBy(tag) {
  state.filter = tag;
  at("filter").value = tag === null ? "" : data.tagNames[tag];
  show(true);
}

const moreIsSeen = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || count >= shown.rows.length) return;
  add();
  // Observed anew: it may still be in view.
  moreIsSeen.unobserve(at("more"));
  moreIsSeen.observe(at("more"));
}, { rootMargin: "400px" });

document.addEventListener("click", (event) => {
  const button = event.target.closest(".pic");
  if (!button) return;
  Object.assign(state, { row: Number(button.dataset.row), words: null });
  at("words").value = "";
  show(true);
});
at("words-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = readWords(at("words").value);
  Object.assign(state, { row: null, words: words.length ? words : null });
  show(false);
});
at("filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = tidy(at("filter").value);
  let tag = data.tagNames.indexOf(text);
  if (tag < 0) tag = data.tagNames.indexOf(text.toLowerCase());
  if (text && tag < 0) {
    at("problem").textContent = `No picture has the tag “${text}”.`;
    return;
  }
  state.filter = text ? tag : null;
  show(false);
});
at("clear").addEventListener("click", () => {
  Object.assign(state, { row: null, words: null, filter: null });
  at("words").value = at("filter").value = "";
  show(true);
});

// The most frequent ones are offered; thousands of options would hold a phone up.
const option = (text) => { const made = element("option"); made.value = text; return made; };
at("words-list").append(...data.words.slice(0, 500).map(option));
at("tags-list").append(...data.tagNames.slice(0, 500).map(option));
at("words-form").hidden = !data.words.length;
at("filter-form").hidden = !data.tagNames.length;
document.querySelectorAll("main .pic").forEach(dress);
show(false);
document.documentElement.dataset.ready = "1";
})();
