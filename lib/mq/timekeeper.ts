/**
 * What must run somewhere for delayed messages to come: the relay, BullMQ's workers, and the reconciler; and the chores of whoever
 * brings some. Any number of processes may run it; each timer and chore is done by one.
 *
 *   im.relay ──relay──► BullMQ ──at its time──► firing script ──► topic
 *                                                     ▲
 *                        reconciler ──── overdue ─────┘
 *
 * BullMQ goes by the clock of its process. So the clock is compared with Redis TIME every second, and where it is wrong this process
 * goes without BullMQ: it reconciles every second and does its chores by itself, and others take the timers.
 */

import type { Clock } from "../clock.ts";
import { partitionOfPlacedId } from "../id.ts";
import { redisTimeMs } from "../redis/index.ts";
import { createService, type Service, whenAborted } from "../service.ts";
import type { QueueContext } from "./consumer.ts";
import type { Firing } from "./firing.ts";
import { fireDue, reconcile } from "./reconcile.ts";
import { createRelay, type RelayParts } from "./relay.ts";
import { type Chore, Timers } from "./timers.ts";

export interface TimekeeperOptions {
  /** Further periodic work that one of all processes does each time. All processes that bring chores bring the same ones. */
  readonly chores?: readonly Chore[];
}

/** A lost timer makes its message late by this much at most, and what a run takes. */
const RECONCILE_MS = 5_000;
const WATCH_MS = 1_000;
/** A timer that comes early by less is waited for; a clock that is off by more is wrong. */
const SKEW_MAX_MS = 500;
/** A comparison of clocks as good as this replaces the one before. */
const MARGIN_MS = 10;
/** Both clocks count whole milliseconds: a reply that took seconds on one way alone is at the margin, and seemed beyond it. */
const CLOCK_STEP_MS = 2;
/** Later than Redis' own tick makes it (hz 10: 100 ms). */
const LATE_MS = 120;
/** BullMQ waits for Redis without an end when it is away. */
const CLOSE_MS = 5_000;

interface TimekeeperParts extends Pick<RelayParts, "consume" | "publish"> {
  readonly context: QueueContext;
  readonly firing: Firing;
}

export function createTimekeeper(parts: TimekeeperParts, options: TimekeeperOptions): Service {
  const timekeeper = new Timekeeper(parts, options.chores ?? []);
  return createService(
    "timers",
    () => timekeeper.start(),
    (signal) => timekeeper.stop(signal),
  );
}

class Timekeeper {
  readonly #parts: TimekeeperParts;
  readonly #chores: readonly Chore[];
  readonly #clock: RedisClock;
  readonly #stopping = new AbortController();
  readonly #lastRuns = new Map<string, number>();
  readonly #catchingUp = new Map<number, Promise<void>>();
  #timers: Timers | undefined;
  #disconnect: () => void = () => undefined;
  #relay: Service | undefined;
  #watching: Promise<void> | undefined;
  /** undefined before the first look. */
  #isClockWrong: boolean | undefined;

  constructor(parts: TimekeeperParts, chores: readonly Chore[]) {
    const { context, firing } = parts;
    this.#parts = parts;
    this.#clock = new RedisClock(context);
    const restore: Chore = {
      name: "reconcile",
      everyMs: RECONCILE_MS,
      run: () =>
        reconcile({
          context,
          firing,
          now: () => this.#clock.now(),
          restore: async (timers) => this.#timers!.restore(timers, this.#clock.now()),
        }),
    };
    this.#chores = [restore, ...chores];
  }

  async start(): Promise<void> {
    const { context, consume, publish } = this.#parts;
    const connection = context.redis.timers("timers");
    this.#disconnect = () => connection.disconnect();
    await this.#clock.measure();
    const [reconciling, ...chores] = this.#chores as [Chore, ...Chore[]];
    const timers = await Timers.open({
      ...{ connection, prefix: context.keys.timers(), log: context.log, reconcile: reconciling, chores },
      look: (record, version) => this.#look(record, version),
    });
    this.#timers = timers;
    this.#relay = createRelay({ consume, publish, add: (added) => timers.add(added, this.#clock.now()) });
    await this.#relay.start();
    await this.#watch();
    this.#watching = this.#keepWatching();
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    await this.#relay?.stop(signal);
    const late = AbortSignal.any([signal, AbortSignal.timeout(CLOSE_MS)]);
    const close = async () => {
      await this.#watching;
      await this.#timers?.close();
    };
    const closing = close().catch((error: unknown) => {
      this.#parts.context.log.debug({ error }, "the timers did not close cleanly; what was in hand is taken up again");
    });
    await Promise.race([closing, whenAborted(late)]);
    this.#disconnect();
  }

