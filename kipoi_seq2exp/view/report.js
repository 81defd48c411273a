"use strict";
// The page of `seq2exp report`: a sortable table, predicted against observed, and igv.js for the loci. No network.

const [GENES, MASK, CALL, OTHER] = ["#22303c", "#7a3e9d", "#d1495b", "#9aa5ad"];
const SIGNALS = ["#2f6f9f", "#3a8f5c", "#b7791f", "#4c5a8a", "#8a4c6c"];
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
/** A value of the data without the letters of HTML, which igv.js would read: names come from files. */
function plain(value) {
  if (typeof value === "string") return value.replace(/[<>"]/g, (letter) => LETTERS[letter]);
  if (absent(value) || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [plain(name), item]));
}
const byId = (id) => document.getElementById(id);

/** Rows sorted by a column; absent values last, ties in the order they had; places by chromosome and position. */
function sortRows(rows, column, rising) {
  const order = (a, b) => {
    if (column === "place") return order1(a.chrom, b.chrom) || a.tss - b.tss;
    return order1(a[column], b[column]);
  };
  const order1 = (x, y) => (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  const missing = (row) => column !== "place" && absent(row[column]);
  return rows
    .map((row, place) => ({ row, place }))
    .sort((a, b) => {
      if (missing(a.row) || missing(b.row)) return missing(a.row) - missing(b.row) || a.place - b.place;
      return (rising ? 1 : -1) * order(a.row, b.row) || a.place - b.place;
    })
    .map((item) => item.row);
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
  const features = (data.models[gene.chrom] || []).map(([start, end, name, id, strand, exons]) => {
    return { chr: gene.chrom, start, end, name, id, strand, exons: exons.map(([s, e]) => ({ start: s, end: e })) };
  });
  if (!features.length) {
    for (const row of data.genes.filter((other) => other.chrom === gene.chrom)) {
      features.push({ chr: row.chrom, start: row.tss, end: row.tss + 1, name: row.gene_id, strand: row.strand });
    }
  }
  const [name, height] = Object.keys(data.models).length ? ["genes", 110] : ["TSS", 45];
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

// -------------------------------------------------------------------------------------------------------- the page

function start(data) {
  const state = { column: "expression", rising: false, gene: null, browser: null, shown: Promise.resolve() };
  for (const gene of data.genes) {
    gene.place = `${gene.chrom}:${grouped(gene.tss)} ${gene.strand}`;
    gene.kept_percent = absent(gene.kept_fraction) ? null : 100 * gene.kept_fraction;
    gene.n_pairs = gene.pairs ? gene.pairs.length : null;
  }
  const columns = COLUMNS.filter(([name]) => data.genes.some((gene) => !absent(gene[name])));

  function make(name, text, parent, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    parent.appendChild(made);
    return made;
  }

  function drawTable() {
    byId("table").replaceChildren();
    const head = make("tr", "", make("thead", "", byId("table")));
    for (const [name, label, decimals] of columns) {
      const mark = name === state.column ? (state.rising ? " \u25b2" : " \u25bc") : "";
      const cell = make("th", label + mark, head, decimals === undefined ? "" : "number");
      cell.setAttribute("aria-sort", mark ? (state.rising ? "ascending" : "descending") : "none");
      cell.addEventListener("click", () => {
        state.rising = name === state.column ? !state.rising : decimals === undefined;
        state.column = name;
        drawTable();
      });
    }
    const body = make("tbody", "", byId("table"));
    for (const gene of sortRows(data.genes, state.column, state.rising)) {
      const row = make("tr", "", body, gene === state.gene ? "chosen" : "");
      for (const [name, , decimals] of columns) {
        const value = absent(gene[name]) ? "" : decimals === undefined ? gene[name] : gene[name].toFixed(decimals);
        make("td", value, row, decimals === undefined ? "" : "number");
      }
      row.addEventListener("click", () => choose(gene));
    }
  }

  function drawScatter() {
    const known = data.genes.filter((gene) => !absent(gene.observed));
    byId("scatter-part").hidden = known.length < 2;
    if (known.length < 2) return;
    const pairs = known.map((gene) => [gene.observed, gene.expression]);
    const [least, most] = [Math.min(...pairs.flat()), Math.max(...pairs.flat())];
    const edge = 0.05 * (most - least || 1);
    const [low, high] = [least - edge, most + edge];
    const across = (value) => 52 + ((value - low) / (high - low)) * 318;
    const up = (value) => 328 - ((value - low) / (high - low)) * 318;
    const parts = [`<rect class="frame" x="52" y="10" width="318" height="318"/>`];
    parts.push(`<line x1="52" y1="328" x2="370" y2="10" class="same"/>`);
    for (const tick of ticks(low, high, 5)) {
      const text = Number(tick.toPrecision(6));
      parts.push(`<text x="${across(tick)}" y="345" class="tick">${text}</text>`);
      parts.push(`<text x="46" y="${up(tick) + 4}" class="tick end">${text}</text>`);
    }
    parts.push(`<text x="211" y="368" class="tick">observed</text>`);
    parts.push(`<text x="14" y="169" class="tick" transform="rotate(-90 14 169)">predicted</text>`);
    byId("scatter").innerHTML = parts.join("");
    for (const gene of [...known].sort((a, b) => (a === state.gene) - (b === state.gene))) {
      const point = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `${gene.name || gene.gene_id}: ${gene.expression.toFixed(3)}, ${gene.observed.toFixed(3)}`;
      point.appendChild(title);
      const place = { cx: across(gene.observed), cy: up(gene.expression), r: gene === state.gene ? 7 : 4.5 };
      for (const [name, value] of Object.entries(place)) point.setAttribute(name, value);
      point.setAttribute("class", gene === state.gene ? "chosen" : "");
      point.addEventListener("click", () => choose(gene));
      byId("scatter").appendChild(point);
    }
    const r = known.length > 2 ? pearson(pairs) : null;
    byId("agreement").textContent = `${data.unit}, ${known.length} ${known.length === 1 ? "gene" : "genes"}` + (r === null ? "" : `, Pearson ${r.toFixed(3)}`);
  }

  function drawTitle(gene) {
    const observed = absent(gene.observed) ? "" : `, observed ${gene.observed.toFixed(3)}`;
    const name = gene.name && gene.name !== gene.gene_id ? `${gene.name} (${gene.gene_id})` : gene.gene_id;
    byId("title").textContent = `${name}  ${gene.place}: predicted ${gene.expression.toFixed(3)}${observed}`;
    const words = gene.mask ? ["Red: called elements; grey: the promoter, always kept and never called; dotted: the mask that a call reaches."] : [];
    if (gene.pairs && gene.pairs.length) words.push("Arcs: CRISPRi pairs of this gene, red where it is regulated.");
    byId("legend").textContent = words.join(" ");
  }

  async function show(gene) {
    if (gene !== state.gene) return; // another was chosen meanwhile
    if (state.browser === null) {
      state.browser = await igv.createBrowser(byId("locus"), session(data, gene));
      state.browser.on("locuschange", tell);
    } else await state.browser.loadSessionObject(session(data, gene));
    tell();
  }

  function tell() {
    const place = [state.browser.currentLoci()].flat().join(" ");
    byId("range").textContent = place.replace(/(?<=[:-])[\d.]+/g, (number) => grouped(Number(number)));
  }

  function choose(gene) {
    state.gene = gene;
    drawTable();
    drawScatter();
    drawTitle(gene);
    state.shown = state.shown.then(() => show(gene)).catch((error) => {
      byId("failure").textContent = `The locus cannot be shown: ${error.message}`;
      throw error;
    });
  }

  byId("in").addEventListener("click", () => state.browser && state.browser.zoomIn());
  byId("out").addEventListener("click", () => state.browser && state.browser.zoomOut());
  byId("all").addEventListener("click", () => state.browser && state.browser.search(windowOf(data, state.gene)));
  choose(sortRows(data.genes, "expression", false)[0]);
  return state;
}

const report = start(JSON.parse(byId("data").textContent, (_, value) => plain(value)));
