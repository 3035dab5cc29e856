// What has ended lately, with a filter.

import { CappedList, h, setAttribute, setText, sync } from "./dom.js";
import { clock, duration, kindOf, number, outcomeWord, titleOf } from "./format.js";
import { keyOfEnded } from "./fleet.js";
import { runLink } from "./links.js";
import { moreOf } from "./running.js";

export const OUTCOMES = ["succeeded", "failed", "lost", "revoked", "retried", "handed_over"];

export class EndedTable {
  /**
   * @param {{table: Element, text: HTMLInputElement, outcomes: Element, filters: Element}} parts
   * @param {() => void} onChange called when other tasks are to be shown
   * @param {string} base where Dagster's UI is; empty for nowhere
   */
  constructor({ table, text, outcomes, filters }, onChange, base) {
    this.filters = filters;
    this.base = base;
    this.text = text;
    this.outcomes = outcomes;
    /** The outcomes to show; none of them means all. */
    this.chosen = new Set();
    this.onChange = onChange;
    text.addEventListener("input", onChange);
    this.empty = h("p", { class: "empty" });
    this.body = h("tbody", { role: "rowgroup" });
    this.table = h(
      "table",
      { role: "table", class: "tasks", "aria-labelledby": "ended-title" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Task", "Outcome", "Worker", "Took", "Ended"].map((text) => h("th", { role: "columnheader", scope: "col" }, text)))),
      this.body,
    );
    this.unlisted = h("p", { class: "hint" });
    table.append(this.empty, this.table);
    this.list = new CappedList(table, 25, onChange);
    table.append(this.unlisted);
  }

  show(fleet) {
    this.showOutcomes(fleet.ended);
    const words = this.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = fleet.ended.filter(
      (task) => (!this.chosen.size || this.chosen.has(task.outcome)) && (!words.length || matches(task, words)),
    );
    this.filters.hidden = !fleet.ended.length;
    this.table.hidden = !found.length;
    this.empty.hidden = found.length > 0;
    setText(this.empty, fleet.ended.length ? "Nothing of what has ended matches the filter." : "Nothing has ended in the last 15 minutes.");
    const more = fleet.view.ended_unlisted;
    this.unlisted.hidden = !more;
    setText(this.unlisted, more ? `${number(more)} more have ended that are not listed.` : "");
    sync(this.body, this.list.cut(found, "tasks"), keyOfEnded, (task) => create(task, this.base), () => {});
    return found.length;
  }

  showOutcomes(ended) {
    const counts = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0]));
    for (const each of ended) counts[each.outcome] = (counts[each.outcome] ?? 0) + 1;
    const there = Object.keys(counts).filter((outcome) => counts[outcome] || this.chosen.has(outcome));
    sync(
      this.outcomes,
      there,
      (outcome) => outcome,
      (outcome) =>
        h("button", { type: "button", class: "choice", "data-outcome": outcome, onclick: () => this.toggle(outcome) }, h("span", {}), h("span", { class: "count" })),
      (button, outcome) => {
        setAttribute(button, "aria-pressed", String(this.chosen.has(outcome)));
        setText(button.children[0], outcomeWord(outcome));
        setText(button.children[1], number(counts[outcome]));
      },
    );
  }

  toggle(outcome) {
    if (!this.chosen.delete(outcome)) this.chosen.add(outcome);
    this.onChange();
  }
}

function matches(task, words) {
  task.searched ??= [titleOf(task), task.name, task.queue, task.worker, task.run_id, task.id, task.error, outcomeWord(task.outcome)].join("\n").toLowerCase();
  return words.every((word) => task.searched.includes(word));
}

function create(task, base) {
  const what = h(
    "th",
    { role: "rowheader", scope: "row" },
    h(
      "span",
      { class: "task-name" },
      h("span", { class: "kind", "data-kind": kindOf(task), "aria-hidden": "true" }),
      runLink(base, task, titleOf(task)),
    ),
    h("span", { class: "task-more" }, moreOf(task)),
  );
  if (task.error) {
    what.append(h("details", {}, h("summary", {}, "Why"), h("p", { class: "error" }, task.error)));
  }
  return h(
    "tr",
    { role: "row" },
    what,
    h("td", { role: "cell", class: "outcome" }, h("span", { class: "badge", "data-outcome": task.outcome }, outcomeWord(task.outcome))),
    h("td", { role: "cell", class: "on" }, task.worker),
    h("td", { role: "cell", class: "time" }, duration(task.ended_at - task.started_at)),
    h("td", { role: "cell", class: "time" }, clock(task.ended_at)),
  );
}