  /** A timer has come. Fires its record, or says when to look again. Throws when it could not be fired. */
  async #look(record: string, version: number): Promise<number | undefined> {
    const { firing, context } = this.#parts;
    let outcome = await firing.fire(record);
    if (outcome.kind === "early" && outcome.leftMs <= SKEW_MAX_MS) {
      await context.clock.sleep(outcome.leftMs, this.#stopping.signal);
      outcome = await firing.fire(record);
    }
    if (outcome.kind === "failed") throw new Error(outcome.error);
    if (outcome.kind === "fired" && outcome.lateMs > LATE_MS) await this.#fireDue(record);
    // A moved one has another timer.
    if (outcome.kind !== "early" || outcome.version !== version) return undefined;
    await this.#clock.measure();
    // With a wrong clock it could not even be told when to come again: it is let go, and the reconciler adds it anew in time.
    return Math.abs(this.#clock.skewMs) > SKEW_MAX_MS ? undefined : outcome.dueMs;
  }

  /**
   * A timer that came late has others behind it, and each costs BullMQ some turns: all that is due in its partition is fired with it,
   * and those timers find nothing left to do. Of 10 000 due in one millisecond the last is late by a second so, and by eight without.
   */
  #fireDue(record: string): Promise<void> {
    const partition = partitionOfPlacedId(record, this.#parts.context.keys.partitions)!;
    let running = this.#catchingUp.get(partition);
    if (!running) {
      running = fireDue(this.#parts, partition, this.#clock.now()).finally(() => this.#catchingUp.delete(partition));
      this.#catchingUp.set(partition, running);
    }
    return running;
  }

  async #keepWatching(): Promise<void> {
    const { signal } = this.#stopping;
    for (;;) {
      await this.#parts.context.clock.sleep(WATCH_MS, signal);
      if (signal.aborted) return;
      await this.#watch();
    }
  }

  async #watch(): Promise<void> {
    const { log } = this.#parts.context;
    try {
      await this.#clock.measure();
      const isWrong = Math.abs(this.#clock.skewMs) > SKEW_MAX_MS;
      if (isWrong !== this.#isClockWrong) {
        const skewMs = Math.round(this.#clock.skewMs);
        if (isWrong) log.error({ skewMs }, "this process' clock is wrong: it does timers and chores without BullMQ");
        else if (this.#isClockWrong) log.info({ skewMs }, "this process' clock is right again");
        await (isWrong ? this.#timers!.pause() : this.#timers!.resume());
        this.#isClockWrong = isWrong;
      }
      if (isWrong) await this.#doChores();
      else await this.#timers!.restoreChores(this.#clock.now());
    } catch (error) {
      log.warn({ error }, "the timers could not be looked after; in a second again");
    }
  }

  /** The chores of a process that goes without BullMQ; the first, reconciling, each time. */
  async #doChores(): Promise<void> {
    for (const [i, { name, everyMs, run }] of this.#chores.entries()) {
      const now = performance.now();
      if (i > 0 && now - (this.#lastRuns.get(name) ?? Number.NEGATIVE_INFINITY) < everyMs) continue;
      this.#lastRuns.set(name, now);
      await run();
    }
  }
}

/** Redis TIME, as far as this process knows it. */
class RedisClock implements Pick<Clock, "now"> {
  readonly #context: QueueContext;
  /** How far this process' clock is ahead of Redis TIME. */
  skewMs = 0;

  constructor(context: QueueContext) {
    this.#context = context;
  }

  now(): number {
    return this.#context.clock.now() - this.skewMs;
  }

  /** Compares the clocks. What took long is known less well, and counts only when it contradicts what was known. Throws Redis errors. */
  async measure(): Promise<void> {
    const { clock, redis } = this.#context;
    const before = clock.now();
    const startedMs = performance.now();
    const redisMs = await redisTimeMs(redis.commands);
    const marginMs = (performance.now() - startedMs) / 2;
    const skewMs = before + marginMs - redisMs;
    const isNews = Math.abs(skewMs - this.skewMs) > marginMs + CLOCK_STEP_MS;
    if (marginMs < MARGIN_MS || isNews) this.skewMs = skewMs;
  }
}
