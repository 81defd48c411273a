"use strict";
// The page of `seq2exp report`: a sortable table, predicted against observed, and a locus that zooms. No network.

const BINS_LEAST = 8; // a view never shows fewer bins than this

/** Rows sorted by a column; absent values last, ties in the order they had. */
function sortRows(rows, column, rising) {
  const absent = (value) => value === null || value === undefined;
  return rows
    .map((row, place) => ({ row, place }))
    .sort((a, b) => {
      const [x, y] = [a.row[column], b.row[column]];
      if (absent(x) || absent(y)) return absent(x) - absent(y) || a.place - b.place;
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
      return (rising ? order : -order) || a.place - b.place;
    })
    .map((item) => item.row);
}

/** Bytes of a base64 text. */
function decode(text) {
  const binary = atob(text);
  return Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
}

/** A view [start, end) scaled by `factor` round `centre`, kept inside [low, high) and not narrower than `least`. */
function zoomed(view, centre, factor, bounds, least) {
  const width = Math.min(Math.max((view[1] - view[0]) * factor, least), bounds[1] - bounds[0]);
  const share = (centre - view[0]) / (view[1] - view[0]);
  return kept([centre - share * width, centre + (1 - share) * width], bounds);
}

/** A view moved by as little as it takes to lie inside `bounds`. */
function kept(view, bounds) {
  const shift = Math.max(bounds[0] - view[0], 0) + Math.min(bounds[1] - view[1], 0);
  return [view[0] + shift, view[1] + shift];
}

/** Round positions for ticks: 1, 2 or 5 times a power of ten apart, about `count` of them. */
function ticks(low, high, count) {
  const rough = Math.max(high - low, 1e-12) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) found.push(tick);
  return found;
}

const COLUMNS = [
  ["gene_id", "gene", "text"],
  ["place", "TSS", "text"],
  ["expression", "predicted", 3],
  ["observed", "observed", 3],
  ["kept_fraction", "kept", 4],
  ["n_elements", "elements", 0],
];

function shown(value, kind) {
  if (value === null || value === undefined) return "";
  return kind === "text" ? String(value) : Number(value).toFixed(kind);
}

