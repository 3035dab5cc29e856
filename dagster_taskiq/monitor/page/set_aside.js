// The messages that were set aside, to be requeued or deleted.

import { h, setText } from "./dom.js";
import { bytes, clock, count } from "./format.js";
import { act, ask } from "./requests.js";

/**
 * Show them in a dialog.
 * @param {HTMLDialogElement} dialog
 * @param {(words: string) => void} say
 */
export async function openSetAside(dialog, say) {
  const list = h("ul", { class: "set-aside" }, h("li", { class: "dim" }, "Asking …"));
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const requeue = h("button", { type: "button", class: "primary", disabled: true }, "Requeue");
  const remove = h("button", { type: "button", class: "primary danger", disabled: true }, "Delete");
  /** The messages that are chosen, by their ids. */
  const chosen = new Map();
  /** The action that was clicked once; the second click confirms it. */
  let asked = null;

  const all = h("button", { type: "button", class: "quiet", hidden: true }, "Choose all");
  all.addEventListener("click", () => {
    for (const box of list.querySelectorAll("input")) if (!box.checked) box.click();
  });

  const show = () => {
    const many = chosen.size;
    const whole = [...chosen.values()].every((each) => each.is_whole);
    requeue.disabled = !many || !whole;
    remove.disabled = !many;
    setText(requeue, asked === requeue ? `Yes, requeue ${count(many, "message")}` : "Requeue");
    setText(remove, asked === remove ? `Yes, delete ${count(many, "message")} for good` : "Delete");
  };
  const fail = (problem) => {
    setText(error, problem.message);
    error.hidden = false;
  };
  const onClick = (button, action) => async () => {
    if (asked !== button) {
      asked = button;
      show();
      return;
    }
    requeue.disabled = remove.disabled = true;
    try {
      const answer = await act(action, { messages: [...chosen.keys()] });
      dialog.close();
      say(answer.message);
    } catch (problem) {
      asked = null;
      show();
      fail(problem);
    }
  };
  requeue.addEventListener("click", onClick(requeue, "requeue"));
  remove.addEventListener("click", onClick(remove, "delete"));

  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, "Messages that were set aside"),
    h(
      "p",
      {},
      "A worker could not use them, for the reason below. Requeued, they are delivered again: do that once the reason is gone, such as with a newer release on the workers. Deleted, they are gone.",
    ),
    list,
    all,
    error,
    h("div", { class: "row" }, h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"), requeue, remove),
  );
  dialog.showModal();
  try {
    const { messages } = await ask("api/rejected");
    list.replaceChildren(...messages.map((each) => line(each, chosen, () => {
      asked = null;
      show();
    })));
    all.hidden = messages.length < 2;
    if (!messages.length) list.append(h("li", { class: "dim" }, "There are none any more."));
  } catch (problem) {
    list.replaceChildren();
    fail(problem);
  }
}

function line(message, chosen, onChange) {
  const box = h("input", { type: "checkbox" });
  box.addEventListener("change", () => {
    if (box.checked) chosen.set(message.id, message);
    else chosen.delete(message.id);
    onChange();
  });
  const facts = [
    message.queue,
    message.task_id && `task ${message.task_id}`,
    message.rejected_at !== null && clock(message.rejected_at),
    bytes(message.size),
    !message.is_whole && "not whole: it can only be deleted",
  ];
  return h(
    "li",
    {},
    h(
      "label",
      {},
      box,
      h("span", { class: "reason" }, message.reason),
      h("span", { class: "task-more" }, facts.filter(Boolean).join(" · ")),
      h("code", { class: "preview" }, message.preview),
    ),
  );
}
