// Links to runs in Dagster's UI, if the monitor was told where that is.

import { h } from "./dom.js";

/** Return the base of Dagster's UI; empty if it is none that a browser may be sent to. */
export function dagsterBase(url) {
  try {
    return ["http:", "https:"].includes(new URL(url).protocol) ? url.replace(/\/+$/, "") : "";
  } catch {
    return "";
  }
}

/** Return the address of a task's run, with its step selected and its log filtered; null if there is none. */
function runAddress(base, task) {
  if (!base || !task.run_id) return null;
  const step = task.step_key
    ? `?${new URLSearchParams({ selection: task.step_key, logs: `step:${task.step_key}` })}`
    : "";
  return `${base}/runs/${encodeURIComponent(task.run_id)}${step}`;
}

/** Return a text, as a link to a task's run if there is one. */
export function runLink(base, task, text) {
  const address = runAddress(base, task);
  if (!address) return h("span", {}, text);
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer", title: "Open the run in Dagster" }, text);
}
