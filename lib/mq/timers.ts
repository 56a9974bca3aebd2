/**
 * BullMQ, and all that is said to it: two queues under one hash-tagged prefix, how often their jobs are tried, how long they are kept.
 * It is a timer and nothing else. A job says "look at this record" or "do this chore"; who loses one loses nothing, for the records
 * are the truth (firing.ts) and the reconciler finds what is overdue (reconcile.ts).
 *
 *   timers   one job per waiting message and version, id `<record>.<version>`; and the chore `reconcile`, which any process can do
 *   chores   the chores of those processes that bring some: a job scheduler each
 *
 * Times are told to BullMQ by Redis TIME. What it compares them with is the process' own clock: a process where that is wrong goes
 * without it (timekeeper.ts). It is loaded where timers run only: 0.2 s and 10 MB that the others save.
 */

import type { Job, JobsOptions, Queue, Worker, WorkerOptions } from "bullmq";
import type { Log } from "../observability/index.ts";
import type { RedisClient } from "../redis/index.ts";

const QUEUES = { timers: "timers", chores: "chores" } as const;
const TIMER = "timer";
/** A finished timer has nothing to tell that the record does not; one that failed stays for a look. */
const TIMER_JOB = {
  attempts: 5,
  backoff: { type: "exponential", delay: 200 },
  removeOnComplete: true,
  removeOnFail: { age: 3_600, count: 1_000 },
} satisfies JobsOptions;
/** A chore that failed is done again by its next run. */
const CHORE_JOB = {
  attempts: 1,
  removeOnComplete: { age: 60, count: 100 },
  removeOnFail: { age: 3_600, count: 100 },
} satisfies JobsOptions;
/** Timers in hand: what is due together goes into scripts of up to 100. */
const TIMERS_AT_ONCE = 100;
/** No chore holds up the others. */
const CHORES_AT_ONCE = 8;
const WORKER = {
  /** Longer than any pause of the event loop that is not a fault. */
  lockDuration: 30_000,
  stalledInterval: 5_000,
  /** A timer survives the deaths of many workers (BullMQ's default of 1 gives it up at the second). */
  maxStalledCount: 100,
  /** After an error of the connection; 15 s, the default, would be the lateness after every restart of Redis. */
  runRetryDelay: 200,
  autorun: false,
} satisfies Partial<WorkerOptions>;
/**
 * A chore whose next run is so late has lost it: a worker was killed between taking the job and planning the next. That worker's lock
 * would be waited for for 30 s. Once more than needed does no harm.
 */
const LATE_RUNS = 2;
const LATE_MS_MIN = 5_000;
/** BullMQ's own event stream, which nobody reads. */
const EVENTS_MAX = 100;
/** Jobs per pipeline, and keys per look. */
const CHUNK = 500;

/** When somebody is to look at a record. */
export interface Timer {
  readonly record: string;
  readonly version: number;
  /** ms by Redis TIME. */
  readonly due: number;
}

/** Something that one process does every now and then, whoever it is. Twice at once must do no harm. */
export interface Chore {
  /** 1..64 of [A-Za-z0-9_.-]. */
  readonly name: string;
  readonly everyMs: number;
  run(): Promise<unknown>;
}

export interface TimerParts {
  readonly connection: RedisClient;
  readonly prefix: string;
  readonly log: Log;
  /** Looks at a record. Resolves to when to look again (ms by Redis TIME), or undefined when there is nothing more to do. */
  readonly look: (record: string, version: number) => Promise<number | undefined>;
  readonly reconcile: Chore;
  readonly chores: readonly Chore[];
}

export class Timers {
  readonly #timers: Queue;
  readonly #queues: readonly Queue[];
  readonly #workers: readonly Worker[];
  readonly #chores: readonly { readonly queue: Queue; readonly chore: Chore }[];
  readonly #connection: RedisClient;

  /** Opens the queues. Nothing runs before resume(). */
  static async open(parts: TimerParts): Promise<Timers> {
    return new Timers(parts, await import("bullmq"));
  }

