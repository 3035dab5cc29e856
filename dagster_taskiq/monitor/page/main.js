// The page: reads the events of the monitor and keeps what is shown up to date.

import { fill, h, setAttribute, setText } from "./dom.js";
import { EndedTable } from "./ended.js";
import { Fleet } from "./fleet.js";
import { number } from "./format.js";
import { showGlance } from "./glance.js";
import { dagsterBase } from "./links.js";
import { showLink, showTrouble } from "./notices.js";
import { QueueTable } from "./queues.js";
import { RunningTable } from "./running.js";
import { makeActions } from "./actions.js";
import { check, follow } from "./stream.js";
import { setUpTheme } from "./theme_button.js";
import { Timeline } from "./timeline.js";
import { WorkerCards } from "./workers.js";

const part = (id) => document.getElementById(id);
const fleet = new Fleet();
let state = { name: "connecting" };
/** The parts of the page, when it is known what this monitor allows; null before. */
let parts = null;
/** What the monitor has told of itself, as JSON. */
let settings = null;
/** The release of the monitor. */
let release = "";
let isDrawing = false;
/** New data has come since the last drawing. */
let isNew = false;

function setUp(told) {
  const { dagster_url: dagsterUrl, actions: mayAct } = told;
  release = told.release ?? "";
  const base = dagsterBase(dagsterUrl ?? "");
  const actions = mayAct ? makeActions(part("dialog"), part("answers")) : null;
  const ended = { table: part("ended"), text: part("filter"), outcomes: part("outcomes"), filters: part("filters") };
  parts = {
    queues: new QueueTable(part("queues"), draw),
    workers: new WorkerCards(part("workers"), draw, actions),
    timeline: new Timeline(part("timeline"), part("legend")),
    running: new RunningTable(part("running"), draw, base, actions?.revoke ?? null),
    ended: new EndedTable(ended, draw, base),
    setAside: actions?.openSetAside ?? null,
  };
}

/** Draw with the next frame; a page that nobody looks at has none. */
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    drawNow();
  });
}

function drawNow() {
  showLink(part("link"), part("link-words"), fleet, state);
  showTrouble(part("trouble"), fleet, state);
  const { view } = fleet;
  const isKnown = parts !== null && view !== null && view.at > 0;
  part("fleet").hidden = !isKnown;
  if (view) setText(part("broker"), view.broker);
  if (!isKnown) return;
  setAttribute(part("fleet"), "data-stale", Boolean(view.trouble) || state.name !== "live");
  const elapsed = fleet.silence();
  fleet.forget();
  showGlance(part("glance"), fleet, parts.setAside);
  parts.queues.show(view.queues, elapsed);
  parts.workers.show(view, elapsed);
  parts.running.show(view.running, fleet.now());
  parts.ended.show(fleet);
  if (isNew) parts.timeline.setTasks(fleet.ended, view.running);
  parts.timeline.draw(fleet.now());
  isNew = false;
  setText(part("queues-count"), number(view.queues.length));
  setText(part("workers-count"), number(view.workers.length));
  setText(part("running-count"), number(view.running.length));
  setText(part("ended-count"), number(fleet.ended.length + view.ended_unlisted));
  const backend = view.backend === view.broker ? "" : view.backend;
  fill(part("foot"), backend, () => [
    h("span", {}, `Release ${release}`),
    backend && h("span", {}, "Backend ", h("code", {}, backend)),
    h("a", { href: "metrics" }, "Metrics"),
    h("a", { href: "api/fleet" }, "JSON"),
  ]);
}

setUpTheme(part("theme"), part("theme-name"), () => {
  parts?.timeline.readColours();
  draw();
});
// What counts up does so while nothing comes, too.
setInterval(draw, 1000);

follow(
  "events",
  (_, view) => {
    fleet.take(view);
    isNew = true;
    draw();
  },
  (next) => {
    state = next;
    draw();
  },
  async () => {
    const response = await fetch("api/settings", { cache: "no-store" });
    await check(response, "application/json");
    const told = await response.text();
    // Another monitor, or another release of it: its own page.
    if (settings !== null && settings !== told) location.reload();
    else if (settings === null) setUp(JSON.parse(told));
    settings = told;
  },
);
