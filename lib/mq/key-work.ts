/**
 * The work of a single handler on one partition: per key one delivery in hand, in order; keys in parallel up to the member's
 * in-flight cap. A key that fails waits in place and holds only its own successors: what others finish meanwhile is
 * remembered entry by entry (the open ones are, for they are fewer) and committed with the checkpoint.
 *
 * The window is what is read and not finished. A key that would fill it, or hold back trimming for long, leaves it for the side queue
 * (side-queue.ts), and is handed out from there until nothing of it stands aside.
 */

import { LOSSES_MAX, lostAlone } from "./attempts.ts";
import type { AsideTurn } from "./changes.ts";
import type { Handler } from "./consumer.ts";
import type { BuryReason } from "./dead-letter.ts";
import type { InFlight } from "./in-flight.ts";
import type { Delivery } from "./message.ts";
import type { Progress } from "./progress.ts";
import { orderKeyOf } from "./side.ts";
import { compareEntries } from "./stream.ts";
import { inTurn } from "./turn.ts";
import type { Outcome, Work, WorkSite } from "./work.ts";

/** Unfinished entries that a partition reads ahead of a key that fails. Each is committed by its id, some 20 bytes. */
const OPEN_MAX = 1_000;
/** From here on keys that wait for a retry leave the window: half of it is enough for those that go on. */
const OPEN_CROWDED = OPEN_MAX / 2;
/** A key that fails for longer leaves the window too: its first message holds back trimming. Most outages are over by then. */
const FAILING_MS_MAX = 60_000;

export class KeyWork<D> implements Work<D> {
  readonly #site: WorkSite<D>;
  readonly #handle: Handler<D>;
  readonly #inFlight: InFlight;
  /** Unfinished entries, in the partition's order. */
  readonly #open = new Map<string, Delivery<D>>();
  /** By key, its deliveries in the window, in order. A key is here while it has one. */
  readonly #keys = new Map<string, Delivery<D>[]>();
  /** Keys with a delivery that may be handed out, from the window or from aside. */
  readonly #ready: string[] = [];
  /** Keys that wait in the window for a retry, and what ends their wait. */
  readonly #retrying = new Map<string, AbortController>();
  /** Keys aside over whose first message so many holders were lost that it is handed out alone. */
  readonly #suspects: string[] = [];
  /** Unfinished entries that the next commits finish, with their effects. */
  readonly #ending = new Set<string>();
  /** Keys whose handler has committed its message and not returned: they go on when it does. */
  readonly #lingering = new Set<string>();
  /** The entry furthest on that is finished, and its ordinal. */
  #checkpoint: string;
  #read: number;
  #running = 0;
  #careful: number;
  readonly #idlers: (() => void)[] = [];
  readonly #pump = () => this.run();

