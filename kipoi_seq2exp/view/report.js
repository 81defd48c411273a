"use strict";
// The page of `seq2exp report`: a table that sorts and searches, predicted against observed, and igv.js for the loci.
// Loci of many genes come from files beside the page. No network.

const [GENES, MASK, CALL, OTHER] = ["#22303c", "#7a3e9d", "#d1495b", "#9aa5ad"];
const SIGNALS = ["#2f6f9f", "#3a8f5c", "#b7791f", "#4c5a8a", "#8a4c6c"];
const ROW = 28; // pixels of a row of the table, as in the style
const MOST_POINTS = 2000; // that are drawn as circles; more are painted
const NEAR = 2e6; // bases from a gene within which others are shown
const MISSING = "its file is missing: keep the folder of the loci beside this page";
const PROMOTER = "promoter: always kept, never called";
const COLUMNS = [ // field, heading, decimals of a number
  ["gene_id", "gene"],
  ["name", "name"],
  ["place", "TSS"],
  ["expression", "predicted", 3],
  ["observed", "observed", 3],
  ["residual", "difference", 3],
  ["kept_percent", "kept, %", 2],
  ["n_elements", "elements", 0],
  ["n_pairs", "CRISPRi", 0],
];

const absent = (value) => value === null || value === undefined;
const grouped = (number) => Math.round(number).toLocaleString("en");
const LETTERS = { "<": "\u2039", ">": "\u203a", '"': "\u201d" };
const shown = (text) => (/[<>"]/.test(text) ? text.replace(/[<>"]/g, (letter) => LETTERS[letter]) : text);
/** A value of the data without the letters of HTML, which igv.js would read: names come from files. */
function plain(value) {
  if (typeof value === "string") return shown(value);
  if (absent(value) || typeof value !== "object" || Array.isArray(value)) return value;
  for (const name of Object.keys(value)) {
    if (shown(name) === name) continue;
    value[shown(name)] = value[name];
    delete value[name];
  }
  return value;
}
const parsed = (text) => JSON.parse(text, (_, value) => plain(value));
const byId = (id) => document.getElementById(id);

/** A text by which names sort as people do: numbers inside by their size. */
const sortable = (text) => String(text).toLowerCase().replace(/\d+/g, (digits) => digits.padStart(12, "0"));

/** What rows are sorted by: numbers as they are, places by chromosome and position, other texts as `sortable`. */
function keyOf(row, column) {
  if (column === "place") return `${sortable(row.chrom)} ${sortable(row.tss)}`;
  return absent(row[column]) || typeof row[column] === "number" ? row[column] : sortable(row[column]);
}

/** Rows sorted by a column; absent values last, ties in the order they had; places by chromosome and position. */
function sortRows(rows, column, rising) {
  const keyed = rows.map((row) => ({ row, key: keyOf(row, column) }));
  const there = keyed.filter((item) => !absent(item.key));
  const sign = rising ? 1 : -1;
  there.sort((a, b) => (a.key < b.key ? -sign : a.key > b.key ? sign : 0));
  return [...there, ...keyed.filter((item) => absent(item.key))].map((item) => item.row);
}

const TESTS = { ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b, "=": (a, b) => a === b };

/** Rows that fit every word: a part of a gene's id, name or place, or a column compared with a number. */
function search(rows, text, columns) {
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [, label, sign, number] = /^([a-z]+)(>=|<=|>|<|=)(-?[\d.]+)$/.exec(word) || [];
    const column = columns.find(([, heading, decimals]) => decimals !== undefined && heading.toLowerCase().split(",")[0] === label);
    if (column) return (row) => !absent(row[column[0]]) && TESTS[sign](row[column[0]], Number(number));
    return (row) => row.words.includes(word);
  });
  return tests.length ? rows.filter((row) => tests.every((test) => test(row))) : rows;
}

