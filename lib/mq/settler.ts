/**
 * Settles deliveries of a concurrent group: the answers of one tick go out as one script call per partition. A call that fails
 * is repeated until the leases of its deliveries are over; settling is idempotent, so an unknown outcome is simply repeated.
 */

import { backoffMs } from "../clock.ts";
import { outcomeOf } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import type { DeliveryLeases, Hold, Settlement, SettleOutcome } from "./delivery-lease.ts";

/** A script of some 0.5 ms. */
const CHUNK_MAX = 100;
/** Dead letters carry bodies of up to 256 KB. */
const CHUNK_BURIES_MAX = 16;
const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };

interface Item<D> {
  readonly hold: Hold<D>;
  readonly settlement: Settlement;
}

export class Settler<D> {
  readonly #context: QueueContext;
  readonly #leases: DeliveryLeases;
  readonly #onSettled: (hold: Hold<D>, settlement: Settlement, outcome: SettleOutcome) => void;
  readonly #onEvicted: (count: number) => void;
  #waiting = new Map<number, Item<D>[]>();

  constructor(
    context: QueueContext,
    leases: DeliveryLeases,
    onSettled: (hold: Hold<D>, settlement: Settlement, outcome: SettleOutcome) => void,
    onEvicted: (count: number) => void,
  ) {
    this.#context = context;
    this.#leases = leases;
    this.#onSettled = onSettled;
    this.#onEvicted = onEvicted;
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
      for (const { hold, settlement } of items) if (hold.isLost) this.#onSettled(hold, settlement, "stale");
      if (held.length === 0) return;
      try {
        const { outcomes, evicted } = await this.#leases.settle(partition, held);
        for (const [i, { hold, settlement }] of held.entries()) this.#onSettled(hold, settlement, outcomes[i]!);
        if (evicted > 0) this.#onEvicted(evicted);
        return;
      } catch (error) {
        const isGroupGone = error instanceof Error && error.message.startsWith("NOGROUP");
        if (isGroupGone) {
          // With the group its pending list is gone: all of it will be delivered again from the group's last place.
          for (const { hold, settlement } of held) this.#onSettled(hold, settlement, "stale");
          return;
        }
        const level = outcomeOf(error) === "bug" ? "error" : failures === 1 ? "warn" : "debug";
        log[level]({ partition, error }, "settling deliveries failed, it will be repeated");
        await clock.sleep(backoffMs(failures, FAILURE_BACKOFF));
      }
    }
  }
}

function* chunks<D>(items: readonly Item<D>[]): Generator<readonly Item<D>[]> {
  let first = 0;
  let buries = 0;
  for (const [i, { settlement }] of items.entries()) {
    const isBury = settlement.kind === "bury";
    if (i - first >= CHUNK_MAX || (isBury && buries >= CHUNK_BURIES_MAX)) {
      yield items.slice(first, i);
      first = i;
      buries = 0;
    }
    if (isBury) buries += 1;
  }
  yield items.slice(first);
}