  constructor(site: WorkSite<D>, handle: Handler<D>, inFlight: InFlight) {
    this.#site = site;
    this.#inFlight = inFlight;
    this.#handle = handle;
    const { lease } = site;
    this.#checkpoint = lease.grant.progress.checkpoint;
    this.#read = lease.grant.progress.read;
    this.#careful = lease.isSuspicious ? OPEN_MAX : 0;
    site.waits.addEventListener("abort", () => this.#endRetries(), { once: true });
  }

  hasRoom(): boolean {
    const { lease, side } = this.#site;
    return this.#open.size + lease.changes.finishingCount < OPEN_MAX && !lease.isFailing && !side.isFull;
  }

  accept(deliveries: Delivery<D>[]): void {
    const { side } = this.#site;
    for (const delivery of deliveries) {
      if (!this.#site.isSelected(delivery)) {
        this.#finish(delivery);
        continue;
      }
      const key = orderKeyOf(delivery);
      if (side.size > 0 && side.has(key)) this.#acceptBehindAside(key, delivery);
      else if (this.#keep(key, delivery)) this.#makeReady(key);
    }
    if (this.#open.size > OPEN_CROWDED) this.#shed();
  }

  run(): void {
    if (!this.#site.mayHandOut()) return;
    if (this.#isCareful()) {
      if (this.#running === 0 && this.#ready.length > 0) void this.#runCarefully();
      return;
    }
    if (this.#suspects.length > 0) {
      if (this.#running === 0) void this.#runSuspect(this.#suspects.shift()!);
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
    // A failed entry is recorded even when nothing behind it is finished: it can be seen to be tried. One that ends with this very
    // commit is finished.
    for (const { attempt, ordinal, entry } of this.#open.values()) {
      if (ordinal > read && (attempt > 1 || this.#ending.has(entry))) [checkpoint, read] = [entry, ordinal];
    }
    const open: string[] = [];
    for (const { entry, ordinal } of this.#open.values()) {
      if (ordinal > read) break;
      if (!this.#ending.has(entry)) open.push(entry);
    }
    return { checkpoint, read, open };
  }

  onEnding({ entry }: Delivery<D>, isEnding: boolean): void {
    // What came from aside is no part of the progress.
    if (isEnding && this.#open.has(entry)) this.#ending.add(entry);
    else this.#ending.delete(entry);
  }

  onEnded(delivery: Delivery<D>): void {
    const { side } = this.#site;
    const key = orderKeyOf(delivery);
    this.#lingering.add(key);
    if (side.holds(key, delivery)) {
      side.ended(key);
      this.#nextAside(key);
    } else this.#next(key, delivery);
  }

  mayTake(): boolean {
    return !this.#isCareful();
  }

  onReady(key: string, losses: number): void {
    const { side, declaration } = this.#site;
    const [delivery] = side.queueOf(key) as [Delivery<D>];
    const isPoison = lostAlone(losses) >= LOSSES_MAX && Number.isFinite(declaration.maxAttempts);
    if (isPoison) this.#poisoned(key, delivery, losses);
    else if (losses >= LOSSES_MAX) {
      this.#suspects.push(key);
      // Nothing else may be with a handler then, and who waits for a retry counts as if it were.
      this.#endRetries();
    } else this.#makeReady(key);
    this.run();
  }

  onLeft(key: string): void {
    if (!this.#keys.has(key)) return;
    this.#makeReady(key);
    this.run();
  }

  #makeReady(key: string): void {
    if (!this.#lingering.has(key)) this.#ready.push(key);
  }

  /** The handler that committed its message has returned. */
  #goOn(key: string): void {
    const { side } = this.#site;
    this.#lingering.delete(key);
    const waiting = side.has(key) ? side.queueOf(key) : this.#keys.get(key);
    if (waiting && waiting.length > 0) this.#ready.push(key);
  }

  /** Behind a key in hand it waits in the window, which the key will soon be back in; behind one that is away it goes aside. */
  #acceptBehindAside(key: string, delivery: Delivery<D>): void {
    this.#keep(key, delivery);
    if (!this.#site.side.isInHand(key)) this.#putAside(key);
  }

  /** Returns whether it is the first of its key in the window. */
  #keep(key: string, delivery: Delivery<D>): boolean {
    this.#open.set(delivery.entry, delivery);
    const waiting = this.#keys.get(key);
    if (waiting) waiting.push(delivery);
    else this.#keys.set(key, [delivery]);
    return waiting === undefined;
  }

  /** Makes room in a window that fills up behind keys that do not go on. */
  #shed(): void {
    this.#endRetries();
    for (const key of this.#site.side.keysInHand) this.#putAside(key);
  }

  /** Those that wait for a retry leave the window with what is left of their wait. */
  #endRetries(): void {
    for (const waiting of this.#retrying.values()) waiting.abort();
  }

  /** Hands out the first delivery of a key; its successor gets in line again, behind the other keys. */
  async #runKey(key: string): Promise<void> {
    const { side } = this.#site;
    const isAside = side.size > 0 && side.isInHand(key);
    const delivery = isAside ? side.queueOf(key)[0]! : this.#keys.get(key)![0]!;
    let outcome = await this.#site.attempt(delivery, this.#handle, this);
    if (outcome.kind === "again" && !isAside) outcome = await this.#retryInWindow(key, delivery, outcome.waitMs);
    this.#conclude(key, delivery, outcome);
    this.#settle();
    this.#inFlight.give();
    this.run();
  }

  /** Tries again in place, for as long as the key may stay in the window. */
  async #retryInWindow(key: string, delivery: Delivery<D>, waitMs: number): Promise<Outcome> {
    let outcome: Outcome = { kind: "again", waitMs };
    while (outcome.kind === "again" && this.#mayStay(delivery, outcome.waitMs)) {
      const leftMs = await this.#wait(key, outcome.waitMs);
      if (!this.#site.mayHandOut()) return { kind: "left" };
      if (leftMs > 0) return { kind: "again", waitMs: leftMs };
      outcome = await this.#site.attempt(delivery, this.#handle, this);
    }
    return outcome;
  }

  #mayStay(delivery: Delivery<D>, waitMs: number): boolean {
    if (!isCopyable(delivery)) return true;
    if (this.#careful > 0 || this.#suspects.length > 0 || this.#open.size > OPEN_CROWDED) return false;
    const now = this.#site.clock.now();
    return now + waitMs - (delivery.firstFailureMs || now) <= FAILING_MS_MAX;
  }

  /** Resolves to what is left of the wait when it was ended. */
  async #wait(key: string, waitMs: number): Promise<number> {
    const { clock } = this.#site;
    const until = clock.now() + waitMs;
    const waiting = new AbortController();
    this.#retrying.set(key, waiting);
    await clock.sleep(waitMs, waiting.signal);
    this.#retrying.delete(key);
    return waiting.signal.aborted ? Math.max(1, until - clock.now()) : 0;
  }

  #conclude(key: string, delivery: Delivery<D>, outcome: Outcome): void {
    if (outcome.kind === "done") this.#done(key, delivery);
    else if (outcome.kind === "ended") this.#goOn(key);
    else if (outcome.kind === "again") this.#goAside(key, delivery, this.#site.retry(delivery, outcome.waitMs));
    else if (outcome.kind === "bury") this.#bury(key, delivery, outcome.reason, outcome.error);
    else if (outcome.kind === "hopeless") this.#giveUp(key, delivery, "attempts", outcome.error);
  }

  #giveUp(key: string, delivery: Delivery<D>, reason: BuryReason, error: unknown): void {
    const isParked = this.#site.declaration.onPoison === "park" && isCopyable(delivery);
    if (isParked) this.#goAside(key, delivery, this.#site.park(delivery, error));
    else this.#bury(key, delivery, reason, error);
  }

  /** A group that would rather wait than give up tries it again later, from aside, where it does not stand before the others. */
  #poisoned(key: string, delivery: Delivery<D>, losses: number): void {
    const { declaration } = this.#site;
    if (Number.isFinite(declaration.maxAttempts) || !isCopyable(delivery)) {
      this.#giveUp(key, delivery, "poison", `${lostAlone(losses)} holders were lost over it, alone, without an answer`);
    } else {
      const turn = this.#site.retry(delivery, declaration.retryMs(delivery.attempt));
      this.#goAside(key, delivery, { ...turn, losses });
    }
  }

  #bury(key: string, delivery: Delivery<D>, reason: BuryReason, error: unknown): void {
    const isAside = this.#site.side.holds(key, delivery);
    this.#site.bury(delivery, reason, error);
    if (isAside) this.#nextAside(key);
    else this.#next(key, delivery);
  }

  #done(key: string, delivery: Delivery<D>): void {
    const { side } = this.#site;
    if (side.holds(key, delivery)) {
      side.done(key);
      this.#nextAside(key);
    } else this.#next(key, delivery);
  }

  #nextAside(key: string): void {
    if (this.#site.side.queueOf(key).length > 0) this.#makeReady(key);
    this.#site.changed();
  }

  #next(key: string, delivery: Delivery<D>): void {
    const waiting = this.#keys.get(key)!;
    waiting.shift();
    if (waiting.length > 0) this.#makeReady(key);
    else this.#keys.delete(key);
    this.#finish(delivery);
  }

  #goAside(key: string, delivery: Delivery<D>, turn: AsideTurn): void {
    const { side } = this.#site;
    const isAside = side.holds(key, delivery);
    if (isAside) side.back(key, turn);
    this.#putAside(key, isAside ? undefined : turn);
    this.#site.changed();
  }

  /** What the window has of a key goes aside. */
  #putAside(key: string, turn?: AsideTurn): void {
    const waiting = this.#keys.get(key);
    if (!waiting) return;
    this.#keys.delete(key);
    this.#site.side.put(key, waiting, turn);
    for (const delivery of waiting) this.#finish(delivery);
  }

