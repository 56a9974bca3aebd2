/**
 * Settles deliveries of a concurrent group: the answers of one tick go out as one script call per partition, acks apart from the
 * rest, for they are nearly all there is and by themselves cost Redis a third. A call that fails is repeated until the leases of
 * its deliveries are over; settling is idempotent, so an unknown outcome is simply repeated.
 */

import { backoffMs } from "../clock.ts";
import { outcomeOf } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import type { DeliveryLeases, Hold, Settlement, SettleOutcome } from "./delivery-lease.ts";
import { compareEntries } from "./stream.ts";

/** A script of some 0.5 ms. */
const CHUNK_MAX = 100;
/** As long, for acks alone. */
const CHUNK_ACKS_MAX = 500;
/** Dead letters carry bodies of up to 256 KB. */
const CHUNK_BURIES_MAX = 16;
const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };

interface Item<D> {
  readonly hold: Hold<D>;
  readonly settlement: Settlement;
}

export interface SettlerListener<D> {
  onSettled(hold: Hold<D>, settlement: Settlement, outcome: SettleOutcome): void;
  /** After onSettled of each delivery of a call. */
  onAnswered(): void;
  onEvicted(count: number): void;
}

export class Settler<D> {
  readonly #context: QueueContext;
  readonly #leases: DeliveryLeases;
  readonly #listener: SettlerListener<D>;
  #waiting = new Map<number, Item<D>[]>();

  constructor(context: QueueContext, leases: DeliveryLeases, listener: SettlerListener<D>) {
    this.#context = context;
    this.#leases = leases;
    this.#listener = listener;
  }

  settle(hold: Hold<D>, settlement: Settlement): void {
    if (this.#waiting.size === 0) setImmediate(() => this.#flush());
    const items = this.#waiting.get(hold.partition);
    if (items) items.push({ hold, settlement });
    else this.#waiting.set(hold.partition, [{ hold, settlement }]);
  }

  #flush(): void {
    const waiting = this.#waiting;
    this.#waiting = new Map();
    for (const [partition, items] of waiting) {
      for (const chunk of chunks(items)) void this.#send(partition, chunk);
    }
  }

  async #send(partition: number, items: readonly Item<D>[]): Promise<void> {
    const { clock, log } = this.#context;
    for (let failures = 1; ; failures++) {
      const held = items.filter(({ hold }) => !hold.isLost);
      if (held.length < items.length)
        this.#answer(
          items.filter(({ hold }) => hold.isLost),
          "stale",
        );
      if (held.length === 0) return;
      try {
        this.#answer(held, await this.#settle(partition, held));
        return;
      } catch (error) {
        const isGroupGone = error instanceof Error && error.message.startsWith("NOGROUP");
        if (isGroupGone) {
          // With the group its pending list is gone: all of it will be delivered again from the group's last place.
          this.#answer(held, "stale");
          return;
        }
        const level = outcomeOf(error) === "bug" ? "error" : failures === 1 ? "warn" : "debug";
        log[level]({ partition, error }, "settling deliveries failed, it will be repeated");
        await clock.sleep(backoffMs(failures, FAILURE_BACKOFF));
      }
    }
  }

  /** One call. Resolves to the outcomes, or to the one of all. */
  async #settle(partition: number, items: readonly Item<D>[]): Promise<SettleOutcome | readonly SettleOutcome[]> {
    if (isAck(items[0]!)) {
      return this.#leases.ack(
        partition,
        items.map(({ hold }) => hold),
      );
    }
    const { outcomes, evicted } = await this.#leases.settle(partition, items);
    if (evicted > 0) this.#listener.onEvicted(evicted);
    return outcomes;
  }

  #answer(items: readonly Item<D>[], outcomes: SettleOutcome | readonly SettleOutcome[]): void {
    for (const [i, { hold, settlement }] of items.entries()) {
      this.#listener.onSettled(hold, settlement, typeof outcomes === "string" ? outcomes : outcomes[i]!);
    }
    this.#listener.onAnswered();
  }
}

/** Seen or passed over, it is acked. */
function isAck<D>({ settlement: { kind } }: Item<D>): boolean {
  return kind === "ack" || kind === "pass";
}

/** Parts for one call each: acks of one count, or whatever is no ack. */
function* chunks<D>(items: readonly Item<D>[]): Generator<readonly Item<D>[]> {
  const acks = new Map<number, Item<D>[]>();
  const others: Item<D>[] = [];
  for (const item of items) {
    if (!isAck(item)) others.push(item);
    else {
      const { count } = item.hold;
      const same = acks.get(count);
      if (same) same.push(item);
      else acks.set(count, [item]);
    }
  }
  for (const same of acks.values()) {
    same.sort((a, b) => compareEntries(a.hold.delivery.entry, b.hold.delivery.entry));
    for (let first = 0; first < same.length; first += CHUNK_ACKS_MAX) yield same.slice(first, first + CHUNK_ACKS_MAX);
  }
  let first = 0;
  let buries = 0;
  for (const [i, { settlement }] of others.entries()) {
    const isBury = settlement.kind === "bury";
    if (i - first >= CHUNK_MAX || (isBury && buries >= CHUNK_BURIES_MAX)) {
      yield others.slice(first, i);
      first = i;
      buries = 0;
    }
    if (isBury) buries += 1;
  }
  if (first < others.length) yield others.slice(first);
}
