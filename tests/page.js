"use strict";
// Opens a page of `seq2exp report` in a small stand-in for a browser, uses it, and prints what it then shows as JSON.

const fs = require("fs");
const vm = require("vm");

class Thing {
  constructor(tag) {
    Object.assign(this, { tag, children: [], listeners: {}, attributes: {}, drawn: [], text: "", hidden: false });
    Object.assign(this, { width: 1240, height: 520, clientWidth: 620, className: "" });
  }
  set textContent(value) { this.text = String(value); }
  get textContent() { return this.text; }
  set innerHTML(value) { this.text = value; this.children = []; }
  appendChild(child) { this.children.push(child); return child; }
  replaceChildren() { this.children = []; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, handler) { (this.listeners[name] = this.listeners[name] || []).push(handler); }
  fire(name, event) { for (const handler of this.listeners[name]) handler({ preventDefault() {}, ...event }); }
  find(tag) { return this.children.flatMap((child) => [...(child.tag === tag ? [child] : []), ...child.find(tag)]); }
  getContext() {
    const drawn = this.drawn;
    return {
      clearRect() { drawn.length = 0; },
      fillText(text) { drawn.push(["text", text]); },
      fillRect(x, y, width, height) {
        if (![x, y, width, height].every(Number.isFinite)) throw new Error("a rectangle has no place");
        drawn.push([this.fillStyle, x, width]);
      },
    };
  }
}

const page = fs.readFileSync(process.argv[2], "utf-8");
const things = {};
for (const [, tag, id] of page.matchAll(/<(\w+)[^>]* id="([\w-]+)"/g)) things[id] = new Thing(tag);
things.data.text = page.match(/<script type="application\/json" id="data">([\s\S]*?)<\/script>/)[1];
const script = page.match(/<script>([\s\S]*?)<\/script>/)[1];
const document = {
  getElementById: (id) => things[id],
  createElement: (tag) => new Thing(tag),
  createElementNS: (space, tag) => new Thing(tag),
};
vm.runInNewContext(script, { document, atob: (text) => Buffer.from(text, "base64").toString("binary"), console });

const column = (number) => things.table.find("tr").slice(1).map((row) => row.find("td")[number].text);
const said = { columns: things.table.find("th").map((cell) => cell.text), first: column(0) };
const click = (label) => things.table.find("th").find((cell) => cell.text.startsWith(label)).fire("click");
click("gene"); said.rising = column(0);
click("gene"); said.falling = column(0);
click("predicted"); said.predicted = column(2);
said.points = things.scatter.find("circle").length;
things.table.find("tr")[1].fire("click"); said.title = things.title.text;
said.bars = things.locus.drawn.filter((item) => item[0] === "#7a3e9d").length;
said.calls = things.locus.drawn.filter((item) => item[0] === "#d1495b" && item.length === 3).length;
things.in.fire("click"); said.zoomed = things.title.text;
things.locus.fire("wheel", { deltaY: -1, offsetX: 0 }); said.wheel = things.title.text;
things.locus.fire("mousedown", { offsetX: 300 });
things.locus.fire("mousemove", { offsetX: 320 });
things.locus.fire("mouseup", {}); said.dragged = things.title.text;
for (let i = 0; i < 40; i += 1) things.in.fire("click");
said.closest = things.title.text;
things.all.fire("click"); said.whole = things.title.text;
things.scatter.find("circle")[0].fire("click"); said.chosen = things.title.text;
console.log(JSON.stringify(said));