  #finish(delivery: Delivery<D>): void {
    this.#open.delete(delivery.entry);
    this.#ending.delete(delivery.entry);
    if (delivery.ordinal > this.#read) {
      this.#read = delivery.ordinal;
      this.#checkpoint = delivery.entry;
    }
    this.#site.forget(delivery);
    this.#site.changed();
    this.#site.wake();
  }

  #settle(): void {
    this.#running -= 1;
    if (this.#running === 0) for (const resolve of this.#idlers.splice(0)) resolve();
  }

  /** Whether the first entries are suspects: as many as a holder may have in hand, and none that came after the last holder. */
  #isCareful(): boolean {
    if (this.#careful === 0) return false;
    const { last } = this.#site.lease.grant;
    const [first] = this.#open.values();
    const isPast = first ? compareEntries(first.entry, last) > 0 : compareEntries(this.#checkpoint, last) >= 0;
    if (!isPast) return true;
    this.#careful = 0;
    void this.#site.lease.mark("");
    return false;
  }

  /** The lease was lost over these entries again and again: each alone, known to the next holder before it is tried. */
  async #runCarefully(): Promise<void> {
    const { lease } = this.#site;
    this.#running += 1;
    while (this.#isCareful() && this.#site.mayHandOut()) {
      const [delivery] = this.#open.values();
      if (delivery === undefined) break;
      const key = orderKeyOf(delivery);
      this.#ready.splice(this.#ready.indexOf(key), 1);
      if (lease.isPoison(delivery.entry)) {
        this.#poisoned(key, delivery, lease.grant.blame);
      } else {
        await inTurn(lease.signal, async () => {
          if (!this.#site.mayHandOut()) return;
          await lease.mark(delivery.entry);
          await this.#runAlone(key, delivery);
          await lease.mark("");
        });
      }
      this.#careful -= 1;
    }
    this.#settle();
    this.run();
  }

  async #runSuspect(key: string): Promise<void> {
    this.#running += 1;
    const { side, lease } = this.#site;
    await inTurn(lease.signal, async () => {
      await side.noteAlone(key);
      const [delivery] = side.queueOf(key);
      if (delivery) await this.#runAlone(key, delivery);
      await lease.flush();
    });
    this.#settle();
    this.run();
  }

  async #runAlone(key: string, delivery: Delivery<D>): Promise<void> {
    if (!this.#site.mayHandOut()) return;
    let outcome = await this.#site.attempt(delivery, this.#handle, this);
    const isAside = this.#site.side.holds(key, delivery);
    if (outcome.kind === "again" && !isAside) outcome = await this.#retryInWindow(key, delivery, outcome.waitMs);
    this.#conclude(key, delivery, outcome);
  }
}

/** Whether it can go aside: entries that others put into the stream may have any number of fields. */
function isCopyable<D>({ fields }: Delivery<D>): boolean {
  return fields.length === 2;
}
