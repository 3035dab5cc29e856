// What may be done to the fleet, each after a confirmation that says what will happen.

import { h, setText } from "./dom.js";
import { count, kindOf, shortRun, titleOf } from "./format.js";
import { act } from "./requests.js";
import { openSetAside } from "./set_aside.js";

/** What a revoked task means to those who wait for it. */
const WHAT_FOLLOWS = {
  step: (task) => `The step has then failed in run ${shortRun(task.run_id)}.`,
  run: (task) => `Run ${shortRun(task.run_id)} fails, and its steps are stopped. "Terminate" in Dagster marks it as canceled instead.`,
  task: () => "Whoever waits for its result gets an error that says so.",
};

/** How long an answer stays on the page, in milliseconds. */
const ANSWER = 12_000;

/**
 * @param {HTMLDialogElement} dialog
 * @param {Element} answers where it is said what was done
 */
export function makeActions(dialog, answers) {
  const say = (words) => {
    const line = h("p", {}, words);
    answers.append(line);
    setTimeout(() => line.remove(), ANSWER);
  };
  const confirm = (question) => openDialog(dialog, question, say);
  return {
    drain: (worker) =>
      confirm({
        title: `Drain ${worker.name}?`,
        words: [
          `Worker ${worker.name} on ${worker.host} takes no new tasks, finishes what runs (${count(worker.busy_slots, "task")}), and ends.`,
          worker.runs ? ` Its ${count(worker.runs, "run")} ${worker.runs === 1 ? "goes" : "go"} on in another worker.` : "",
          " Whatever started it may start another one.",
        ],
        verb: "Drain",
        perform: () => act("drain", { worker: worker.id }),
      }),
    terminate: (worker) =>
      confirm({
        title: `Terminate ${worker.name}?`,
        words: [
          `Worker ${worker.name} on ${worker.host} stops what runs now (${count(worker.busy_slots, "task")}), and ends. `,
          "A step that is stopped has failed, and is only tried again if its RetryPolicy says so. To let it finish, drain the worker instead.",
        ],
        verb: "Terminate",
        danger: true,
        perform: () => act("terminate", { worker: worker.id }),
      }),
    revoke: (task) =>
      confirm({
        title: `Revoke ${titleOf(task)}?`,
        words: [
          `Its process on ${task.worker} gets SIGTERM, and SIGKILL if it does not end by itself. `,
          WHAT_FOLLOWS[kindOf(task)](task),
        ],
        verb: "Revoke",
        danger: true,
        perform: () => act("revoke", { task: task.id }),
      }),
    openSetAside: () => openSetAside(dialog, say),
  };
}

/** Ask, do it, and show what came of it; what went wrong stays in the dialog. */
function openDialog(dialog, { title, words, verb, danger, perform }, say) {
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const button = h("button", { type: "button", class: danger ? "primary danger" : "primary" }, verb);
  const cancel = h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Cancel");
  button.addEventListener("click", async () => {
    button.disabled = true;
    error.hidden = true;
    try {
      const answer = await perform();
      dialog.close();
      say(answer.message);
    } catch (problem) {
      setText(error, problem.message);
      error.hidden = false;
      button.disabled = false;
    }
  });
  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, title),
    h("p", {}, ...words),
    error,
    h("div", { class: "row" }, cancel, button),
  );
  dialog.showModal();
}
