// The list on the screen: elements exist only for the visible part of a layout and a margin.

const list = document.getElementById("list");
const surface = document.getElementById("canvas");
const BEYOND = 400; // pixels of the margin
const tiles = new Map(); // sample's number -> its element
let layout = null, selected = null, captionOf = () => [];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function arrange(next, caption) {
  layout = next;
  captionOf = caption;
  surface.style.width = layout.width + "px";
  surface.style.height = layout.height + "px";
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
  for (const [id, shown] of [["columns", layout.top], ["rows", layout.left]]) {
    const heads = document.getElementById(id);
    heads.hidden = !shown;
    heads.replaceChildren();
  }
  document.getElementById("columns").style.height = layout.top + "px";
  draw();
}

function draw() {
  if (!layout) return;
  const top = list.scrollTop - BEYOND, bottom = list.scrollTop + list.clientHeight + BEYOND;
  const left = list.scrollLeft - BEYOND, right = list.scrollLeft + list.clientWidth + BEYOND;
  const seen = new Map();
  for (let b = firstBand(layout.bands, top - layout.tile.height); b < layout.bands.length; b++) {
    const band = layout.bands[b];
    if (band.y > bottom) break;
    for (const { i, x } of band.tiles) if (x + layout.tile.width > left && x < right) seen.set(i, [x, band.y]);
  }
  for (const [i, tile] of tiles) {
    if (!seen.has(i)) {
      tile.remove();
      tiles.delete(i);
    }
  }
  for (const [i, place] of seen) if (!tiles.has(i)) surface.append(tileElement(i, place));
  drawHeads(left, right, top, bottom);
}

function tileElement(i, [x, y]) {
  const { width, height, pictureHeight } = layout.tile;
  const shape = canvas(i);
  const pictureWidth = Math.min(width, Math.round(pictureHeight * shape.width / shape.height));
  const picture = element("div", { className: "sound" },
    element("img", { src: spectrogramOf(i), alt: "", decoding: "async", draggable: false }), element("i", { className: "head" }));
  picture.style.cssText = `width:${pictureWidth}px;height:${Math.min(pictureHeight, Math.round(pictureWidth * shape.height / shape.width))}px`;
  const tile = element("div", { className: "tile", id: "sample" + i }, picture,
    ...captionOf(i).map((line) => element("p", { textContent: line, title: line })), element("b", { title: "Star (S)" }));
  tile.style.cssText = `transform:translate(${x}px,${y}px);width:${width}px;height:${height}px`;
  tile.dataset.sample = i;
  tile.setAttribute("role", "option");
  tile.setAttribute("aria-setsize", layout.count);
  tile.setAttribute("aria-posinset", layout.positions.get(i) + 1);
  tiles.set(i, tile);
  mark(i);
  return tile;
}

// Updates a tile: its star, and whether it is selected or playing.
function mark(i) {
  const tile = tiles.get(i);
  if (!tile) return;
  const star = tile.querySelector("b");
  star.textContent = isStarred(i) ? "★" : "☆";
  star.classList.toggle("on", isStarred(i));
  tile.setAttribute("aria-selected", i === selected);
  tile.setAttribute("aria-label", [...PROMPTS.map((name) => text(setting(name, i))), isStarred(i) ? "starred" : ""].join(", "));
  tile.classList.toggle("heard", i === player.sample);
}

// Positions use left and top, because sticky elements ignore the transforms of their parents.
function drawHeads(left, right, top, bottom) {
  const columns = document.getElementById("columns"), rows = document.getElementById("rows");
  if (layout.top) {
    const seen = layout.columns.filter((column) => column.x + column.width > left && column.x < right);
    columns.replaceChildren(corner(), ...seen.map((column) => {
      const label = element("span", { textContent: column.label, title: column.label });
      label.style.left = layout.left + "px";
      const head = element("div", {}, label);
      head.style.cssText = `left:${column.x}px;width:${column.width}px;height:${layout.top}px`;
      return head;
    }));
  }
  if (layout.left) {
    const seen = layout.rows.filter((row) => row.y + row.height > top && row.y < bottom);
    rows.replaceChildren(...seen.map((row) => {
      const label = element("span", { textContent: row.label, title: row.label });
      label.style.top = layout.top + "px";
      const head = element("div", {}, label);
      head.style.cssText = `top:${row.y - layout.top}px;width:${layout.left}px;height:${row.height}px`;
      return head;
    }));
  }
}

function corner() {
  const made = element("span", { className: "corner", textContent: layout.corner });
  made.style.cssText = `width:${layout.left}px;height:${layout.top}px`;
  return made;
}

function bringIntoView(i) {
  const band = layout.bands.find((band) => band.tiles.some((tile) => tile.i === i));
  if (!band) return;
  const { x } = band.tiles.find((tile) => tile.i === i), { tile } = layout;
  const above = band.y - layout.top - GAP, below = band.y + tile.height + GAP - list.clientHeight;
  list.scrollTop = Math.max(below, Math.min(list.scrollTop, above));
  const before = x - layout.left - GAP, after = x + tile.width + GAP - list.clientWidth;
  list.scrollLeft = Math.max(after, Math.min(list.scrollLeft, before));
  draw();
}

// Returns the sample to the left or right of `i`, or the nearest one in the band above or below.
function neighbor(i, key) {
  const order = layout.order, position = layout.positions.get(i);
  if (position === undefined) return order[0];
  if (key === "ArrowLeft" || key === "ArrowRight") {
    return order[Math.min(order.length - 1, Math.max(0, position + (key === "ArrowLeft" ? -1 : 1)))];
  }
  const step = key === "ArrowUp" ? -1 : 1;
  let b = layout.bands.findIndex((band) => band.tiles.some((tile) => tile.i === i));
  const { x } = layout.bands[b].tiles.find((tile) => tile.i === i);
  do b += step; while (layout.bands[b] && !layout.bands[b].tiles.length);
  if (!layout.bands[b]) return i;
  return layout.bands[b].tiles.reduce((near, tile) => (Math.abs(tile.x - x) < Math.abs(near.x - x) ? tile : near)).i;
}

list.addEventListener("scroll", draw, { passive: true });
