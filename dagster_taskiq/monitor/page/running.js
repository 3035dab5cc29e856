// What runs now.

import { CappedList, fill, h, setAttribute, setText, sync } from "./dom.js";
import { kindOf, shortRun, titleOf, wholeDuration } from "./format.js";
import { runLink } from "./links.js";

export class RunningTable {
  /**
   * @param {Element} parent
   * @param {() => void} onMore
   * @param {string} base where Dagster's UI is; empty for nowhere
   * @param {((task: any) => void) | null} revoke
   */
  constructor(parent, onMore, base, revoke) {
    this.base = base;
    this.revoke = revoke;
    this.empty = h("p", { class: "empty" }, "Nothing runs.");
    this.body = h("tbody", { role: "rowgroup" });
    this.table = h(
      "table",
      { role: "table", class: "tasks", "aria-labelledby": "running-title" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Task", "Worker", "For"].map((text) => h("th", { role: "columnheader", scope: "col" }, text)), revoke && h("th", { role: "columnheader", scope: "col" }, h("span", { class: "hidden" }, "Actions")))),
      this.body,
    );
    parent.append(this.empty, this.table);
    this.list = new CappedList(parent, 25, onMore);
  }

  show(running, now) {
    this.empty.hidden = running.length > 0;
    this.table.hidden = !running.length;
    const sorted = [...running].sort((a, b) => a.started_at - b.started_at || (a.id < b.id ? -1 : 1));
    sync(
      this.body,
      this.list.cut(sorted, "tasks"),
      (task) => `${task.id} ${task.attempt}`,
      (task) => this.create(task),
      (row, task) => this.update(row, task, now),
    );
  }

  create(task) {
    const row = h(
      "tr",
      { role: "row" },
      h("th", { role: "rowheader", scope: "row" }, h("span", { class: "task-name" }), h("span", { class: "task-more" })),
      h("td", { role: "cell", class: "on" }),
      h("td", { role: "cell", class: "time" }),
      this.revoke &&
        h("td", { role: "cell", class: "act" }, h("button", { type: "button", class: "quiet danger", "aria-label": `Revoke ${titleOf(task)}`, onclick: () => this.revoke(row.task) }, "Revoke")),
    );
    return row;
  }

  update(row, task, now) {
    row.task = task;
    const [what, on, time] = row.children;
    const [name, more] = what.children;
    fill(name, task.orchestrating, () => [
      h("span", { class: "kind", "data-kind": task.orchestrating ? "held" : kindOf(task), "aria-hidden": "true" }),
      runLink(this.base, task, titleOf(task)),
    ]);
    setText(more, moreOf(task));
    setText(on, task.worker);
    setText(time, wholeDuration(now - task.started_at));
    setAttribute(row, "data-held", task.orchestrating);
  }
}

/** What stands below the name of a task. */
export function moreOf(task) {
  return [
    task.orchestrating && "waits for its steps",
    task.queue,
    task.attempt > 0 && `attempt ${task.attempt + 1}`,
    task.run_id && `run ${shortRun(task.run_id)}`,
    task.pid && `pid ${task.pid}`,
  ].filter(Boolean).join(" · ");
}
