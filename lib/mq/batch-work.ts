/**
 * The work of a batch handler on one partition: whole batches in the partition's order, one in hand and one read ahead.
 *
 * A failed batch is tried again in place. After three failures its messages are handed out one by one, so that the one that
 * is to blame stands alone, and is buried when its attempts are used up. Nothing here is done per message while all goes well.
 */

import type { BatchHandler, DeliveryContext } from "./consumer.ts";
import { buryReasonOf } from "./dead-letter.ts";
import { type Delivery, InvalidMessage, Later } from "./message.ts";
import type { Progress } from "./progress.ts";
import type { Work, WorkSite } from "./work.ts";

/** A store that was away for a moment is back by then; what fails on is most likely one message's fault. */
const BATCH_FAILURES_MAX = 3;
/** Results not yet committed, in entries: beyond, the commit is awaited, so a takeover repeats no more than this. */
const UNCOMMITTED_ENTRIES_MAX = 4_000;

export class BatchWork<D> implements Work<D> {
  readonly #site: WorkSite<D>;
  readonly #handle: BatchHandler<D>;
  readonly #context: DeliveryContext;
  #inHand: Delivery<D>[] | undefined;
  #ahead: Delivery<D>[] | undefined;
  #running: Promise<void> | undefined;
  #progress: Progress;
  #uncommitted = 0;
  #careful: number;

  constructor(site: WorkSite<D>, handle: BatchHandler<D>) {
    this.#site = site;
    this.#handle = handle;
    const { partition, lease } = site;
    this.#context = { partition, token: lease.token, signal: lease.signal };
    this.#progress = lease.grant.progress;
    this.#careful = lease.isSuspicious ? 2 * site.declaration.batchMax : 0;
  }

  hasRoom(): boolean {
    return this.#ahead === undefined;
  }

  accept(deliveries: Delivery<D>[]): void {
    if (this.#inHand === undefined) this.#inHand = deliveries;
    else this.#ahead = this.#ahead === undefined ? deliveries : this.#ahead.concat(deliveries);
  }

  run(): void {
    this.#running ??= this.#runBatches().finally(() => {
      this.#running = undefined;
    });
  }

  async idle(): Promise<void> {
    await this.#running;
  }

  progress(): Progress {
    this.#uncommitted = 0;
    return this.#progress;
  }

  async #runBatches(): Promise<void> {
    while (this.#inHand !== undefined && this.#site.mayHandOut()) {
      const batch = this.#inHand;
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
    const last = batch[batch.length - 1]!;
    // What a predecessor left open comes first, and is of entries before the checkpoint.
    const open = this.#progress.open.length === 0 ? this.#progress.open : this.#withoutFinished(batch);
    const isBehind = last.ordinal <= this.#progress.read;
    this.#progress = isBehind ? { ...this.#progress, open } : { checkpoint: last.entry, read: last.ordinal, open };
    this.#site.changed();
  }

  #withoutFinished(batch: readonly Delivery<D>[]) {
    const finished = new Set(batch.map((delivery) => delivery.entry));
    return this.#progress.open.filter(({ entry }) => !finished.has(entry));
  }

  /** Resolves to whether the batch is finished: handled or buried, every message of it. */
  async #deliver(given: readonly Delivery<D>[]): Promise<boolean> {
    const { declaration, counters, clock, waits } = this.#site;
    let batch = declaration.validate ? this.#withoutInvalid(given) : given;
    let failures = 0;
    while (batch.length > 0) {
      if (!this.#site.mayHandOut()) return false;
      counters.delivered.inc(batch.length);
      try {
        await this.#handle(batch, this.#context);
        if (!this.#site.lease.isHeld()) return false;
        counters.acked.inc(batch.length);
        return true;
      } catch (error) {
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
      if (lease.isPoison(delivery.entry)) {
        this.#site.bury(delivery, "poison", `${lease.grant.blame} holders were lost over it, alone, without an answer`);
      } else {
        await lease.mark(delivery.entry);
        if (!(await this.#deliver([delivery]))) return false;
      }
      this.#advance([delivery]);
      this.#careful -= 1;
      if (this.#careful === 0) await lease.mark("");
    }
    return true;
  }

  #withoutInvalid(batch: readonly Delivery<D>[]): readonly Delivery<D>[] {
    return batch.filter((delivery) => !this.#site.isBuriedAsInvalid(delivery));
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