/** Round positions for ticks: 1, 2 or 5 times a power of ten apart, about `count` of them. */
function ticks(low, high, count) {
  const rough = Math.max(high - low, 1e-12) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  const found = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) found.push(tick * step);
  return found;
}

/** Pearson's correlation; null where one side does not vary. */
function pearson(pairs) {
  const mean = (side) => pairs.reduce((sum, pair) => sum + pair[side], 0) / pairs.length;
  const [x, y] = [mean(0), mean(1)];
  const sum = (of) => pairs.reduce((total, [a, b]) => total + of(a - x, b - y), 0);
  const spread = Math.sqrt(sum((a) => a * a) * sum((a, b) => b * b));
  return spread > 0 ? sum((a, b) => a * b) / spread : null;
}

// ------------------------------------------------------------------------------------------------- tracks of igv.js

/** Values of a packed track as intervals; neighbours that are equal become one, zeros none. */
function intervals(packed, gene, length) {
  const bytes = Uint8Array.from(atob(packed.bins), (letter) => letter.charCodeAt(0));
  const edge = (bin) => gene.start + Math.floor((bin * (gene.end - gene.start)) / bytes.length);
  const found = [];
  for (let first = 0, last; first < bytes.length; first = last) {
    for (last = first + 1; last < bytes.length && bytes[last] === bytes[first]; ) last += 1;
    const [start, end] = [Math.max(edge(first), 0), Math.min(edge(last), length)];
    const value = (bytes[first] / 255) * packed.top;
    if (value > 0 && start < end) found.push({ chr: gene.chrom, start, end, value });
  }
  return found;
}

function geneTrack(data, gene) {
  const models = gene.models || data.models;
  const features = (models[gene.chrom] || []).map(([start, end, name, id, strand, exons]) => {
    return { chr: gene.chrom, start, end, name, id, strand, exons: exons.map(([s, e]) => ({ start: s, end: e })) };
  });
  if (!features.length) {
    for (const row of data.genes.filter((other) => other.chrom === gene.chrom && Math.abs(other.tss - gene.tss) < NEAR)) {
      features.push({ chr: row.chrom, start: row.tss, end: row.tss + 1, name: row.gene_id, strand: row.strand });
    }
  }
  const [name, height] = Object.keys(models).length ? ["genes", 110] : ["TSS", 45];
  const color = (feature) => ([gene.name, gene.gene_id].includes(feature.name) ? CALL : GENES);
  return { name, type: "annotation", displayMode: "EXPANDED", height, color, features };
}

function pairTrack(gene) {
  const features = gene.pairs.map(([start, end, regulated]) => {
    const ends = { chr1: gene.chrom, start1: start, end1: end, chr2: gene.chrom, start2: gene.tss, end2: gene.tss + 1 };
    const outer = { chr: gene.chrom, start: Math.min(start, gene.tss), end: Math.max(end, gene.tss + 1) };
    return { ...outer, ...ends, score: 1, name: regulated ? "regulated" : "not regulated", color: regulated ? CALL : OTHER };
  });
  return { name: "CRISPRi", type: "interact", height: 70, arcType: "nested", arcOrientation: true, thickness: 2, features };
}

function promoterOf(gene) {
  return { chr: gene.chrom, start: Math.max(gene.promoter[0], 0), end: gene.promoter[1], note: PROMOTER };
}

function elementTrack(gene) {
  const features = gene.elements.map(([start, end, mean, distance]) => ({
    chr: gene.chrom, start, end, "mean mask": mean, "distance to TSS": `${grouped(distance)} bp`,
  }));
  features.push(promoterOf(gene));
  features.sort((a, b) => a.start - b.start);
  const color = (feature) => (feature.note === PROMOTER ? OTHER : CALL);
  return { name: "elements", type: "annotation", displayMode: "COLLAPSED", height: 32, color, features };
}

