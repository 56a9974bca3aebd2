/** The lines of all groups that receives of this process wait for (pull-line.ts), and what wakes them. */

import { AppError } from "../errors.ts";
import { whenAborted } from "../service.ts";
import type { QueueContext } from "./consumer.ts";
import { type Look, PullLine, type Where } from "./pull-line.ts";
import { type OnEntries, TopicWatch } from "./topic-watch.ts";

/** Receives that wait in this process. Each is a connection of some client. */
const WAITING_MAX = 10_000;

interface Line {
  readonly line: PullLine;
  waiting: number;
}

export interface Wait<T> {
  readonly topic: string;
  readonly group: string;
  readonly waitMs: number;
  /** Aborts when the caller is gone. */
  readonly signal: AbortSignal | undefined;
  readonly look: (where: Where) => Promise<Look<T>>;
}

export class PullLines {
  readonly #context: QueueContext;
  readonly #watches = new Map<string, TopicWatch>();
  readonly #lines = new Map<string, Line>();
  readonly #disposing = new AbortController();
  #waiting = 0;

  constructor(context: QueueContext) {
    this.#context = context;
  }

  /** Whoever waits for the group may find something in these partitions. */
  nudge(topic: string, group: string, partitions: readonly number[]): void {
    this.#lines.get(`${topic}/${group}`)?.line.nudge(partitions);
  }

  /** What `look` finds within `waitMs`; undefined when it finds nothing. Throws what it throws, and OVERLOADED when too many wait. */
  async wait<T>({ topic, group, waitMs, signal, look }: Wait<T>): Promise<T | undefined> {
    if (this.#waiting >= WAITING_MAX) {
      throw new AppError("OVERLOADED", `more than ${WAITING_MAX} receives wait here`, { retryAfterMs: 1_000 });
    }
    const over = new AbortController();
    const end = () => over.abort();
    const timer = setTimeout(end, waitMs);
    const ends = [this.#disposing.signal, ...(signal ? [signal] : [])];
    for (const each of ends) {
      if (each.aborted) end();
      else each.addEventListener("abort", end);
    }
    const waited = this.#lines.get(`${topic}/${group}`) ?? this.#open(`${topic}/${group}`);
    const watch = this.#watches.get(topic) ?? new TopicWatch(this.#context, topic);
    this.#watches.set(topic, watch);
    const onEntries: OnEntries = (partitions) => waited.line.nudge(partitions);
    this.#waiting += 1;
    waited.waiting += 1;
    try {
      await Promise.race([watch.add(onEntries), whenAborted(over.signal)]);
      return await waited.line.wait(look, over.signal);
    } finally {
      this.#waiting -= 1;
      waited.waiting -= 1;
      clearTimeout(timer);
      for (const each of ends) each.removeEventListener("abort", end);
      watch.remove(onEntries);
      if (waited.waiting === 0) this.#lines.delete(`${topic}/${group}`);
    }
  }

  /** Ends all waits, with nothing, and closes the connections. */
  async dispose(): Promise<void> {
    this.#disposing.abort();
    await Promise.all([...this.#watches.values()].map((watch) => watch.close()));
  }

  #open(name: string): Line {
    const line = { line: new PullLine(() => this.#context.clock.now()), waiting: 0 };
    this.#lines.set(name, line);
    return line;
  }
}
