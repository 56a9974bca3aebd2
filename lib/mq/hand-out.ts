/**
 * One hand-out to a handler of an ordered group: the context that the handler gets, and its consume transaction. What it commits is
 * finished by the commit that carries its effect; the work hears of that at once, the handler a moment later.
 */

import { AppError } from "../errors.ts";
import type { DeliveryContext } from "./consumer.ts";
import type { EffectInput } from "./effect.ts";
import type { PartitionLease } from "./lease.ts";
import type { Delivery } from "./message.ts";
import { orderKeyOf } from "./side.ts";
import type { SideQueue } from "./side-queue.ts";

/** The work whose progress says what is finished. */
export interface HandOutOwner<D> {
  /** From now on, or no longer, progress counts it as finished: so does a commit, and carries the effect with that. */
  onEnding(delivery: Delivery<D>, isEnding: boolean): void;
  /** Its effect is done. */
  onEnded(delivery: Delivery<D>): void;
}

/** Where it is handed out. */
export interface HandOutSite<D> {
  readonly partition: number;
  readonly lease: PartitionLease;
  readonly side: SideQueue<D>;
}

export class HandOut<D> implements DeliveryContext {
  /** It is finished, whatever its handler says. */
  isCommitted = false;
  readonly #site: HandOutSite<D>;
  readonly #owner: HandOutOwner<D>;
  readonly #delivery: Delivery<D>;
  #transaction: Promise<void> | undefined;

  /** `delivery`: of a batch the last. */
  constructor(site: HandOutSite<D>, owner: HandOutOwner<D>, delivery: Delivery<D>) {
    this.#site = site;
    this.#owner = owner;
    this.#delivery = delivery;
  }

  get partition(): number {
    return this.#site.partition;
  }

  get token(): number {
    return this.#site.lease.token;
  }

  get signal(): AbortSignal {
    return this.#site.lease.signal;
  }

  /** The handler has asked for a commit that has not failed. */
  get hasTransaction(): boolean {
    return this.#transaction !== undefined;
  }

  /** Made when a handler asks for it, for it may take it off its context. */
  get commit(): (effect?: EffectInput) => Promise<void> {
    return (effect = {}) => this.#commit(effect);
  }

  async #commit(effect: EffectInput): Promise<void> {
    if (this.#transaction) throw new AppError("INVALID", "it is committed already");
    this.#transaction = this.#end(effect);
    try {
      await this.#transaction;
    } catch (error) {
      this.#transaction = undefined;
      throw error;
    }
  }

  /** Resolves when nothing that the handler asked for is under way. */
  async settled(): Promise<void> {
    // The handler hears of a failure.
    await this.#transaction?.catch(() => undefined);
  }

  #end(effect: EffectInput): Promise<void> {
    const { lease, side } = this.#site;
    const delivery = this.#delivery;
    const key = orderKeyOf(delivery);
    return lease.end(effect, {
      entry: delivery.entry,
      key: side.holds(key, delivery) ? key : undefined,
      onEnding: (isEnding) => this.#owner.onEnding(delivery, isEnding),
      onEnded: () => {
        this.isCommitted = true;
        this.#owner.onEnded(delivery);
      },
    });
  }
}
