/**
 * The work of a batch handler on one partition: whole batches in the partition's order, one in hand and one read ahead.
 *
 * A failed batch is tried again in place. After three failures its messages are handed out one by one, so that the one that
 * is to blame stands alone, and is buried when its attempts are used up. Little is done per message while all goes well.
 *
 * No key goes aside here: a batch has many. What stands aside already (the group was consumed by single handlers, or by services) is
 * handed out from there, one message at a time, and what comes for its keys goes behind it.
 */

import { LOSSES_MAX, lostAlone } from "./attempts.ts";
import type { BatchHandler } from "./consumer.ts";
import { buryReasonOf } from "./dead-letter.ts";
import { HandOut } from "./hand-out.ts";
import { type Delivery, InvalidMessage, Later } from "./message.ts";
import type { Progress } from "./progress.ts";
import { orderKeyOf } from "./side.ts";
import { compareEntries } from "./stream.ts";
import { inTurn } from "./turn.ts";
import { invalidityOf, type Work, type WorkSite } from "./work.ts";

/** A store that was away for a moment is back by then; what fails on is most likely one message's fault. */
const BATCH_FAILURES_MAX = 3;
/** Results not yet committed, in entries: beyond, the commit is awaited, so a takeover repeats no more than this. */
const UNCOMMITTED_ENTRIES_MAX = 4_000;

export class BatchWork<D> implements Work<D> {
  readonly #site: WorkSite<D>;
  readonly #handle: BatchHandler<D>;
  #inHand: Delivery<D>[] | undefined;
  #ahead: Delivery<D>[] | undefined;
  /** Keys aside with a message to hand out. */
  readonly #aside: string[] = [];
  #running: Promise<void> | undefined;
  #progress: Progress;
  /** What the handler has in hand, with what does not reach it. */
  #given: readonly Delivery<D>[] = [];
  /** The next commits finish that, with its effect. */
  #isEnding = false;
  #uncommitted = 0;
  #careful: number;

  constructor(site: WorkSite<D>, handle: BatchHandler<D>) {
    this.#site = site;
    this.#handle = handle;
    const { lease } = site;
    this.#progress = lease.grant.progress;
    this.#careful = lease.isSuspicious ? 2 * site.declaration.batchMax : 0;
  }

  hasRoom(): boolean {
    return this.#ahead === undefined && !this.#site.side.isFull;
  }

