// Positions of the samples: tiles in bands from top to bottom.

const GAP = 10;
const CELL_GAP = 26; // between the cells of a table

// A list: as many tiles side by side as fit.
function listed(shown, width, size, captionLines) {
  const columns = Math.max(1, Math.floor((width - GAP) / (size + GAP)));
  const tile = tileOf(shown, Math.floor((width - GAP) / columns) - GAP, captionLines);
  const bands = [];
  for (let n = 0; n < shown.length; n += columns) {
    const tiles = shown.slice(n, n + columns).map((i, k) => ({ i, x: GAP + k * (tile.width + GAP) }));
    bands.push({ y: GAP + bands.length * (tile.height + GAP), tiles });
  }
  const height = GAP + bands.length * (tile.height + GAP);
  return { tile, bands, width, height, top: 0, left: 0, columns: [], rows: [] };
}

// A table: the values of one setting across, of another down; a cell holds its samples, up to four side by side.
function crossed(shown, x, y, width, size, captionLines) {
  const across = axisValues(shown, x), down = axisValues(shown, y);
  const cells = cellsOf(shown, across, down);
  const most = Math.max(1, ...cells.map((cell) => cell.length));
  const inCell = Math.min(4, Math.ceil(Math.sqrt(most)));
  const tile = tileOf(shown, size, captionLines);
  const left = y ? Math.min(150, Math.floor(width / 4)) : 0, top = x ? 60 : 0;
  const columnWidth = inCell * (tile.width + GAP) - GAP + CELL_GAP;
  const bands = [], rows = [];
  let bottom = top + GAP;
  down.values.forEach((value, r) => {
    const row = cells.slice(r * across.values.length, (r + 1) * across.values.length);
    const lines = Math.max(1, ...row.map((cell) => Math.ceil(cell.length / inCell)));
    for (let line = 0; line < lines; line++) {
      const tiles = row.flatMap((cell, c) =>
        cell.slice(line * inCell, (line + 1) * inCell).map((i, k) => (
          { i, x: left + GAP + c * columnWidth + k * (tile.width + GAP) })));
      bands.push({ y: bottom + line * (tile.height + GAP), tiles });
    }
    rows.push({ label: y ? text(value) : "", y: bottom, height: lines * (tile.height + GAP) - GAP });
    bottom += lines * (tile.height + GAP) - GAP + CELL_GAP;
  });
  const columns = across.values.map((value, c) => (
    { label: x ? text(value) : "", x: left + GAP + c * columnWidth, width: columnWidth - CELL_GAP }));
  return { tile, bands, width: left + GAP + columns.length * columnWidth, height: bottom, top, left, columns, rows };
}

function axisValues(shown, name) {
  if (!name) return { values: [""], place: () => 0 };
  const { index, values } = DATA.columns[name];
  const used = [...new Set(shown.map((i) => index[i]))].sort((a, b) => a - b);
  const place = new Map(used.map((code, k) => [code, k]));
  return { values: used.map((code) => values[code]), place: (i) => place.get(index[i]) };
}

function cellsOf(shown, across, down) {
  const cells = Array.from({ length: across.values.length * down.values.length }, () => []);
  for (const i of shown) cells[down.place(i) * across.values.length + across.place(i)].push(i);
  return cells;
}

// All tiles have the same size, which fits the tallest image.
function tileOf(shown, width, captionLines) {
  const kinds = new Set(shown.map((i) => DATA.canvas.index[i]));
  const shapes = [...kinds].map((k) => DATA.canvas.values[k]);
  const pictureHeight = Math.round(width * Math.min(1, Math.max(0.05, ...shapes.map(([w, h]) => h / w))));
  return { width, pictureHeight, height: pictureHeight + captionLines * 18 + (captionLines ? 10 : 0) };
}

// Returns the index of the first band below `y` by bisection.
function firstBand(bands, y) {
  let low = 0, high = bands.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bands[middle].y < y) low = middle + 1;
    else high = middle;
  }
  return low;
}