/** Tracks of a gene, from top to bottom. */
function tracksOf(data, gene) {
  const length = data.chroms[gene.chrom];
  const signal = (name, packed, color, height) => ({
    name, type: "wig", color, height, min: 0, max: packed.top, features: intervals(packed, gene, length),
  });
  const found = [geneTrack(data, gene)];
  if (gene.pairs && gene.pairs.length) found.push(pairTrack(gene));
  gene.tracks.forEach((track, number) => found.push(signal(track.name, track, SIGNALS[number % SIGNALS.length], 60)));
  if (gene.mask) {
    const guideLines = !absent(gene.threshold) ? [{ y: gene.threshold, color: CALL, dotted: true }] : [];
    found.push({ ...signal("mask", gene.mask, MASK, 80), guideLines }, elementTrack(gene));
  }
  return found.map((track, order) => ({ ...track, order, removable: false }));
}

/** What igv.js shows of a gene; a base of sequence stands for each chromosome, whose length is what counts. */
function session(data, gene) {
  const fasta = Object.entries(data.chroms).map(([chrom, length]) => `>${chrom}:1-1 @len=${length}\nN\n`).join("");
  return {
    reference: { id: data.assembly, fastaURL: `data:text/plain;base64,${btoa(fasta)}`, wholeGenomeView: false },
    locus: windowOf(data, gene),
    tracks: tracksOf(data, gene),
    roi: [{ name: PROMOTER, color: "rgba(154, 165, 173, 0.2)", features: [promoterOf(gene)] }],
    loadDefaultGenomes: false,
    search: false,
    showIdeogram: false,
    showSequence: false,
    showChromosomeWidget: Object.keys(data.chroms).length > 1,
    showCenterGuideButton: false,
    showROITableButton: false,
  };
}

function windowOf(data, gene) {
  return `${gene.chrom}:${Math.max(gene.start, 0) + 1}-${Math.min(gene.end, data.chroms[gene.chrom])}`;
}

/** The locus of a gene: inside the page, or handed over by the frame of a file beside it. */
function load(data, gene) {
  if (!data.beside) return Promise.resolve(gene);
  return new Promise((resolve, reject) => {
    const frame = document.createElement("iframe");
    const end = (settle, value) => {
      window.removeEventListener("message", hear);
      frame.remove();
      settle(value);
    };
    const hear = (event) => {
      if (event.source !== frame.contentWindow) return;
      const locus = parsed(event.data);
      if (locus.gene_id === gene.gene_id) end(resolve, { ...gene, ...locus });
      else end(reject, new Error(`its file is of another report (${locus.gene_id}): make the report again`));
    };
    window.addEventListener("message", hear);
    frame.addEventListener("load", () => setTimeout(() => end(reject, new Error(MISSING)), 2000));
    frame.setAttribute("sandbox", "allow-scripts");
    frame.hidden = true;
    frame.src = `${data.beside}/${gene.number}.html`;
    document.body.append(frame);
  });
}

// -------------------------------------------------------------------------------------------------------- the page

