// What the page knows of the fleet: the last event, and what has ended in the last 15 minutes.

/** For how long what has ended is kept, in seconds. */
export const LISTED_SECONDS = 900;
/** How many of them are kept at most. */
const LISTED = 5000;

export class Fleet {
  constructor() {
    /** The data of the last event; null before the first one. */
    this.view = null;
    /** What has ended, newest first. */
    this.ended = [];
    /** How far the monitor's clock is ahead of the browser's, in seconds. */
    this.ahead = 0;
    /** When the last event came, by the browser's clock, in seconds. */
    this.heardAt = 0;
    this.keys = new Set();
  }

  /**
   * Take an event. What has ended is added to what is known: the monitor lists it once for each
   * connection, and one that was started again knows nothing of what was before.
   */
  take(view) {
    if (this.view && (view.broker !== this.view.broker || view.backend !== this.view.backend)) {
      this.ended = [];
      this.keys.clear();
    }
    this.heardAt = Date.now() / 1000;
    if (!view.trouble && view.at) this.ahead = view.at - this.heardAt;
    this.view = view;
    const fresh = view.ended.filter((each) => !this.keys.has(keyOfEnded(each)));
    this.correct([...view.running, ...fresh]);
    for (const each of fresh) this.keys.add(keyOfEnded(each));
    if (fresh.length) {
      this.ended = [...fresh, ...this.ended].sort((a, b) => b.ended_at - a.ended_at);
    }
    this.forget();
  }

  /** Remove what counts as lost, but which its worker, that was silent, runs or has ended. */
  correct(tasks) {
    if (!this.ended.some(({ outcome }) => outcome === "lost")) return;
    const known = new Set(tasks.map(keyOfExecution));
    const isWrong = (each) => each.outcome === "lost" && known.has(keyOfExecution(each));
    for (const each of this.ended.filter(isWrong)) this.keys.delete(keyOfEnded(each));
    this.ended = this.ended.filter((each) => !isWrong(each));
  }

  /** Now, by the monitor's clock, in seconds since the epoch. */
  now() {
    return Date.now() / 1000 + this.ahead;
  }

  /** How many seconds ago the last event came. */
  silence() {
    return Math.max(0, Date.now() / 1000 - this.heardAt);
  }

  forget() {
    const oldest = this.now() - LISTED_SECONDS;
    while (this.ended.length && (this.ended.length > LISTED || this.ended.at(-1).ended_at < oldest)) {
      this.keys.delete(keyOfEnded(this.ended.pop()));
    }
  }
}

const keyOfExecution = (task) => [task.worker, task.id, task.attempt].join(" ");

export const keyOfEnded = (task) => [task.worker, task.id, task.attempt, task.started_at].join(" ");
