// The queues: what waits by priority, what runs, and who serves them.

import { CappedList, fill, h, setAttribute, setText, sync } from "./dom.js";
import { byName, count, number, quoted, wholeDuration } from "./format.js";

/** How many names of workers stand beside a queue. */
const NAMES = 4;
/** How many priorities are told apart in the bar of a queue. */
const SHADES = 4;

export class QueueTable {
  constructor(parent, onMore) {
    this.empty = h("p", { class: "empty" }, "No queue yet: a queue is there as soon as a worker serves it, or something is sent to it.");
    this.body = h("tbody", { role: "rowgroup" });
    const heads = ["Queue", "Waiting", "Starting", "Running", "Oldest", "Served by"];
    this.table = h(
      "table",
      { role: "table", class: "queues", "aria-labelledby": "queues-title" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map((text) => h("th", { role: "columnheader", scope: "col" }, text)))),
      this.body,
    );
    this.advice = h("p", { class: "advice", hidden: true });
    parent.append(this.empty, this.advice, this.table);
    this.list = new CappedList(parent, 25, onMore);
  }

  show(queues, elapsed) {
    this.empty.hidden = queues.length > 0;
    this.table.hidden = !queues.length;
    const unserved = queues.filter((each) => each.unserved);
    this.advice.hidden = !unserved.length;
    fill(this.advice, unserved.map((each) => each.name).join("\n"), () => advice(unserved));
    const most = Math.max(1, ...queues.map((each) => each.waiting));
    // What needs somebody comes first; the order of the names otherwise, so that rows stay in place.
    const sorted = [...queues].sort((a, b) => b.unserved - a.unserved || byName(a.name, b.name));
    sync(
      this.body,
      this.list.cut(sorted, "queues"),
      (queue) => queue.name,
      createRow,
      (row, queue) => updateRow(row, queue, most, elapsed),
    );
  }
}

function createRow(queue) {
  const cell = (name, ...children) => h("td", { role: "cell", class: name, "data-label": LABELS[name] }, ...children);
  return h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, h("span", { class: "name" }, queue.name)),
    cell("waiting", h("span", { class: "value" }), h("span", { class: "bar", "aria-hidden": "true" }), h("span", { class: "levels" })),
    cell("starting"),
    cell("running", h("span", { class: "value" }), h("span", { class: "levels" })),
    cell("oldest"),
    cell("served"),
  );
}

const LABELS = { waiting: "Waiting", starting: "Starting", running: "Running", oldest: "Oldest", served: "Served by" };

function updateRow(row, queue, most, elapsed) {
  const [, waiting, starting, running, oldest, served] = row.children;
  setAttribute(row, "data-unserved", queue.unserved);
  const [value, bar, levels] = waiting.children;
  setText(value, number(queue.waiting));
  const parts = priorities(queue);
  fill(bar, JSON.stringify([parts, most]), () => segments(parts, most));
  const told = parts.length > 1 || (parts.length === 1 && parts[0].from !== 0);
  setText(levels, told ? parts.map(inWords).join("  ") : "");
  setZero(starting, queue.starting);
  setText(running.children[0], number(queue.running));
  setAttribute(running, "data-zero", !queue.running);
  setText(running.children[1], queue.orchestrating ? `+ ${count(queue.orchestrating, "run")} waiting` : "");
  setAttribute(oldest, "data-zero", queue.oldest_age === null);
  setText(oldest, queue.oldest_age === null ? "–" : wholeDuration(queue.oldest_age + elapsed));
  setAttribute(waiting, "data-zero", !queue.waiting);
  fill(served, JSON.stringify([queue.unserved, queue.workers]), () => servedBy(queue));
}

function setZero(cell, value) {
  setText(cell, number(value));
  setAttribute(cell, "data-zero", !value);
}

/** The waiting messages by priority, highest first; the lowest ones are taken together. */
function priorities(queue) {
  const all = Object.entries(queue.priorities ?? { 0: queue.waiting })
    .map(([from, waiting]) => ({ from: Number(from), to: Number(from), waiting }))
    .filter((each) => each.waiting > 0)
    .sort((a, b) => b.from - a.from);
  while (all.length > SHADES) {
    const low = all.pop();
    const above = all.at(-1);
    above.from = low.from;
    above.waiting += low.waiting;
  }
  return all;
}

const inWords = ({ from, to, waiting }) => `${from === to ? `p${to}` : `p${from}…${to}`}: ${number(waiting)}`;

function segments(parts, most) {
  return parts.map((part, place) => {
    const segment = h("span", { class: "segment", "data-shade": place, title: inWords(part) });
    segment.style.width = `${(100 * part.waiting) / most}%`;
    return segment;
  });
}

/** What to do about queues that nobody serves. */
function advice(unserved) {
  const names = unserved.map((queue) => queue.name);
  const rest = names.length - NAMES;
  const listed = names.slice(0, NAMES).join(", ") + (rest > 0 ? ` and ${count(rest, "more queue")}` : "");
  return [
    h("strong", {}, `No worker takes what waits in ${listed}.`),
    " Start one: ",
    commandLine(`dagster-taskiq worker start -q ${quoted(names.slice(0, NAMES).join(","))}`),
  ];
}

function servedBy(queue) {
  if (queue.unserved) return h("strong", { class: "badge", "data-tone": "bad" }, "unserved");
  if (!queue.workers.length) return h("span", { class: "dim" }, "nobody");
  const rest = queue.workers.length - NAMES;
  return [queue.workers.slice(0, NAMES).join(", "), rest > 0 && h("span", { class: "dim", title: queue.workers.join(", ") }, ` + ${number(rest)}`)];
}

/** A command, with a button that copies it where the browser allows that. */
export function commandLine(command) {
  const line = h("span", { class: "command" }, h("code", {}, command));
  if (navigator.clipboard) {
    const button = h("button", { type: "button", class: "quiet", "aria-label": `Copy: ${command}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command);
        setText(button, "Copied");
      } catch {
        setText(button, "Select and copy it");
      }
    });
    line.append(button);
  }
  return line;
}