function start(data) {
  const state = { column: "expression", rising: false, gene: null, browser: null, shown: Promise.resolve(), rows: [], first: -1 };
  data.genes.forEach((gene, number) => {
    gene.number = number;
    gene.place = `${gene.chrom}:${grouped(gene.tss + 1)} ${gene.strand}`;
    gene.words = `${gene.gene_id} ${gene.name || ""} ${gene.place} ${gene.chrom}:${gene.tss + 1}`.toLowerCase();
    gene.kept_percent = absent(gene.kept_fraction) ? null : 100 * gene.kept_fraction;
  });
  const columns = COLUMNS.filter(([name]) => data.genes.some((gene) => !absent(gene[name])));
  const known = data.genes.filter((gene) => !absent(gene.observed));

  function make(name, text, parent, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    if (parent) parent.appendChild(made);
    return made;
  }

  /** Choose and sort the rows, and draw the heading. */
  function arrange() {
    state.rows = sortRows(search(data.genes, byId("search").value, columns), state.column, state.rising);
    const [found, all] = [state.rows.length, data.genes.length].map(grouped);
    byId("count").textContent = found === all ? `${all} ${all === "1" ? "gene" : "genes"}` : `${found} of ${all} genes`;
    const head = make("tr", "", make("thead", ""));
    for (const [name, label, decimals] of columns) {
      const mark = name === state.column ? (state.rising ? " \u25b2" : " \u25bc") : "";
      const cell = make("th", label + mark, head, decimals === undefined ? "" : "number");
      cell.setAttribute("aria-sort", mark ? (state.rising ? "ascending" : "descending") : "none");
      cell.addEventListener("click", () => {
        state.rising = name === state.column ? !state.rising : decimals === undefined;
        state.column = name;
        byId("list").scrollTop = 0;
        arrange();
      });
    }
    byId("table").replaceChildren(head.parentNode, make("tbody", ""));
    drawRows();
  }

  /** Draw the rows on show, and some to either side; the others are space. */
  function drawRows() {
    const first = Math.max(0, Math.floor(byId("list").scrollTop / ROW) - 40);
    const some = state.rows.slice(first, first + 100);
    state.first = first;
    const body = make("tbody", "");
    make("tr", "", body, "space").style.height = `${first * ROW}px`;
    for (const gene of some) {
      const row = make("tr", "", body, gene === state.gene ? "chosen" : "");
      for (const [name, , decimals] of columns) {
        const value = absent(gene[name]) ? "" : decimals === undefined ? gene[name] : gene[name].toFixed(decimals);
        make("td", value, row, decimals === undefined ? "" : "number");
      }
      row.addEventListener("click", () => choose(gene));
    }
    make("tr", "", body, "space").style.height = `${(state.rows.length - first - some.length) * ROW}px`;
    for (const space of body.querySelectorAll(".space")) space.hidden = space.style.height === "0px";
    byId("table").tBodies[0].replaceWith(body);
  }

  /** Where the scatter puts values: equal on both axes. */
  function scale() {
    let [least, most] = [Infinity, -Infinity];
    for (const gene of known) {
      least = Math.min(least, gene.observed, gene.expression);
      most = Math.max(most, gene.observed, gene.expression);
    }
    const edge = 0.05 * (most - least || 1);
    const [low, high] = [least - edge, most + edge];
    const share = (value) => ((value - low) / (high - low)) * 318;
    return { low, high, across: (value) => 52 + share(value), up: (value) => 328 - share(value) };
  }

  function drawScatter() {
    byId("scatter-part").hidden = known.length < 2;
    if (known.length < 2) return;
    const { low, high, across, up } = scale();
    const parts = [`<rect class="frame" x="52" y="10" width="318" height="318"/>`];
    parts.push(`<line x1="52" y1="328" x2="370" y2="10" class="same"/>`);
    for (const tick of ticks(low, high, 5)) {
      const text = Number(tick.toPrecision(6));
      parts.push(`<text x="${across(tick)}" y="345" class="tick">${text}</text>`);
      parts.push(`<text x="46" y="${up(tick) + 4}" class="tick end">${text}</text>`);
    }
    parts.push(`<text x="211" y="368" class="tick">observed</text>`);
    parts.push(`<text x="14" y="169" class="tick" transform="rotate(-90 14 169)">predicted</text>`);
    parts.push(`<g id="points"></g>`);
    byId("scatter").innerHTML = parts.join("");
    const pairs = known.map((gene) => [gene.observed, gene.expression]);
    const r = known.length > 2 ? pearson(pairs) : null;
    byId("agreement").textContent = `${data.unit}, ${grouped(known.length)} ${known.length === 1 ? "gene" : "genes"}` + (r === null ? "" : `, Pearson ${r.toFixed(3)}`);
    if (known.length <= MOST_POINTS) return;
    const paper = byId("cloud").getContext("2d");
    paper.fillStyle = "rgba(47, 111, 159, 0.35)";
    for (const gene of known) paper.fillRect(across(gene.observed) - 1, up(gene.expression) - 1, 2, 2);
    byId("scatter").addEventListener("click", (event) => {
      const box = byId("scatter").getBoundingClientRect();
      const shrunk = 380 / box.width; // a narrow screen draws it smaller
      const [x, y] = [(event.clientX - box.left) * shrunk, (event.clientY - box.top) * shrunk];
      const far = (gene) => (across(gene.observed) - x) ** 2 + (up(gene.expression) - y) ** 2;
      const nearest = known.reduce((best, gene) => (far(gene) < far(best) ? gene : best));
      if (far(nearest) < 64) choose(nearest);
    });
  }

  /** Draw the points, the chosen one last; of many the chosen one alone, for the others are painted. */
  function drawPoints() {
    if (known.length < 2) return;
    const { across, up } = scale();
    const drawn = known.length > MOST_POINTS ? known.filter((gene) => gene === state.gene) : known;
    byId("points").replaceChildren();
    for (const gene of [...drawn].sort((a, b) => (a === state.gene) - (b === state.gene))) {
      const point = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `${gene.name || gene.gene_id}: ${gene.expression.toFixed(3)}, ${gene.observed.toFixed(3)}`;
      point.appendChild(title);
      const place = { cx: across(gene.observed), cy: up(gene.expression), r: gene === state.gene ? 7 : 4.5 };
      for (const [name, value] of Object.entries(place)) point.setAttribute(name, value);
      point.setAttribute("class", gene === state.gene ? "chosen" : "");
      point.addEventListener("click", () => choose(gene));
      byId("points").appendChild(point);
    }
  }

  function drawTitle(gene) {
    const observed = absent(gene.observed) ? "" : `, observed ${gene.observed.toFixed(3)}`;
    const name = gene.name && gene.name !== gene.gene_id ? `${gene.name} (${gene.gene_id})` : gene.gene_id;
    byId("title").textContent = `${name}  ${gene.place}: predicted ${gene.expression.toFixed(3)}${observed}, ${data.unit}`;
    const words = !absent(gene.n_elements) ? ["Red: called elements; grey: the promoter, always kept and never called; dotted: the mask that a call reaches."] : [];
    if (gene.n_pairs) words.push("Arcs: CRISPRi pairs of this gene, red where it is regulated.");
    byId("legend").textContent = words.join(" ");
  }

  async function show(gene) {
    if (gene !== state.gene) return; // another was chosen meanwhile
    const locus = await load(data, gene);
    if (state.browser === null) {
      state.browser = await igv.createBrowser(byId("locus"), session(data, locus));
      state.browser.on("locuschange", tell);
    } else await state.browser.loadSessionObject(session(data, locus));
    tell();
  }

  function tell() {
    const place = [state.browser.currentLoci()].flat().join(" ");
    byId("range").textContent = place.replace(/(?<=[:-])[\d.]+/g, (number) => grouped(Number(number)));
  }

  function choose(gene) {
    state.gene = gene;
    drawRows();
    drawPoints();
    drawTitle(gene);
    byId("failure").textContent = "";
    state.shown = state.shown.then(() => show(gene)).catch((error) => {
      byId("failure").textContent = `The locus cannot be shown: ${error.message}.`;
      if (!data.beside) throw error;
    });
  }

  byId("in").addEventListener("click", () => state.browser && state.browser.zoomIn());
  byId("out").addEventListener("click", () => state.browser && state.browser.zoomOut());
  byId("all").addEventListener("click", () => state.browser && state.browser.search(windowOf(data, state.gene)));
  byId("list").addEventListener("scroll", () => {
    if (Math.abs(byId("list").scrollTop / ROW - 40 - state.first) > 20) drawRows();
  });
  byId("search").addEventListener("input", () => {
    byId("list").scrollTop = 0;
    arrange();
  });
  arrange();
  drawScatter();
  choose(state.rows[0]);
  return state;
}

const report = start(parsed(byId("data").textContent));
