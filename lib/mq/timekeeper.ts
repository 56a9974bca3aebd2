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
import { redisTimeMs } from "../redis/index.ts";
import { createService, type Service } from "../service.ts";
import type { QueueContext } from "./consumer.ts";
import type { Firing } from "./firing.ts";
import { reconcile } from "./reconcile.ts";
import { createRelay, type RelayParts } from "./relay.ts";
import { type Chore, Timers } from "./timers.ts";

export interface TimekeeperOptions {
  /** Further periodic work that one of all processes does each time. All processes that bring chores bring the same ones. */
  readonly chores?: readonly Chore[];
}

/** A lost timer makes its message late by this much at most, and what a run takes. */
const RECONCILE_MS = 5_000;
const WATCH_MS = 1_000;
/** Chores are looked after in every fifth watch. */
const WATCHES_PER_RESTORE = 5;
/** A timer that comes early by less is waited for; a clock that is off by more is wrong. */
const SKEW_MAX_MS = 500;
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
    await this.#watch(0);
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
    await Promise.race([closing, new Promise<void>((resolve) => whenAborted(late, resolve))]);
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
    // A moved one has another timer.
    if (outcome.kind !== "early" || outcome.version !== version) return undefined;
    await this.#clock.measure();
    // With a wrong clock it could not even be told when to come again: it is let go, and the reconciler adds it anew in time.
    return Math.abs(this.#clock.skewMs) > SKEW_MAX_MS ? undefined : outcome.dueMs;
  }

  async #keepWatching(): Promise<void> {
    const { signal } = this.#stopping;
    for (let count = 1; ; count++) {
      await this.#parts.context.clock.sleep(WATCH_MS, signal);
      if (signal.aborted) return;
      await this.#watch(count);
    }
  }

  async #watch(count: number): Promise<void> {
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
      else if (count % WATCHES_PER_RESTORE === 0) await this.#timers!.restoreChores(this.#clock.now());
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

  /** Compares the clocks. A reply that took long says nothing. Throws Redis errors. */
  async measure(): Promise<void> {
    const { clock, redis } = this.#context;
    const before = clock.now();
    const startedMs = performance.now();
    const redisMs = await redisTimeMs(redis.commands);
    const tookMs = performance.now() - startedMs;
    if (tookMs > SKEW_MAX_MS) return;
    this.skewMs = before + tookMs / 2 - redisMs;
  }
}

function whenAborted(signal: AbortSignal, then: () => void): void {
  if (signal.aborted) then();
  else signal.addEventListener("abort", then, { once: true });
}
