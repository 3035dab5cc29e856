// The last 15 minutes: a row for each slot of each worker that was in use, a bar for each task.

import { h, setText, sync } from "./dom.js";
import { LISTED_SECONDS } from "./fleet.js";
import { byName, clock, count, duration, kindOf, minute, number, outcomeWord, titleOf, wholeDuration } from "./format.js";
import { OUTCOMES } from "./ended.js";

/** Sizes, in CSS pixels. */
const LANE = 9;
const RUN_LANE = 4;
const GAP = 1;
const GROUP = 20;
const AXIS = 22;
/** How many rows are drawn, and how many workers at least have one. */
const ROWS = 120;

/**
 * @typedef {{task: any, start: number, end: number | null, outcome: string, lane: number, y: number, height: number}} Bar
 */

export class Timeline {
  /**
   * @param {Element} parent
   * @param {Element} legend
   */
  constructor(parent, legend) {
    this.parent = parent;
    this.legend = legend;
    this.canvas = h("canvas", { tabindex: "0", role: "img" });
    this.tip = h("div", { class: "tip", role: "status", hidden: true });
    this.more = h("p", { class: "hint", hidden: true });
    this.empty = h("p", { class: "empty" }, "Nothing has run in the last 15 minutes, as far as this monitor knows.");
    parent.append(this.empty, this.canvas, this.tip, this.more);
    sync(
      legend,
      ["running", ...OUTCOMES],
      (each) => each,
      (each) => h("li", {}, h("span", { class: "swatch", "data-outcome": each, "aria-hidden": "true" }), outcomeWord(each)),
      () => {},
    );
    /** @type {Bar[]} */
    this.bars = [];
    this.groups = [];
    this.now = 0;
    /** The bar that is told about; its task stays the same while bars are laid out anew. */
    this.chosen = null;
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.choose(null));
    this.canvas.addEventListener("blur", () => this.choose(null));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.draw()).observe(parent);
    this.readColours();
  }

  /** Read the colours of the theme; they are drawn with the next time. */
  readColours() {
    const probe = h("span", { hidden: true });
    this.parent.append(probe);
    const read = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    this.colours = Object.fromEntries(
      ["running", ...OUTCOMES].map((outcome) => [outcome, read(outcome.replace("_", "-"))]),
    );
    for (const name of ["line", "line-faint", "text", "dim", "surface"]) this.colours[name] = read(name);
    probe.remove();
  }

  /** Lay the tasks out; to be called when they have changed. */
  setTasks(ended, running) {
    /** @type {Map<string, Bar[]>} */
    const byWorker = new Map();
    const add = (task, end, outcome) => {
      if (!byWorker.has(task.worker)) byWorker.set(task.worker, []);
      byWorker.get(task.worker).push({ task, start: task.started_at, end, outcome, lane: 0, y: 0, height: 0 });
    };
    for (const task of ended) add(task, task.ended_at, task.outcome);
    for (const task of running) add(task, null, "running");

    let y = AXIS;
    let rows = 0;
    this.groups = [];
    this.bars = [];
    this.hiddenWorkers = 0;
    for (const [name, bars] of [...byWorker].sort(([a], [b]) => byName(a, b))) {
      if (rows >= ROWS) {
        this.hiddenWorkers += 1;
        continue;
      }
      bars.sort((a, b) => a.start - b.start);
      // A run that waits for its steps holds no slot: runs have thin rows of their own.
      const runs = bars.filter((bar) => kindOf(bar.task) === "run");
      const others = bars.filter((bar) => kindOf(bar.task) !== "run");
      const top = y;
      y += GROUP;
      for (const [of, height] of [[runs, RUN_LANE], [others, LANE]]) {
        const lanes = pack(of);
        for (const bar of of) {
          bar.y = y + bar.lane * (height + GAP);
          bar.height = height;
        }
        y += lanes * (height + GAP) + (lanes ? 2 : 0);
        rows += lanes;
      }
      this.bars.push(...bars);
      this.groups.push({ name, top, bottom: y });
    }
    this.height = y + 4;
    this.empty.hidden = this.bars.length > 0;
    this.canvas.hidden = this.legend.hidden = !this.bars.length;
    this.more.hidden = !this.hiddenWorkers;
    if (this.hiddenWorkers) setText(this.more, `${count(this.hiddenWorkers, "more worker")} not drawn.`);
    const failed = ended.filter(({ outcome }) => outcome === "failed" || outcome === "lost").length;
    this.canvas.setAttribute(
      "aria-label",
      `Timeline: ${count(ended.length, "task")} of ${count(byWorker.size, "worker")} ended, ${number(failed)} of them failed or were lost, ${number(running.length)} running. Arrow keys go from task to task; the same is in the tables.`,
    );
    if (this.chosen) {
      const { chosen } = this;
      this.choose(null);
      this.choose(this.bars.find((bar) => isSame(bar, chosen)) ?? null);
    }
  }

  /** Draw, with the right edge at `now`, in seconds since the epoch. */
  draw(now = this.now) {
    this.now = now;
    const width = this.parent.clientWidth;
    if (!this.bars.length || !width || !now) return;
    const scale = devicePixelRatio || 1;
    const { canvas, colours } = this;
    const size = [Math.round(width * scale), Math.round(this.height * scale)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) {
      [canvas.width, canvas.height] = size;
      canvas.style.height = `${this.height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, this.height);
    this.drawAxis(context, width);
    context.font = `600 11px ${getComputedStyle(canvas).fontFamily}`;
    context.textBaseline = "middle";
    for (const { name, top } of this.groups) {
      context.fillStyle = colours.line;
      context.fillRect(0, top, width, 1);
      context.fillStyle = colours.dim;
      context.fillText(name, 2, top + GROUP / 2 + 1, width - 4);
    }
    for (const bar of this.bars) {
      const [left, right] = this.edges(bar, width);
      if (right < 0) continue;
      context.fillStyle = colours[bar.outcome] ?? colours.dim;
      // A gap between two bars that follow each other, if there is room for one.
      const length = right - left;
      context.fillRect(left, bar.y, Math.max(1.5, length > 4 ? length - 1 : length), bar.height);
    }
    if (this.chosen) {
      const [left, right] = this.edges(this.chosen, width);
      context.strokeStyle = colours.text;
      context.lineWidth = 1.5;
      context.strokeRect(left - 1, this.chosen.y - 1, Math.max(1.5, right - left) + 1, this.chosen.height + 2);
      this.placeTip(Math.max(0, left), right);
    }
  }

  drawAxis(context, width) {
    const { colours } = this;
    context.font = `11px ${getComputedStyle(this.canvas).fontFamily}`;
    context.textBaseline = "middle";
    const step = width < 500 ? 300 : width < 900 ? 120 : 60;
    const first = Math.ceil((this.now - LISTED_SECONDS) / step) * step;
    for (let at = first; at <= this.now; at += step) {
      const x = Math.round(this.place(at, width));
      context.fillStyle = colours["line-faint"];
      context.fillRect(x, AXIS - 4, 1, this.height);
      const text = minute(at);
      const half = context.measureText(text).width / 2;
      if (x - half > 0 && x + half < width) {
        context.fillStyle = colours.dim;
        context.fillText(text, x - half, AXIS / 2 - 1);
      }
    }
  }

  place(at, width) {
    return width * (1 - (this.now - at) / LISTED_SECONDS);
  }

  edges(bar, width) {
    const left = Math.max(-2, this.place(bar.start, width));
    return [left, Math.max(left, this.place(bar.end ?? this.now, width))];
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let nearest = event.pointerType === "mouse" ? 3 : 12;
    for (const bar of this.bars) {
      const [left, right] = this.edges(bar, box.width);
      const across = Math.max(left - x, x - Math.max(right, left + 1.5), 0);
      const down = Math.max(bar.y - y, y - bar.y - bar.height, 0);
      const distance = Math.max(across, down);
      if (distance < nearest) [best, nearest] = [bar, distance];
    }
    this.choose(best);
  }

  onKey(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Escape") this.choose(null);
    else if (event.key in steps || event.key === "Home" || event.key === "End") {
      const inTime = [...this.bars].sort((a, b) => a.start - b.start);
      const last = inTime.length - 1;
      const at = this.chosen ? inTime.indexOf(this.chosen) : last + 1;
      const next = event.key === "Home" ? 0 : event.key === "End" ? last : at + steps[event.key];
      this.choose(inTime[Math.min(last, Math.max(0, next))]);
    } else return;
    event.preventDefault();
  }

  choose(bar) {
    if (bar === this.chosen) return;
    this.chosen = bar;
    this.tip.hidden = !bar;
    if (bar) {
      const { task } = bar;
      const seconds = (bar.end ?? this.now) - bar.start;
      this.tip.replaceChildren(
        h("strong", {}, titleOf(task)),
        h(
          "span",
          {},
          h("span", { class: "swatch", "data-outcome": bar.outcome, "aria-hidden": "true" }),
          `${outcomeWord(bar.outcome)} ${bar.end === null ? `for ${wholeDuration(seconds)}` : `in ${duration(seconds)}`}`,
        ),
        h("span", { class: "dim" }, `${task.worker}, from ${clock(bar.start)}${bar.end === null ? "" : ` to ${clock(bar.end)}`}`),
      );
      if (task.error) this.tip.append(h("span", { class: "error" }, task.error.slice(0, 200)));
    }
    this.draw();
  }

  placeTip(left, right) {
    const width = this.parent.clientWidth;
    const middle = (left + Math.min(right, width)) / 2;
    const half = this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.max(0, Math.min(width - 2 * half, middle - half))}px`;
    this.tip.style.top = `${this.canvas.offsetTop + this.chosen.y + this.chosen.height + 6}px`;
  }
}

const isSame = (a, b) => a.task.id === b.task.id && a.start === b.start && a.task.worker === b.task.worker;

/** Give each bar the first lane that is free at its start; return how many lanes there are. */
function pack(bars) {
  const ends = [];
  for (const bar of bars) {
    // Two clocks, and the moment between an end and the next start: a little overlap is none.
    let lane = ends.findIndex((end) => end <= bar.start + 0.05);
    if (lane < 0) lane = ends.length;
    ends[lane] = bar.end ?? Infinity;
    bar.lane = lane;
  }
  return ends.length;
}