function start(data) {
  const state = { column: "expression", rising: false, gene: null, view: null, drag: null };
  const element = (id) => document.getElementById(id);
  const columns = COLUMNS.filter(([name]) => data.genes.some((gene) => gene[name] !== undefined && gene[name] !== null));

  function make(name, text, parent) {
    const made = document.createElement(name);
    made.textContent = text;
    parent.appendChild(made);
    return made;
  }

  function drawTable() {
    element("table").replaceChildren();
    const head = make("tr", "", make("thead", "", element("table")));
    for (const [name, label] of columns) {
      const mark = name === state.column ? (state.rising ? " \u25b2" : " \u25bc") : "";
      make("th", label + mark, head).addEventListener("click", () => {
        state.rising = name === state.column ? !state.rising : name === "gene_id";
        state.column = name;
        drawTable();
      });
    }
    const body = make("tbody", "", element("table"));
    for (const gene of sortRows(data.genes, state.column, state.rising)) {
      const row = make("tr", "", body);
      row.className = gene === state.gene ? "chosen" : "";
      for (const [name, , kind] of columns) make("td", shown(gene[name], kind), row);
      row.addEventListener("click", () => choose(gene));
    }
  }

  function drawScatter() {
    const known = data.genes.filter((gene) => gene.observed !== null && gene.observed !== undefined);
    element("scatter-part").hidden = known.length < 2;
    if (known.length < 2) return;
    const values = known.flatMap((gene) => [gene.observed, gene.expression]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const place = (value) => 45 + ((value - low) / (high - low || 1)) * 300;
    const parts = [`<line x1="45" y1="345" x2="345" y2="45" class="same"/>`];
    for (const tick of ticks(low, high, 5)) {
      const text = Number(tick.toPrecision(6));
      parts.push(`<text x="${place(tick)}" y="368" class="tick">${text}</text>`);
      parts.push(`<text x="38" y="${390 - place(tick) + 4}" class="tick end">${text}</text>`);
    }
    parts.push(`<text x="195" y="388" class="tick">observed</text>`);
    parts.push(`<text x="12" y="195" class="tick" transform="rotate(-90 12 195)">predicted</text>`);
    element("scatter").innerHTML = parts.join("");
    for (const gene of known) {
      const point = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = gene.gene_id;
      point.appendChild(title);
      point.setAttribute("cx", place(gene.observed));
      point.setAttribute("cy", 390 - place(gene.expression));
      point.setAttribute("r", gene === state.gene ? 7 : 4);
      point.setAttribute("class", gene === state.gene ? "chosen" : "");
      point.addEventListener("click", () => choose(gene));
      element("scatter").appendChild(point);
    }
  }

  function drawLine(canvas, bytes, top, height, gene, style) {
    const context = canvas.getContext("2d");
    const [from, to] = state.view;
    const width = (gene.end - gene.start) / bytes.length;
    const first = Math.max(Math.floor((from - gene.start) / width), 0);
    const last = Math.min(Math.ceil((to - gene.start) / width), bytes.length);
    context.fillStyle = style;
    for (let bin = first; bin < last; bin += 1) {
      const left = ((gene.start + bin * width - from) / (to - from)) * canvas.width;
      const right = ((gene.start + (bin + 1) * width - from) / (to - from)) * canvas.width;
      const tall = (bytes[bin] / 255) * height;
      context.fillRect(left, top + height - tall, Math.max(right - left, 0.6), tall);
    }
  }

  function drawLocus() {
    const gene = state.gene;
    if (gene === null) return;
    const canvas = element("locus");
    const context = canvas.getContext("2d");
    const [from, to] = state.view;
    const x = (base) => ((base - from) / (to - from)) * canvas.width;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.font = "13px sans-serif";
    gene.rows = gene.rows || [...gene.tracks];
    if (gene.mask && gene.rows.length === gene.tracks.length) gene.rows.push({ name: "mask", bins: gene.mask, top: 1 });
    const rows = gene.rows;
    const height = (canvas.height - 90) / Math.max(rows.length, 1);
    rows.forEach((row, number) => {
      row.bytes = row.bytes || decode(row.bins);
      const style = row.bins === gene.mask ? "#7a3e9d" : ["#2f6f9f", "#3a8f5c", "#b7791f", "#4c5a8a"][number % 4];
      const top = 20 + number * height;
      drawLine(canvas, row.bytes, top + 16, height - 22, gene, style);
      context.fillStyle = "#22303c";
      context.fillText(`${row.name}: up to ${Number(row.top.toPrecision(3))}`, 6, top + 12);
    });
    const base = canvas.height - 58;
    context.fillStyle = "#d1495b";
    for (const [first, last] of gene.elements) context.fillRect(x(first), base, Math.max(x(last) - x(first), 1.5), 12);
    context.fillStyle = "#9aa5ad";
    context.fillRect(x(gene.promoter[0]), base, Math.max(x(gene.promoter[1]) - x(gene.promoter[0]), 1.5), 12);
    for (const other of data.genes) {
      if (other.chrom !== gene.chrom || other.tss < from || other.tss >= to) continue;
      context.fillStyle = other === gene ? "#d1495b" : "#22303c";
      context.fillRect(x(other.tss), base + 14, 1.5, 8);
      context.fillText(`${other.gene_id} ${other.strand === "-" ? "\u2190" : "\u2192"}`, x(other.tss) + 4, base + 24);
    }
    context.fillStyle = "#22303c";
    for (const tick of ticks(from, to, 8)) {
      context.fillRect(x(tick), canvas.height - 26, 1, 6);
      context.fillText(Math.round(tick).toLocaleString("en"), x(tick) + 3, canvas.height - 8);
    }
    const observed = gene.observed === null || gene.observed === undefined ? "" : `, observed ${gene.observed.toFixed(3)}`;
    element("title").textContent =
      `${gene.gene_id}  ${gene.chrom}:${Math.round(from).toLocaleString("en")}-${Math.round(to).toLocaleString("en")}  ` +
      `predicted ${gene.expression.toFixed(3)}${observed}`;
  }

  function choose(gene) {
    state.gene = gene;
    state.view = [gene.start, gene.end];
    drawTable();
    drawScatter();
    drawLocus();
  }

  function zoom(factor, share) {
    const gene = state.gene;
    if (gene === null) return;
    const bounds = [gene.start, gene.end];
    const centre = state.view[0] + share * (state.view[1] - state.view[0]);
    state.view = zoomed(state.view, centre, factor, bounds, (BINS_LEAST * (gene.end - gene.start)) / data.bins);
    drawLocus();
  }

  const canvas = element("locus");
  const share = (event) => event.offsetX / canvas.clientWidth;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, share(event));
  });
  canvas.addEventListener("mousedown", (event) => {
    state.drag = { at: share(event), view: state.view };
  });
  canvas.addEventListener("mousemove", (event) => {
    if (state.drag === null || state.gene === null) return;
    const moved = (state.drag.at - share(event)) * (state.drag.view[1] - state.drag.view[0]);
    state.view = kept([state.drag.view[0] + moved, state.drag.view[1] + moved], [state.gene.start, state.gene.end]);
    drawLocus();
  });
  for (const name of ["mouseup", "mouseleave"]) canvas.addEventListener(name, () => (state.drag = null));
  element("in").addEventListener("click", () => zoom(0.5, 0.5));
  element("out").addEventListener("click", () => zoom(2, 0.5));
  element("all").addEventListener("click", () => zoom(1e9, 0.5));
  choose(sortRows(data.genes, "expression", false)[0]);
  return state;
}

if (typeof module !== "undefined") module.exports = { sortRows, zoomed, kept, ticks, start };
else start(JSON.parse(document.getElementById("data").textContent));
