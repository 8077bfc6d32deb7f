// Controls and events: they select what is shown.

const MANY = 60; // A filter with more values is a text field instead of a menu.
const state = { filters: {}, starred: false, descending: false };

function option(value, label = value) {
  return element("option", { value, textContent: label });
}

function fillControls() {
  at("title").textContent = document.title = DATA.workdir.split("/").pop() || DATA.workdir;
  at("title").title = DATA.workdir;
  at("sort").append(option("", "settings"), ...Object.keys(DATA.scores).map((name) => option("score:" + name, name)), ...VARYING.map((name) => option(name)));
  for (const id of ["x", "y"]) at(id).append(option("", "none"), ...VARYING.map((name) => option(name)));
  at("size").value = innerWidth < 500 ? 160 : 260;
  at("filters").append(...VARYING.map(filter));
  at("filters").hidden = !VARYING.length;
  at("about").open = innerWidth > 800;
}

function filter(name) {
  const { values } = DATA.columns[name];
  const input = values.length <= MANY
    ? element("select", {}, option("", "any"), ...values.map((value, k) => option(k, text(value))))
    : element("input", { placeholder: typeof values[0] === "string" ? "any words" : "any", autocomplete: "off" });
  input.dataset.setting = name;
  input.addEventListener("input", () => {
    const typed = input.value.trim().toLowerCase();
    if (typed === "") delete state.filters[name];
    else if (input.tagName === "SELECT") state.filters[name] = (_, k) => k === Number(typed);
    else state.filters[name] = (value) => (typeof value === "string" ? value.toLowerCase().includes(typed) : String(value) === typed);
    update();
  });
  return element("label", {}, name, input);
}

function clearFilters() {
  state.filters = {};
  state.starred = false;
  at("search").value = "";
  for (const input of at("filters").querySelectorAll("select, input")) input.value = "";
  update();
}

// A tile shows its prompts, except those on an axis, and the score by which it is sorted.
function caption(i) {
  const axes = [at("x").value, at("y").value].filter(Boolean);
  const order = at("sort").value;
  const score = order.startsWith("score:") ? [`${order.slice(6)} ${text(DATA.scores[order.slice(6)][i])}`] : [];
  const others = OTHERS.filter((name) => !axes.includes(name)).reverse().map((name) => `${name} ${text(setting(name, i))}`);
  const prompts = PROMPTS.filter((name) => TERMS.includes(name.split(".")[0]) && (axes.length ? VARYING.includes(name) && !axes.includes(name) : true));
  const lines = prompts.map((name) => text(setting(name, i)));
  return OTHERS.length || Object.keys(DATA.scores).length || axes.length ? [...lines, [...score, ...others].join(" · ")] : lines;
}

function update({ keepPlace = false, fromFirst = false } = {}) {
  const order = at("sort").value, x = at("x").value, y = at("y").value;
  const shown = chosen({
    filters: state.filters, words: at("search").value.toLowerCase().split(/\s+/).filter(Boolean),
    only: state.starred ? isStarred : null, order, descending: state.descending,
  });
  const width = list.clientWidth, size = Math.min(Number(at("size").value), width - 2 * GAP) * (x || y ? 0.6 : 1), lines = shown.length ? caption(shown[0]).length : 0;
  const next = x || y ? crossed(shown, x, y, width, size, lines) : listed(shown, width, size, lines);
  next.order = next.bands.flatMap((band) => band.tiles.map((tile) => tile.i));
  next.positions = new Map(next.order.map((i, k) => [i, k]));
  next.count = next.order.length;
  next.madeFor = width; // the width of the list
  next.corner = [y && y + " ↓", x && x + " →"].filter(Boolean).join("\n");
  at("count").textContent = shown.length === COUNT ? `${COUNT} samples` : `${shown.length} of ${COUNT} samples`;
  at("nothing").hidden = shown.length > 0;
  at("direction").textContent = state.descending ? "↓" : "↑";
  at("direction").title = state.descending ? "Falling order; click for rising" : "Rising order; click for falling";
  at("direction").setAttribute("aria-label", at("direction").title);
  at("starred").setAttribute("aria-pressed", state.starred);
  if (!keepPlace) list.scrollTop = list.scrollLeft = 0;
  arrange(next, caption);
  if ((fromFirst || !next.positions.has(selected)) && next.count) select(next.order[0]);
}

function select(i) {
  const before = selected;
  selected = i;
  if (before !== null) mark(before);
  mark(i);
  list.setAttribute("aria-activedescendant", "sample" + i);
  showDetail(i);
}

function star(i) {
  toggleStar(i);
  mark(i);
  if (i === selected) showStar(i);
  if (!starsAreKept) say("This browser keeps no stars for this page: export them before you close it.");
}

function say(message) {
  at("notice").textContent = message;
  at("notice").hidden = !message;
}

function placeIn(picture, event) {
  const box = picture.getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
}

function playFrom(i, share) {
  say("");
  const before = player.sample;
  play(i, share);
  if (before !== null) mark(before);
  mark(i);
}

player.onFault = say;
player.onMove = (i, share) => {
  tiles.get(i)?.style.setProperty("--at", share);
  if (i === selected) showTime(i);
};

list.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  const i = Number(tile.dataset.sample), picture = event.target.closest(".sound");
  if (event.target.matches("b")) return star(i);
  select(i);
  if (picture) playFrom(i, placeIn(picture, event));
});
at("picture").addEventListener("click", (event) => playFrom(selected, placeIn(at("picture"), event)));
at("position").addEventListener("input", () => seek(selected, Number(at("position").value)));
at("play").addEventListener("click", () => toggle());
at("loop").addEventListener("change", () => { audio.loop = at("loop").checked; });
at("star").addEventListener("click", () => star(selected));

function toggle() {
  const before = player.sample;
  say("");
  pauseOrPlay(selected);
  if (before !== null) mark(before);
  mark(selected);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("exported").open || selected === null || !layout.count) return;
  if (event.target.closest("input, select, textarea")) return;
  if (event.key === " " && !event.target.closest("button, a, summary")) toggle();
  else if (event.key.startsWith("Arrow")) move(event.key);
  else if (event.key === "s" || event.key === "S") star(selected);
  else return;
  event.preventDefault();
});

// While a sound plays, the next sample plays when it is selected.
function move(key) {
  const next = neighbor(selected, key);
  select(next);
  bringIntoView(next);
  if (!audio.paused && player.sample !== next) playFrom(next, 0);
}

at("search").addEventListener("input", () => update());
at("sort").addEventListener("change", () => {
  state.descending = at("sort").value.startsWith("score:"); // more is better
  update({ fromFirst: true });
});
at("direction").addEventListener("click", () => { state.descending = !state.descending; update({ fromFirst: true }); });
at("starred").addEventListener("click", () => { state.starred = !state.starred; update(); });
at("more").addEventListener("click", () => {
  at("panel").hidden = !at("panel").hidden;
  at("more").setAttribute("aria-expanded", !at("panel").hidden);
});
for (const id of ["x", "y"]) at(id).addEventListener("change", () => update());
at("size").addEventListener("input", () => { update(); bringIntoView(selected); });
for (const id of ["clear", "clear2"]) at(id).addEventListener("click", clearFilters);

fillControls();
showCommon();
update();
new ResizeObserver(() => { if (list.clientWidth !== layout.madeFor) update({ keepPlace: true }); else draw(); }).observe(list);
if (!starsAreKept) say("This browser keeps no stars for this page: export them before you close it.");
