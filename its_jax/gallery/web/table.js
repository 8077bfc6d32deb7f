// The samples' settings and scores by index, and the selection and order of the samples shown. Indices are in the
// order of the settings.

const DATA = JSON.parse(document.getElementById("data").textContent);
const COUNT = DATA.ids.length;
const TERMS = ["image", "audio"];
const isPrompt = (name) => name.endsWith(".prompt");
const coded = (column, i) => column.values[column.index[i]];

function setting(name, i) {
  return name in DATA.columns ? coded(DATA.columns[name], i) : DATA.common[name];
}

function text(value) {
  return value === null || value === undefined ? "none" : value === "" ? "(empty)" : String(value);
}

// Prompts in the order of their terms: image, audio, and any others.
const PROMPTS = [...Object.keys(DATA.common), ...Object.keys(DATA.columns)].filter(isPrompt).sort((a, b) => {
  const place = (name) => (TERMS.indexOf(name.split(".")[0]) + 3) % 3;
  return place(a) - place(b);
});
const VARYING = Object.keys(DATA.columns);
const OTHERS = VARYING.filter((name) => !isPrompt(name));
const WORDS = DATA.ids.map((_, i) => PROMPTS.map((name) => setting(name, i) ?? "").join("\n").toLowerCase());

function canvas(i) {
  const [width, height, seconds, rate] = coded(DATA.canvas, i);
  return { width, height, seconds, rate };
}

function address(i, name) {
  const path = coded(DATA.folders, i) + DATA.ids[i] + "/" + name;
  return DATA.embedded[path] ?? path.split("/").map(encodeURIComponent).join("/");
}

const colors = (i) => coded(DATA.colors, i); // pairs of name and prompt
const pictures = (i) => coded(DATA.pictures, i);
const spectrogramOf = (i) => address(i, "spectrogram.png");
const soundOf = (i) => address(i, "audio.wav");

// filters: name -> a test of the value. words: a sample matches if its prompts contain all of them.
function chosen({ filters, words, only, order, descending }) {
  const columns = Object.entries(filters).map(([name, test]) => {
    const column = DATA.columns[name];
    return { index: column.index, passes: column.values.map(test) };
  });
  const found = [];
  for (let i = 0; i < COUNT; i++) {
    if (only && !only(i)) continue;
    if (!columns.every(({ index, passes }) => passes[index[i]])) continue;
    if (!words.every((word) => WORDS[i].includes(word))) continue;
    found.push(i);
  }
  return sorted(found, order, descending);
}

// Samples without a score come last in either direction.
function sorted(found, order, descending) {
  const key = order.startsWith("score:") ? DATA.scores[order.slice(6)] : DATA.columns[order]?.index;
  if (!key) return descending ? found.reverse() : found; // by settings
  const sign = descending ? -1 : 1;
  return found.sort((a, b) => (key[a] === null) - (key[b] === null) || sign * (key[a] - key[b]) || a - b);
}
