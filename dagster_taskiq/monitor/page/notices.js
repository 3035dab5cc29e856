// What is wrong, in words: the servers of the fleet, or the connection to the monitor.

import { fill, h, setAttribute, setText } from "./dom.js";
import { clock } from "./format.js";

const WORDS = {
  connecting: "Connecting …",
  live: "Live",
  stale: "Not up to date",
  lost: "Connection lost",
  refused: "Refused",
};

/**
 * Show how the connection to the monitor is, and whether the monitor can look at the fleet.
 * @param {Element} link
 * @param {Element} words
 */
export function showLink(link, words, fleet, state) {
  const name = state.name === "live" && fleet.view?.trouble ? "stale" : state.name;
  setAttribute(link, "data-state", name);
  setText(words, WORDS[name]);
}

/**
 * Show what is wrong, since when, and what to do.
 * @param {Element} banner an element with the role `alert`, which is read aloud when it changes
 */
export function showTrouble(banner, fleet, state) {
  const found = [];
  if (state.name === "refused") {
    found.push({ title: "The monitor does not let you in.", words: state.why, reload: true });
  } else if (state.name === "lost") {
    const since = fleet.view
      ? `What you see is from ${clock(fleet.heardAt)}. It is tried again until the monitor answers.`
      : "It is tried again until the monitor answers.";
    found.push({ title: "No connection to the monitor.", words: `${state.why} ${since}` });
  }
  if (fleet.view?.trouble) {
    const since = fleet.view.at
      ? `What you see is from ${clock(fleet.view.at - fleet.ahead)}.`
      : "Nothing is known of the fleet yet.";
    found.push({ title: "The monitor cannot look at the fleet.", words: `${fleet.view.trouble} ${since}` });
  }
  banner.hidden = !found.length;
  fill(banner, JSON.stringify(found), () =>
    found.map(({ title, words, reload }) =>
      h(
        "p",
        {},
        h("strong", {}, title),
        ` ${words} `,
        reload && h("button", { type: "button", class: "quiet", onclick: () => location.reload() }, "Ask again"),
      ),
    ),
  );
}