  private constructor(parts: TimerParts, { Queue, Worker, DelayedError }: typeof import("bullmq")) {
    const { connection, prefix, log, look, reconcile, chores } = parts;
    const options = { connection, prefix };
    const openQueue = (name: string) => {
      const queue = new Queue(name, { ...options, streams: { events: { maxLen: EVENTS_MAX } } });
      queue.on("error", (error) => log.debug({ error, queue: name }, "the timers' queue had an error"));
      return queue;
    };
    const openWorker = (name: string, concurrency: number, work: (job: Job, token: string) => Promise<void>) => {
      const worker = new Worker(name, (job, token) => work(job, token!), { ...options, ...WORKER, concurrency });
      worker.on("error", (error) => log.debug({ error, queue: name }, "the timers' worker had an error"));
      worker.on("failed", (job, error) => {
        const isLast = (job?.attemptsMade ?? 1) >= (job?.opts.attempts ?? 1);
        log[isLast ? "warn" : "debug"]({ error, job: job?.name, id: job?.id }, "a timer or chore failed");
      });
      return worker;
    };
    const running = new Set<string>();
    const doChore = async (all: readonly Chore[], { name }: Job) => {
      // One that takes longer than its interval is not begun again meanwhile. An unknown one is another build's.
      const chore = all.find((each) => each.name === name);
      if (!chore || running.has(name)) return;
      running.add(name);
      try {
        await chore.run();
      } finally {
        running.delete(name);
      }
    };
    this.#connection = connection;
    this.#timers = openQueue(QUEUES.timers);
    const workers = [
      openWorker(QUEUES.timers, TIMERS_AT_ONCE, async (job, token) => {
        if (job.name !== TIMER) return doChore([reconcile], job);
        const { record, version } = job.data as { record: string; version: number };
        const again = await look(record, version);
        if (again === undefined) return;
        await job.moveToDelayed(again, token);
        throw new DelayedError();
      }),
    ];
    const queues = [this.#timers];
    if (chores.length > 0) {
      queues.push(openQueue(QUEUES.chores));
      workers.push(openWorker(QUEUES.chores, CHORES_AT_ONCE, (job) => doChore(chores, job)));
    }
    this.#queues = queues;
    this.#workers = workers;
    this.#chores = [
      { queue: this.#timers, chore: reconcile },
      ...chores.map((chore) => ({ queue: queues.at(-1)!, chore })),
    ];
  }

  /** Adds timers; one that is there already is left as it is. Throws Redis errors: some may have been added. */
  async add(timers: readonly Timer[], nowMs: number): Promise<void> {
    for (let first = 0; first < timers.length; first += CHUNK) {
      await this.#timers.addBulk(
        timers.slice(first, first + CHUNK).map(({ record, version, due }) => ({
          name: TIMER,
          data: { record, version },
          // Their sum is the due time, whatever this process' clock says.
          opts: { ...TIMER_JOB, jobId: jobId(record, version), timestamp: nowMs, delay: Math.max(0, due - nowMs) },
        })),
      );
    }
  }

  /** Adds those that are not there. One command where none is missing. */
  async restore(timers: readonly Timer[], nowMs: number): Promise<void> {
    for (let first = 0; first < timers.length; first += CHUNK) {
      const chunk = timers.slice(first, first + CHUNK);
      const jobs = chunk.map(({ record, version }) => this.#timers.toKey(jobId(record, version)));
      if ((await this.#connection.exists(...jobs)) < chunk.length) await this.add(chunk, nowMs);
    }
  }

  /**
   * Sees to it that every chore has its scheduler and a next run: BullMQ's keys may have been lost, or a process with a wrong clock
   * may have put the next run where nobody is.
   */
  async restoreChores(nowMs: number): Promise<void> {
    for (const { queue, chore } of this.#chores) {
      const { name, everyMs } = chore;
      const scheduler = await queue.getJobScheduler(name);
      const next = scheduler?.next ?? 0;
      const isLost = next > nowMs + 2 * everyMs || next < nowMs - Math.max(LATE_RUNS * everyMs, LATE_MS_MIN);
      if (scheduler?.every === everyMs && !isLost) continue;
      if (scheduler) await queue.removeJobScheduler(name);
      await queue.upsertJobScheduler(name, { every: everyMs }, { name, opts: CHORE_JOB });
    }
  }

  /** Takes up work, also after pause(). */
  async resume(): Promise<void> {
    for (const worker of this.#workers) await worker.resume();
  }

  /** Takes nothing more; what is in hand is finished. */
  async pause(): Promise<void> {
    for (const worker of this.#workers) await worker.pause(true);
  }

  /** Finishes what is in hand, then lets go of the connections that it opened. */
  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.close()));
    await Promise.all(this.#queues.map((queue) => queue.close()));
  }
}

/** BullMQ takes neither `:` nor a whole number. */
function jobId(record: string, version: number): string {
  return `${record}.${version}`;
}
