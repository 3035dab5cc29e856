// Numbers, times and names as the page writes them.

const NUMBER = new Intl.NumberFormat();
const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const MINUTE = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});

export const number = (value) => NUMBER.format(value);

/** A duration in seconds: 0.42 s, 4.2 s, 42 s, 3 min 05 s, 2 h 04 min, 3 d 4 h. */
export function duration(seconds) {
  const value = Math.max(0, seconds);
  if (value < 0.995) return `${value.toFixed(2)} s`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  return wholeDuration(value);
}

/** A duration that counts up on the page: whole seconds. */
export function wholeDuration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${two(whole % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${two(minutes % 60)} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const two = (value) => String(value).padStart(2, "0");

/** The time of day, by the clock and zone of the browser, of seconds since the epoch. */
export const clock = (seconds) => CLOCK.format(seconds * 1000);
export const minute = (seconds) => MINUTE.format(seconds * 1000);

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size >= 10 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** "1 worker", "2 workers". */
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

export const shortRun = (runId) => runId.slice(0, 8);

/** What kind of task it is: a step, a run, or a user's own task. */
export function kindOf(task) {
  if (task.step_key) return "step";
  return task.run_id ? "run" : "task";
}

/** What a task is, in words that name it: "job · step", "run of job", or the name of a task. */
export function titleOf(task) {
  const job = task.job || (task.run_id ? `run ${shortRun(task.run_id)}` : "");
  if (task.step_key) return `${job} · ${task.step_key}`;
  return task.run_id ? `run of ${task.job || shortRun(task.run_id)}` : task.name;
}

/** How an outcome is called. */
export const outcomeWord = (outcome) => outcome.replaceAll("_", " ");

/** A word as a shell reads it. */
export const quoted = (word) =>
  /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;

const COLLATOR = new Intl.Collator(undefined, { numeric: true });

/** Compare two names as people sort them: w2 before w10. */
export const byName = (a, b) => COLLATOR.compare(a, b);
