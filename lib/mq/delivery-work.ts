/**
 * Hands the deliveries of a concurrent group to its handler and turns what comes of it into a settlement: ack, retry after the
 * ladder's wait, or bury. Deliveries that failed before go alone, so that a batch fails for one of them once only. One whose
 * holders were lost three times without an answer is handed out while nothing else is; lost three times so, it is buried.
 */

import { AppError } from "../errors.ts";
import { ackWith } from "./ack-with.ts";
import { type Attempts, inHandAlone, LOSSES_MAX, lostAlone, resume } from "./attempts.ts";
import type { Declaration, DeliveryContext, QueueContext } from "./consumer.ts";
import { buryReasonOf, deadLetterOf, textOf } from "./dead-letter.ts";
import { type Committer, type DeliveryLeases, Hold, type Settlement, type SettleOutcome } from "./delivery-lease.ts";
import type { EffectInput } from "./effect.ts";
import { type Delivery, InvalidMessage, Later } from "./message.ts";
import { isExpired, isSelected } from "./selection.ts";
import { Settler } from "./settler.ts";
import { inTurn } from "./turn.ts";
import type { GroupCounters } from "./work.ts";

const ACK: Settlement = { kind: "ack" };

export interface DeliveryWorkParts<D> {
  readonly context: QueueContext;
  readonly topic: string;
  readonly declaration: Declaration<D>;
  readonly leases: DeliveryLeases;
  readonly counters: GroupCounters;
  /** There is room again. */
  readonly onRoom: () => void;
  /** A retry of this partition will be due in `waitMs`. */
  readonly onRetry: (waitMs: number) => void;
}

export class DeliveryWork<D> {
  readonly #parts: DeliveryWorkParts<D>;
  readonly #settler: Settler<D>;
  /** All that is leased: with handlers, waiting for their turn, or settled without an answer from Redis yet. */
  readonly #inHand = new Set<Hold<D>>();
  /** With handlers. */
  #running = 0;
  /** Batches (of one, for single handlers) that wait for a handler: a read may bring a little more than there is room for. */
  #waiting: (readonly Hold<D>[])[] = [];
  /** They wait until nothing else is with a handler, and nothing else starts before them. */
  #suspects: Hold<D>[] = [];
  #alone: Hold<D> | undefined;
  #whenAloneSettled: () => void = () => undefined;
  readonly #idlers: (() => void)[] = [];
  /** Settled without an answer from Redis yet. */
  #settling = 0;
  /** Since the last answer, for the counter: a look-up per message is not cheap. */
  #acked = 0;

