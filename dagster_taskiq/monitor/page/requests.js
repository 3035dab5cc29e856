// What the page asks of the monitor, but for the events.

/**
 * Ask the monitor.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>} its answer
 */
export async function ask(path, options = {}) {
  let response;
  let text;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
    text = await response.text();
  } catch {
    throw new Error("The monitor cannot be reached, and may have done nothing. Try again.");
  }
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`The monitor answered ${response.status}: ${text.slice(0, 300)}`);
  }
  if (!response.ok) throw new Error(answer.error ?? `The monitor answered ${response.status}.`);
  return answer;
}

/** Have the monitor do something; return its answer. */
export const act = (action, body) =>
  ask(`api/actions/${action}`, {
    method: "POST",
    // No other site can send this header: without it the monitor does nothing.
    headers: { "X-Requested-With": "dagster-taskiq", "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