  accept(deliveries: Delivery<D>[]): void {
    if (this.#inHand === undefined) this.#inHand = deliveries;
    else this.#ahead = this.#ahead === undefined ? deliveries : this.#ahead.concat(deliveries);
  }

  run(): void {
    this.#running ??= this.#runBatches().finally(() => {
      this.#running = undefined;
      // It may have come when the last look had been taken.
      if ((this.#inHand !== undefined || this.#aside.length > 0) && this.#site.mayHandOut()) this.run();
    });
  }

  async idle(): Promise<void> {
    await this.#running;
  }

  progress(): Progress {
    this.#uncommitted = 0;
    return this.#isEnding ? this.#progressPast(this.#given) : this.#progress;
  }

  onEnding(delivery: Delivery<D>, isEnding: boolean): void {
    // What came from aside is no part of the progress.
    this.#isEnding = isEnding && this.#given.includes(delivery);
  }

  onEnded(delivery: Delivery<D>): void {
    const { side } = this.#site;
    const key = orderKeyOf(delivery);
    if (side.holds(key, delivery)) side.ended(key);
  }

  mayTake(): boolean {
    const { last } = this.#site.lease.grant;
    return this.#careful === 0 || compareEntries(this.#progress.checkpoint, last) >= 0;
  }

  onReady(key: string, losses: number): void {
    const blame = lostAlone(losses);
    if (blame >= LOSSES_MAX && Number.isFinite(this.#site.declaration.maxAttempts)) {
      const [delivery] = this.#site.side.queueOf(key);
      this.#site.bury(delivery!, "poison", `${blame} holders were lost over it, alone, without an answer`);
      this.#afterAside(key);
    } else this.#aside.push(key);
    this.run();
  }

  onLeft(): void {
    // Nothing of a key waits here.
  }

  async #runBatches(): Promise<void> {
    while (this.#site.mayHandOut()) {
      const key = this.#aside.shift();
      if (key !== undefined) {
        await this.#runAside(key);
        continue;
      }
      const batch = this.#inHand;
      if (batch === undefined) return;
      if (this.#careful > 0) {
        if (!(await this.#runCarefully(batch))) return;
      } else if (!(await this.#deliver(batch))) return;
      this.#advance(batch);
      this.#inHand = this.#ahead;
      this.#ahead = undefined;
      this.#site.wake();
      this.#uncommitted += batch.length;
      if (this.#uncommitted > UNCOMMITTED_ENTRIES_MAX || this.#site.lease.isFailing) await this.#site.lease.flush();
    }
  }

  #advance(batch: readonly Delivery<D>[]): void {
    for (const delivery of batch) if (delivery.attempt > 1) this.#site.forget(delivery);
    this.#progress = this.#progressPast(batch);
    this.#isEnding = false;
    this.#site.changed();
  }

  #progressPast(batch: readonly Delivery<D>[]): Progress {
    const last = batch[batch.length - 1]!;
    // What a predecessor left open comes first, and is of entries before the checkpoint.
    const open = this.#progress.open.length === 0 ? this.#progress.open : this.#withoutFinished(batch);
    const isBehind = last.ordinal <= this.#progress.read;
    return isBehind ? { ...this.#progress, open } : { checkpoint: last.entry, read: last.ordinal, open };
  }

  #withoutFinished(batch: readonly Delivery<D>[]) {
    const finished = new Set(batch.map((delivery) => delivery.entry));
    return this.#progress.open.filter((entry) => !finished.has(entry));
  }

  /** Resolves to whether the batch is finished: handled or buried, every message of it. */
  async #deliver(given: readonly Delivery<D>[]): Promise<boolean> {
    const { declaration, counters, clock, waits } = this.#site;
    let batch = this.#sift(given);
    let failures = 0;
    this.#given = given;
    while (batch.length > 0) {
      if (!this.#site.mayHandOut()) return false;
      counters.delivered.inc(batch.length);
      const handOut = new HandOut(this.#site, this, given[given.length - 1]!);
      try {
        await this.#handle(batch, handOut);
        if (handOut.hasTransaction && (await this.#site.isEnded(handOut, undefined, batch.length))) return true;
        if (!this.#site.lease.isHeld()) return false;
        counters.acked.inc(batch.length);
        return true;
      } catch (error) {
        if (handOut.hasTransaction && (await this.#site.isEnded(handOut, error, batch.length))) return true;
        if (!this.#site.lease.isHeld()) return false;
        if (error instanceof Later) {
          await clock.sleep(error.ms, waits);
          continue;
        }
        if (error instanceof InvalidMessage && batch.some(({ entry }) => entry === error.entry)) {
          batch = this.#bury(batch, error.entry, error);
          continue;
        }
        failures += 1;
        const isAlone = batch.length === 1;
        if (isAlone && this.#isHopeless(batch[0]!, error)) return true;
        this.#site.failed(batch, error);
        if (!isAlone && (failures >= BATCH_FAILURES_MAX || buryReasonOf(error) !== undefined)) {
          return this.#deliverOneByOne(batch);
        }
        await clock.sleep(declaration.retryMs(failures), waits);
      }
    }
    return true;
  }

  async #deliverOneByOne(batch: readonly Delivery<D>[]): Promise<boolean> {
    for (const delivery of batch) {
      if (!(await this.#deliver([delivery]))) return false;
      // The finished part of the batch is not repeated when the rest is left to another member.
      this.#advance([delivery]);
    }
    return true;
  }

  /** The lease was lost over these entries again and again: each alone, known to the next holder before it is tried. */
  async #runCarefully(batch: readonly Delivery<D>[]): Promise<boolean> {
    const { lease } = this.#site;
    for (const delivery of batch) {
      if (!this.#site.mayHandOut()) return false;
      // A group that would rather wait than give up goes on with it.
      if (lease.isPoison(delivery.entry) && Number.isFinite(this.#site.declaration.maxAttempts)) {
        this.#site.bury(delivery, "poison", `${lease.grant.blame} holders were lost over it, alone, without an answer`);
        this.#advance([delivery]);
      } else {
        if (!(await inTurn(lease.signal, () => this.#deliverAlone(delivery)))) return false;
      }
      this.#careful -= 1;
    }
    return true;
  }

  /** Resolves to whether it is finished, which is committed then. */
  async #deliverAlone(delivery: Delivery<D>): Promise<boolean> {
    const { lease } = this.#site;
    if (!this.#site.mayHandOut()) return false;
    await lease.mark(delivery.entry);
    const isFinished = await this.#deliver([delivery]);
    if (isFinished) this.#advance([delivery]);
    await lease.mark("");
    return isFinished;
  }

  /** What is to be handed out of a batch; the rest is passed over, goes aside, or is buried. */
  #sift(given: readonly Delivery<D>[]): readonly Delivery<D>[] {
    const { declaration, side } = this.#site;
    let batch = given;
    if (declaration.tags !== undefined || given.some(({ hasAttributes }) => hasAttributes)) {
      batch = batch.filter((delivery) => this.#site.isSelected(delivery));
    }
    if (side.size > 0) batch = batch.filter((delivery) => !this.#isPutAside(delivery));
    if (!declaration.validate) return batch;
    return batch.filter((delivery) => {
      const invalid = invalidityOf(delivery);
      if (invalid) this.#site.bury(delivery, "invalid", invalid);
      return invalid === undefined;
    });
  }

  #isPutAside(delivery: Delivery<D>): boolean {
    const { side } = this.#site;
    const key = orderKeyOf(delivery);
    if (!side.has(key)) return false;
    side.put(key, [delivery]);
    return true;
  }

  async #runAside(key: string): Promise<void> {
    const { side, lease } = this.#site;
    if (!side.isSuspect(key)) return this.#tryAside(key);
    await inTurn(lease.signal, async () => {
      await side.noteAlone(key);
      await this.#tryAside(key);
      await lease.flush();
    });
  }

  async #tryAside(key: string): Promise<void> {
    const { side } = this.#site;
    const [delivery] = side.queueOf(key);
    if (delivery === undefined || !this.#site.mayHandOut()) return;
    const outcome = await this.#site.attempt(delivery, (message, handOut) => this.#handle([message], handOut), this);
    if (outcome.kind === "left") return;
    if (outcome.kind === "again") side.back(key, this.#site.retry(delivery, outcome.waitMs));
    else if (outcome.kind === "ended") this.#afterAside(key);
    else {
      if (outcome.kind === "done") side.done(key);
      else this.#site.bury(delivery, outcome.kind === "bury" ? outcome.reason : "attempts", outcome.error);
      this.#afterAside(key);
    }
    this.#site.changed();
  }

  #afterAside(key: string): void {
    if (this.#site.side.queueOf(key).length > 0) this.#aside.push(key);
    // As long as the key stands aside, what comes for it goes there too: let it come back before more has come.
    else void this.#site.lease.flush(this.#site.waits);
  }

  #bury(batch: readonly Delivery<D>[], entry: string, error: unknown): readonly Delivery<D>[] {
    return batch.filter((delivery) => {
      if (delivery.entry !== entry) return true;
      this.#site.bury(delivery, "invalid", error);
      return false;
    });
  }

  #isHopeless(delivery: Delivery<D>, error: unknown): boolean {
    const reason =
      buryReasonOf(error) ?? (delivery.attempt >= this.#site.declaration.maxAttempts ? "attempts" : undefined);
    if (reason === undefined) return false;
    this.#site.bury(delivery, reason, error);
    return true;
  }
}