  constructor(parts: DeliveryWorkParts<D>) {
    this.#parts = parts;
    const { context, leases, topic, declaration } = parts;
    this.#settler = new Settler(context, leases, {
      onSettled: (hold, settlement, outcome) => this.#settled(hold, settlement, outcome),
      onAnswered: () => this.#answered(),
      onEvicted: (count) => context.metrics.deadLettersEvicted.inc({ topic, group: declaration.group }, count),
    });
  }

  /**
   * How many deliveries may be taken. None while a suspect is about. What handlers are done with no longer counts, so that the next
   * read need not wait for the answer to the acks; but no more than as many again may be without one.
   */
  get room(): number {
    if (this.#suspects.length > 0 || this.#alone) return 0;
    const { inFlightMax } = this.#parts.declaration;
    return Math.max(0, Math.min(inFlightMax - this.#inHand.size + this.#settling, 2 * inFlightMax - this.#inHand.size));
  }

  get holds(): ReadonlySet<Hold<D>> {
    return this.#inHand;
  }

  idle(): Promise<void> {
    if (this.#inHand.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idlers.push(resolve));
  }

  /** Takes deliveries of one partition in hand. */
  deliver(holds: readonly Hold<D>[]): void {
    for (const hold of holds) {
      this.#inHand.add(hold);
      hold.committer = this.#commit;
    }
    const now = this.#parts.context.clock.now();
    const fit = holds.filter((hold) => !this.#isSetAside(hold, now));
    const { batchMax, handleBatch } = this.#parts.declaration;
    const isBatch = handleBatch !== undefined;
    const together: Hold<D>[] = [];
    for (const hold of fit) {
      if (isBatch && hold.attempts.failed === 0 && hold.attempts.losses === 0) together.push(hold);
      else this.#waiting.push([hold]);
    }
    // A read brings no more than a batch; a claim may.
    for (let first = 0; first < together.length; first += batchMax) {
      this.#waiting.push(together.slice(first, first + batchMax));
    }
    this.#pump();
  }

  /** Gives deliveries back that no handler has seen; costs no attempt. */
  release(holds: readonly Hold<D>[]): void {
    for (const hold of holds) {
      this.#inHand.add(hold);
      this.#settle(hold, { kind: "retry", waitMs: 0 });
    }
  }

  /** Gives back what waits here for its turn. */
  releaseWaiting(): void {
    this.release([...this.#suspects.splice(0), ...this.#waiting.splice(0).flat()]);
  }

  /** Drops the results of deliveries whose leases are over, and tells their handlers. What waits for its turn has no turn. */
  lose(holds: Iterable<Hold<D>>, reason: Error): void {
    const { context, topic, declaration } = this.#parts;
    for (const hold of holds) {
      context.metrics.leasesLost.inc({ topic, group: declaration.group });
      hold.lose(reason);
    }
    const isKept = (hold: Hold<D>) => {
      if (hold.isLost) this.#inHand.delete(hold);
      return !hold.isLost;
    };
    this.#suspects = this.#suspects.filter(isKept);
    this.#waiting = this.#waiting.map((together) => together.filter(isKept)).filter(({ length }) => length > 0);
    this.#pump();
    this.#parts.onRoom();
    this.#resolveIdlers();
  }

  /** Whether it is not to be handed out now: not for this group, invalid, or dangerous. */
  #isSetAside(hold: Hold<D>, now: number): boolean {
    const { declaration, counters } = this.#parts;
    if (!isSelected(hold.delivery, declaration, now)) {
      if (isExpired(hold.delivery, now)) counters.expired.inc(1);
      this.#settle(hold, { kind: "pass" });
      return true;
    }
    const blame = lostAlone(hold.attempts.losses);
    if (blame >= LOSSES_MAX) {
      const reason = `${blame} holders were lost over it, alone, without an answer`;
      this.#settle(hold, { kind: "bury", letter: deadLetterOf(hold.delivery, "poison", reason) });
      return true;
    }
    if (declaration.validate) {
      try {
        void hold.delivery.data;
      } catch (error) {
        if (!(error instanceof InvalidMessage)) throw error;
        this.#settle(hold, { kind: "bury", letter: deadLetterOf(hold.delivery, "invalid", error) });
        return true;
      }
    }
    if (hold.attempts.losses < LOSSES_MAX) return false;
    this.#suspects.push(hold);
    return true;
  }

  /** Hands out what may be handed out now. */
  #pump(): void {
    const { inFlightMax } = this.#parts.declaration;
    for (;;) {
      if (this.#alone) return;
      if (this.#suspects.length > 0) {
        if (this.#running > 0 || this.#settling > 0) return;
        this.#alone = this.#suspects.shift()!;
        const suspect = this.#alone;
        void inTurn(suspect.signal, () => this.#runAlone(suspect));
        return;
      }
      const next = this.#waiting[0];
      if (!next || (this.#running > 0 && this.#running + next.length > inFlightMax)) return;
      this.#waiting.shift();
      void this.#run(next);
    }
  }

  /**
   * Hands out a suspect once it is known to be alone in hand: only then can the loss of this member be its fault. Resolves when what
   * became of it is known, too.
   */
  async #runAlone(hold: Hold<D>): Promise<void> {
    const { context, leases } = this.#parts;
    const settled = new Promise<void>((resolve) => {
      this.#whenAloneSettled = resolve;
    });
    try {
      const record = { ...hold.attempts, losses: inHandAlone(hold.attempts.losses) };
      const noted = [{ hold, settlement: { kind: "alone", record } as const }];
      const { outcomes } = await leases.settle(hold.partition, noted, hold.generation);
      if (outcomes[0] === "settled" && !hold.isLost) {
        await this.#run([hold]);
        return settled;
      }
    } catch (error) {
      context.log.debug({ error }, "a suspect could not be noted; it is given back");
    }
    this.#settle(hold, { kind: "retry", waitMs: 0 });
    return settled;
  }

  async #run(holds: readonly Hold<D>[]): Promise<void> {
    const { counters, declaration } = this.#parts;
    this.#running += holds.length;
    counters.delivered.inc(holds.length);
    try {
      await this.#handle(holds, declaration);
      if (holds[0]!.transaction) await this.#afterTransaction(holds);
      for (const hold of holds) if (!hold.isCommitted) this.#settle(hold, ACK);
    } catch (error) {
      if (holds[0]!.transaction) await this.#afterTransaction(holds, error);
      for (const hold of holds) {
        if (!hold.isCommitted) this.#settle(hold, this.#settlementOf(hold, error, holds.length === 1));
      }
    }
    this.#running -= holds.length;
    this.#pump();
  }

  readonly #commit: Committer<D> = async (holds, effect) => {
    if (holds.some(({ transaction }) => transaction)) throw new AppError("INVALID", "it is committed already");
    const transaction = ackWith(this.#parts, holds, effect);
    for (const hold of holds) hold.transaction = transaction;
    try {
      await transaction;
      for (const hold of holds) hold.isCommitted = true;
    } catch (error) {
      for (const hold of holds) hold.transaction = undefined;
      throw error;
    }
  };

  /** The handler is done, and has committed or is about to: what is committed needs no answer any more. */
  async #afterTransaction(holds: readonly Hold<D>[], error?: unknown): Promise<void> {
    const { context, topic, declaration } = this.#parts;
    // Its caller hears of a failure.
    await holds[0]!.transaction?.catch(() => undefined);
    for (const hold of holds) {
      if (!hold.isCommitted) continue;
      this.#settling += 1;
      this.#settled(hold, ACK, "settled");
    }
    this.#answered();
    if (error === undefined || !holds[0]!.isCommitted) return;
    const fields = { topic, group: declaration.group, partition: holds[0]!.partition, reason: textOf(error) };
    context.log.warn(fields, "handler failed after its commit, which stands");
  }

  #handle(holds: readonly Hold<D>[], { handle, handleBatch }: Declaration<D>): unknown {
    const [first] = holds;
    if (handle) return handle(first!.delivery, first!);
    const deliveries = holds.map(({ delivery }) => delivery);
    return handleBatch!(deliveries, holds.length === 1 ? first! : new BatchContext(holds));
  }

  #settlementOf(hold: Hold<D>, error: unknown, isAlone: boolean): Settlement {
    const { context, declaration } = this.#parts;
    const { delivery } = hold;
    if (error instanceof Later) return { kind: "retry", waitMs: error.ms };
    if (error instanceof InvalidMessage && !isAlone) {
      if (error.entry === delivery.entry) return { kind: "bury", letter: deadLetterOf(delivery, "invalid", error) };
      return { kind: "retry", waitMs: 0 };
    }
    const reason = buryReasonOf(error);
    delivery.note(context.clock.now(), context.member, textOf(error));
    if (isAlone && (reason !== undefined || delivery.attempt >= declaration.maxAttempts)) {
      return { kind: "bury", letter: deadLetterOf(delivery, reason ?? "attempts", error) };
    }
    const record: Attempts = {
      failed: delivery.attempt,
      losses: hold.attempts.losses,
      firstFailureMs: delivery.firstFailureMs,
      history: delivery.history,
    };
    // Whoever is to blame for a batch is found when each is handed out alone, at once.
    const waitMs = isAlone ? declaration.retryMs(delivery.attempt) : 0;
    return { kind: "retry", waitMs, record };
  }

  #settle(hold: Hold<D>, settlement: Settlement): void {
    this.#settling += 1;
    this.#settler.settle(hold, settlement);
  }

  #settled(hold: Hold<D>, settlement: Settlement, outcome: SettleOutcome): void {
    const { context, topic, declaration } = this.#parts;
    this.#settling -= 1;
    this.#inHand.delete(hold);
    if (outcome === "settled") this.#count(hold, settlement);
    else if (outcome === "stale" && !hold.isLost) context.metrics.leasesLost.inc({ topic, group: declaration.group });
    if (settlement.kind === "ack" && outcome !== "stale") this.#acked += 1;
    if (this.#alone === hold) {
      this.#alone = undefined;
      this.#whenAloneSettled();
    }
  }

  #answered(): void {
    this.#parts.counters.acked.inc(this.#acked);
    this.#acked = 0;
    this.#pump();
    this.#parts.onRoom();
    this.#resolveIdlers();
  }

  #resolveIdlers(): void {
    if (this.#inHand.size === 0) for (const resolve of this.#idlers.splice(0)) resolve();
  }

  #count({ delivery }: Hold<D>, settlement: Settlement): void {
    const { context, topic, declaration, counters } = this.#parts;
    if (settlement.kind !== "retry" && settlement.kind !== "bury") return;
    const { entry, key, attempt, partition } = delivery;
    const fields = { topic, group: declaration.group, partition, entry, key, attempt };
    if (settlement.kind === "bury") {
      context.metrics.buried.inc({ topic, group: declaration.group });
      const { reason, error } = settlement.letter;
      context.log.warn({ ...fields, reason, cause: error }, "message buried");
      return;
    }
    if (settlement.record) {
      counters.retried.inc(1);
      context.log.warn({ ...fields, reason: settlement.record.history.at(-1)?.[2] }, "handler failed");
    }
    this.#parts.onRetry(settlement.waitMs);
  }
}

/** Of a batch: the highest token, and a signal that aborts when any of its leases is lost. */
class BatchContext<D> implements DeliveryContext {
  readonly partition: number;
  readonly #holds: readonly Hold<D>[];
  #signal: AbortSignal | undefined;

  constructor(holds: readonly Hold<D>[]) {
    this.#holds = holds;
    this.partition = holds[0]!.partition;
  }

  get token(): number {
    return Math.max(...this.#holds.map(({ token }) => token));
  }

  get signal(): AbortSignal {
    this.#signal ??= AbortSignal.any(this.#holds.map(({ signal }) => signal));
    return this.#signal;
  }

  get commit(): (effect?: EffectInput) => Promise<void> {
    return (effect = {}) => this.#holds[0]!.committer!(this.#holds, effect);
  }
}

/** A delivery with what the group remembers of its earlier attempts. */
export function holdOf<D>(delivery: Delivery<D>, count: number, attempts: Attempts, generation: number): Hold<D> {
  resume(delivery, attempts);
  return new Hold(delivery, count, attempts, generation);
}
