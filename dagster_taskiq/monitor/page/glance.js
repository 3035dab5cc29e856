// The numbers at a glance.

import { h, setAttribute, setText, sync } from "./dom.js";
import { count, kindOf, number, wholeDuration } from "./format.js";

/** @param {Element} list a `dl` */
export function showGlance(list, fleet, openSetAside) {
  const view = fleet.view;
  sync(
    list,
    figures(fleet, openSetAside ? "could not be used" : "see: dagster-taskiq rejected list"),
    (each) => each.name,
    (each) => {
      const tile = h("div", { class: "tile" }, h("dt", {}, each.name), h("dd", {}), h("dd", { class: "more-words" }));
      if (each.name === "Set aside" && openSetAside) {
        tile.append(h("dd", {}, h("button", { type: "button", class: "quiet", onclick: openSetAside }, "Look at them")));
      }
      return tile;
    },
    (tile, each) => {
      setText(tile.children[1], each.value);
      setText(tile.children[2], each.words);
      setAttribute(tile, "data-tone", each.tone);
    },
  );
  document.title = `${view.trouble ? "(!) " : ""}${number(sum(view.queues, "waiting"))} waiting, ${number(
    sum(view.queues, "running"),
  )} running · dagster-taskiq`;
}

function figures(fleet, ofSetAside) {
  const { queues, workers, running, rejected, ended_unlisted: unlisted } = fleet.view;
  const live = workers.filter((each) => each.state !== "lost");
  const open = live.filter((each) => each.state !== "draining");
  const free = open.reduce((all, each) => all + Math.max(0, each.slots - each.busy_slots), 0);
  const oldest = Math.max(-1, ...queues.map((each) => each.oldest_age ?? -1));
  const unserved = queues.filter((each) => each.unserved);
  const starting = sum(queues, "starting");
  const orchestrating = running.filter((each) => each.orchestrating).length;
  const failed = fleet.ended.filter(({ outcome }) => outcome === "failed" || outcome === "lost").length;
  const draining = live.length - open.length;
  const lost = workers.length - live.length;
  const found = [
    {
      name: "Waiting",
      value: number(sum(queues, "waiting")),
      words: unserved.length
        ? `${count(unserved.length, "queue")} unserved`
        : oldest >= 0 ? `oldest ${wholeDuration(oldest + fleet.silence())}` : starting ? `${number(starting)} starting` : "nothing waits",
      tone: unserved.length ? "bad" : null,
    },
    {
      name: "Running",
      value: number(running.length - orchestrating),
      words: inWords(running) + (orchestrating ? ` · ${count(orchestrating, "run")} waiting` : ""),
    },
    { name: "Slots free", value: number(free), words: `of ${number(sum(open, "slots"))}` },
    {
      name: "Workers",
      value: number(live.length),
      words: [draining && `${number(draining)} draining`, lost && `${number(lost)} lost`].filter(Boolean).join(" · ")
        || (live.length ? "none lost" : "none yet"),
      tone: lost ? "bad" : null,
    },
    {
      name: "Ended in 15 min",
      value: number(fleet.ended.length + unlisted),
      words: failed ? `${number(failed)} failed or lost` : "none failed",
      tone: failed ? "bad" : null,
    },
  ];
  if (rejected) {
    found.push({ name: "Set aside", value: number(rejected), words: ofSetAside, tone: "bad" });
  }
  return found;
}

function inWords(running) {
  const kinds = { step: 0, run: 0, task: 0 };
  for (const each of running) if (!each.orchestrating) kinds[kindOf(each)] += 1;
  const words = Object.entries(kinds).filter(([, value]) => value).map(([kind, value]) => count(value, kind));
  return words.join(" · ") || "idle";
}

const sum = (items, name) => items.reduce((all, each) => all + each[name], 0);
