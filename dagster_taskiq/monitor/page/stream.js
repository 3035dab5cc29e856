// The events of the monitor. fetch and not EventSource, which hides why it was refused and gives up
// for good after some answers.

/** Longer silence than the monitor ever keeps, in milliseconds: the connection is dead. */
const SILENCE = 25_000;
/** The shortest and the longest pause before the next try, in milliseconds. */
const PAUSES = [1000, 10_000];

/** The monitor has answered, and the answer is no: trying again does not help. */
class Refused extends Error {}

/**
 * Read events for ever; connect again whenever the connection is lost.
 * @param {string} url
 * @param {(name: string, data: any) => void} onEvent
 * @param {(state: {name: "connecting" | "live" | "lost" | "refused", why?: string}) => void} onState
 * @param {() => Promise<void>} prepare done before each connection; if it fails, that has failed
 */
export async function follow(url, onEvent, onState, prepare) {
  let failures = 0;
  onState({ name: "connecting" });
  for (;;) {
    let why;
    try {
      await prepare();
      await read(url, (name, data) => {
        failures = 0;
        onState({ name: "live" });
        try {
          onEvent(name, data);
        } catch (error) {
          reportError(error); // a fault of the page, and none of the connection
        }
      });
      why = "It has ended the connection.";
    } catch (error) {
      if (error instanceof Refused) {
        onState({ name: "refused", why: error.message });
        return;
      }
      // What fetch says of a connection that failed is another thing in each browser.
      why = error instanceof TypeError ? "It cannot be reached." : error.message;
    }
    const pause = Math.min(PAUSES[0] * 2 ** failures, PAUSES[1]);
    failures += 1;
    onState({ name: "lost", why });
    await wake(pause);
  }
}

/** Wait; not longer than until the network is back or the page is looked at again. */
function wake(pause) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    const timer = setTimeout(done, pause);
    addEventListener("online", done);
    document.addEventListener("visibilitychange", done);
  });
}

async function read(url, onEvent) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE);
  };
  heard();
  try {
    const response = await fetch(url, {
      cache: "no-store",
      headers: { Accept: "text/event-stream" },
      signal: silence.signal,
    });
    await check(response, "text/event-stream");
    let rest = "";
    for await (const chunk of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
      heard();
      const blocks = (rest + chunk).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) onEvent(event.name, event.data);
      }
    }
  } catch (error) {
    if (silence.signal.aborted) throw new Error("The monitor is silent.");
    throw error;
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

/**
 * Check that an answer of the monitor is one.
 * @param {Response} response
 * @param {string} contentType
 */
export async function check(response, contentType) {
  if (response.status === 401) throw new Refused("The token was not right, or there was none.");
  if (response.status === 403) throw new Refused((await response.text()).slice(0, 500));
  if (!response.ok) {
    throw new Error(`It answered ${response.status}: ${(await response.text()).slice(0, 300)}`);
  }
  if (!response.headers.get("Content-Type")?.startsWith(contentType)) {
    throw new Error("Something else than the monitor has answered, such as a proxy.");
  }
}

/** The chunks of a stream; not every browser can iterate over one. */
async function* chunks(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5));
  }
  return data.length ? { name, data: JSON.parse(data.join("\n")) } : null;
}
