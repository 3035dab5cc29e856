// The workers: their slots as cells, and how they are.

import { CappedList, fill, h, setAttribute, setText, sync } from "./dom.js";
import { byName, bytes, count, kindOf, number, outcomeWord, titleOf, wholeDuration } from "./format.js";
import { commandLine } from "./queues.js";

/** How many slots of a worker are drawn. */
const CELLS = 64;
/** The order in which workers are listed: what needs somebody first. */
const ORDER = { lost: 0, draining: 1, busy: 2, idle: 2 };

export class WorkerCards {
  /**
   * @param {Element} parent
   * @param {() => void} onMore
   * @param {{drain: (worker: any) => void, terminate: (worker: any) => void} | null} actions
   */
  constructor(parent, onMore, actions) {
    this.actions = actions;
    this.empty = h("p", { class: "empty" }, "No worker yet. Start one: ", commandLine("dagster-taskiq worker start"));
    this.cards = h("ul", { class: "workers" });
    parent.append(this.empty, this.cards);
    this.list = new CappedList(parent, 24, onMore);
  }

  show(view, elapsed) {
    const workers = [...view.workers].sort(
      (a, b) => ORDER[a.state] - ORDER[b.state] || byName(a.name, b.name),
    );
    this.empty.hidden = workers.length > 0;
    const tasks = groupByWorker(view.running);
    sync(
      this.cards,
      this.list.cut(workers, "workers"),
      (worker) => worker.id,
      (worker) => this.create(worker),
      (card, worker) => this.update(card, worker, tasks.get(worker.name) ?? [], elapsed),
    );
  }

  create(worker) {
    const button = (text, what, danger) =>
      h(
        "button",
        { type: "button", class: danger ? "quiet danger" : "quiet", "aria-label": `${text} ${worker.name}`, onclick: () => what(card.worker) },
        text,
      );
    const card = h(
      "li",
      { class: "worker" },
      h(
        "div",
        { class: "worker-head" },
        h("h3", {}, worker.name),
        h("span", { class: "badge" }),
        this.actions &&
          h("div", { class: "worker-actions" }, button("Drain", this.actions.drain), button("Terminate", this.actions.terminate, true)),
      ),
      h("div", { class: "slots" }, h("div", { class: "cells", role: "img" }), h("span", { class: "slots-words" })),
      h("div", { class: "held-runs" }),
      h("p", { class: "facts" }),
      h("p", { class: "facts" }),
      h("ul", { class: "chips", "aria-label": "Queues" }),
    );
    return card;
  }

  update(card, worker, tasks, elapsed) {
    card.worker = worker;
    const [head, slots, held, place, health, queues] = card.children;
    const [, badge, buttons] = head.children;
    setAttribute(card, "data-state", worker.state);
    setText(badge, worker.state);
    setAttribute(badge, "data-tone", worker.state === "lost" ? "bad" : worker.state);
    if (buttons) {
      buttons.hidden = worker.state === "lost";
      buttons.firstElementChild.disabled = worker.state === "draining";
    }

    const inSlots = tasks.filter((each) => !each.orchestrating);
    const waiting = tasks.filter((each) => each.orchestrating);
    this.updateCells(slots.children[0], worker, inSlots);
    setText(slots.children[1], `${number(worker.busy_slots)} of ${count(worker.slots, "slot")}`);
    held.hidden = !waiting.length;
    fill(held, JSON.stringify([waiting.map((each) => each.id), worker.max_runs]), () => [
      h("span", { class: "held-marks", "aria-hidden": "true" }, waiting.slice(0, CELLS).map((each) => h("span", { class: "held", title: titleOf(each) }))),
      h("span", {}, `${count(waiting.length, "run")} waiting for steps${worker.max_runs ? `, at most ${number(worker.max_runs)}` : ""}`),
    ]);

    facts(place, [
      worker.host,
      `pid ${worker.pid}`,
      `release ${worker.version}`,
      `up ${wholeDuration(worker.uptime + elapsed)}`,
      worker.memory && bytes(worker.memory),
    ]);
    const silent = wholeDuration(worker.age + elapsed);
    const { succeeded = 0, failed = 0, ...others } = worker.ended;
    facts(health, [
      worker.state === "lost" ? `silent for ${silent}` : `heartbeat ${silent} ago`,
      { words: `${number(succeeded)} succeeded`, tone: succeeded ? "good" : null },
      failed && { words: `${number(failed)} failed`, tone: "bad" },
      ...Object.entries(others).map(([outcome, many]) => many && `${number(many)} ${outcomeWord(outcome)}`),
    ]);
    fill(queues, worker.queues.join("\n"), () => worker.queues.map((queue) => h("li", {}, queue)));
  }

  updateCells(cells, worker, inSlots) {
    const drawn = Math.min(worker.slots, CELLS);
    const states = inSlots.slice(0, drawn).map((each) => [kindOf(each), titleOf(each)]);
    while (states.length < Math.min(worker.busy_slots, drawn)) states.push(["task", "a task"]);
    const free = worker.state === "draining" ? "closed" : "free";
    while (states.length < drawn) states.push([free, free === "free" ? "free" : "takes nothing more"]);
    fill(cells, JSON.stringify(states), () =>
      states.map(([state, title]) => h("span", { class: "cell", "data-kind": state, title })),
    );
    const kinds = ["step", "run", "task"].map((kind) => [kind, states.filter(([state]) => state === kind).length]);
    const words = kinds.filter(([, many]) => many).map(([kind, many]) => count(many, kind));
    setAttribute(cells, "aria-label", `${number(worker.busy_slots)} of ${count(worker.slots, "slot")} busy${words.length ? `: ${words.join(", ")}` : ""}`);
  }
}

/** Show facts beside each other, each of which stays in one line if it can. */
function facts(element, all) {
  const shown = all.filter(Boolean).map((each) => (typeof each === "string" ? { words: each, tone: null } : each));
  while (element.children.length > shown.length) element.lastElementChild.remove();
  while (element.children.length < shown.length) element.append(h("span", {}));
  shown.forEach(({ words, tone }, place) => {
    setText(element.children[place], words);
    setAttribute(element.children[place], "class", tone);
  });
}

function groupByWorker(running) {
  const groups = new Map();
  for (const each of running) {
    if (!groups.has(each.worker)) groups.set(each.worker, []);
    groups.get(each.worker).push(each);
  }
  return groups;
}
