/**
 * The work of a single handler on one partition: per key one delivery in hand, in order; keys in parallel up to the member's
 * in-flight cap. A key that fails waits in place and holds only its own successors: what others finish meanwhile is
 * remembered entry by entry (the open ones are, for they are fewer) and committed with the checkpoint.
 */

import type { DeliveryContext, Handler } from "./consumer.ts";
import { buryReasonOf } from "./dead-letter.ts";
import { type Delivery, Later } from "./message.ts";
import type { OpenEntry, Progress } from "./progress.ts";
import type { Work, WorkSite } from "./work.ts";

/** Unfinished entries that a partition reads ahead of a key that fails. Each is committed by its id, some 20 bytes. */
const OPEN_MAX = 1_000;

/** The deliveries that one member has in the hands of single handlers, over all its partitions. */
export class InFlight {
  #count = 0;
  readonly #max: number;
  /** Works that have keys to run and found no room, in the order in which they asked. */
  readonly #waiting = new Set<() => void>();

  constructor(max: number) {
    this.#max = max;
  }

  /** Takes a place, or remembers `retry` for when one is free. */
  take(retry: () => void): boolean {
    if (this.#count < this.#max) {
      this.#count += 1;
      return true;
    }
    this.#waiting.add(retry);
    return false;
  }

  give(): void {
    this.#count -= 1;
    const [next] = this.#waiting;
    if (next === undefined) return;
    this.#waiting.delete(next);
    next();
  }
}

export class KeyWork<D> implements Work<D> {
  readonly #site: WorkSite<D>;
  readonly #handle: Handler<D>;
  readonly #context: DeliveryContext;
  readonly #inFlight: InFlight;
  /** Unfinished entries, in the partition's order. */
  readonly #open = new Map<string, Delivery<D>>();
  /** By key, the deliveries that wait or are in hand, in order. A key is here while it has one. */
  readonly #keys = new Map<string, Delivery<D>[]>();
  /** Keys with a delivery that may be handed out. */
  readonly #ready: string[] = [];
  /** The entry furthest on that is finished, and its ordinal. */
  #checkpoint: string;
  #read: number;
  #running = 0;
  #careful: number;
  readonly #idlers: (() => void)[] = [];
  readonly #pump = () => this.run();

  constructor(site: WorkSite<D>, handle: Handler<D>, inFlight: InFlight) {
    this.#site = site;
    this.#handle = handle;
    this.#inFlight = inFlight;
    const { partition, lease } = site;
    this.#context = { partition, token: lease.token, signal: lease.signal };
    this.#checkpoint = lease.grant.progress.checkpoint;
    this.#read = lease.grant.progress.read;
    this.#careful = lease.isSuspicious ? OPEN_MAX : 0;
  }

  hasRoom(): boolean {
    const { lease } = this.#site;
    return this.#open.size + lease.buryingCount < OPEN_MAX && !lease.isFailing;
  }

  accept(deliveries: Delivery<D>[]): void {
    for (const delivery of deliveries) {
      this.#open.set(delivery.entry, delivery);
      // Without a key there is no order to keep.
      const key = delivery.key || delivery.entry;
      const waiting = this.#keys.get(key);
      if (waiting) waiting.push(delivery);
      else {
        this.#keys.set(key, [delivery]);
        this.#ready.push(key);
      }
    }
  }

  run(): void {
    if (!this.#site.mayHandOut()) return;
    if (this.#careful > 0) {
      if (this.#running === 0 && this.#ready.length > 0) void this.#runCarefully();
      return;
    }
    let started = 0;
    for (const key of this.#ready) {
      if (!this.#inFlight.take(this.#pump)) break;
      started += 1;
      this.#running += 1;
      void this.#runKey(key);
    }
    if (started > 0) this.#ready.splice(0, started);
  }

  idle(): Promise<void> {
    if (this.#running === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idlers.push(resolve));
  }

  progress(): Progress {
    let checkpoint = this.#checkpoint;
    let read = this.#read;
    // A failed entry is recorded even when nothing behind it is finished: a successor goes on counting its attempts.
    for (const { attempt, ordinal, entry } of this.#open.values()) {
      if (attempt > 1 && ordinal > read) [checkpoint, read] = [entry, ordinal];
    }
    const open: OpenEntry[] = [];
    for (const { entry, attempt, ordinal, firstFailureMs } of this.#open.values()) {
      if (ordinal > read) break;
      open.push({ entry, attempts: attempt - 1, firstFailureMs });
    }
    return { checkpoint, read, open };
  }

  /** Hands out the first delivery of a key; its successor gets in line again, behind the other keys. */
  async #runKey(key: string): Promise<void> {
    const waiting = this.#keys.get(key)!;
    const isFinished = await this.#deliver(waiting[0]!);
    if (isFinished) {
      this.#finish(waiting[0]!);
      waiting.shift();
      if (waiting.length > 0) this.#ready.push(key);
      else this.#keys.delete(key);
    }
    this.#settle();
    this.#inFlight.give();
    this.run();
  }

  #finish(delivery: Delivery<D>): void {
    this.#open.delete(delivery.entry);
    if (delivery.ordinal > this.#read) {
      this.#read = delivery.ordinal;
      this.#checkpoint = delivery.entry;
    }
    this.#site.changed();
    this.#site.wake();
  }

  #settle(): void {
    this.#running -= 1;
    if (this.#running === 0) for (const resolve of this.#idlers.splice(0)) resolve();
  }

  /** Resolves to whether the message is finished: handled or buried. */
  async #deliver(delivery: Delivery<D>): Promise<boolean> {
    const { declaration, counters, clock, waits } = this.#site;
    if (declaration.validate && this.#site.isBuriedAsInvalid(delivery)) return true;
    while (this.#site.mayHandOut()) {
      counters.delivered.inc(1);
      try {
        await this.#handle(delivery, this.#context);
        if (!this.#site.lease.isHeld()) return false;
        counters.acked.inc(1);
        return true;
      } catch (error) {
        if (!this.#site.lease.isHeld()) return false;
        if (error instanceof Later) {
          await clock.sleep(error.ms, waits);
          continue;
        }
        const reason = buryReasonOf(error) ?? (delivery.attempt >= declaration.maxAttempts ? "attempts" : undefined);
        if (reason !== undefined) {
          this.#site.bury(delivery, reason, error);
          return true;
        }
        const waitMs = declaration.retryMs(delivery.attempt);
        this.#site.failed([delivery], error);
        await clock.sleep(waitMs, waits);
      }
    }
    return false;
  }

  /** The lease was lost over these entries again and again: each alone, known to the next holder before it is tried. */
  async #runCarefully(): Promise<void> {
    const { lease } = this.#site;
    this.#running += 1;
    while (this.#careful > 0 && this.#site.mayHandOut()) {
      const [delivery] = this.#open.values();
      if (delivery === undefined) break;
      if (lease.isPoison(delivery.entry)) {
        this.#site.bury(delivery, "poison", `${lease.grant.blame} holders were lost over it, alone, without an answer`);
      } else {
        await lease.mark(delivery.entry);
        if (!(await this.#deliver(delivery))) break;
      }
      const key = delivery.key || delivery.entry;
      const waiting = this.#keys.get(key)!;
      waiting.shift();
      if (waiting.length === 0) {
        this.#keys.delete(key);
        this.#ready.splice(this.#ready.indexOf(key), 1);
      }
      this.#finish(delivery);
      this.#careful -= 1;
    }
    if (this.#careful === 0) await lease.mark("");
    this.#settle();
    this.run();
  }
}
