/**
 * The consume transaction of a concurrent group: deliveries are acked by the very script that does their effect, under their fencing
 * tokens. A call without an answer is repeated for as long as the leases last; that it was done already shows in the pending list.
 */

import { backoffMs } from "../clock.ts";
import { AppError } from "../errors.ts";
import { outcomeOf } from "../redis/index.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import type { DeliveryLeases, Hold } from "./delivery-lease.ts";
import { countAppended, type EffectInput, formatEffect, sendEffect } from "./effect.ts";

const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };

export interface AckWithParts {
  readonly context: QueueContext;
  readonly declaration: Pick<Declaration<never>, "publishing">;
  readonly leases: DeliveryLeases;
}

/**
 * Acks deliveries of one partition and generation, with an effect. Throws AppError: INVALID, TOO_LARGE, LAYER_VIOLATION, RATE_LIMITED
 * as publishing with writes; LEASE_LOST when another has one of them in hand, and decides. When all are settled already, that was
 * this very call, or another holder's: either way it is done once.
 */
export async function ackWith<D>(parts: AckWithParts, holds: readonly Hold<D>[], input: EffectInput): Promise<void> {
  const { context, declaration, leases } = parts;
  const { partition } = holds[0]!;
  const effect = formatEffect(context, partition, input, declaration.publishing);
  const send = async () => {
    for (let failures = 1; ; failures++) {
      if (holds.some(({ isLost }) => isLost)) throw leaseLost();
      try {
        const reply = await leases.ackWith(holds, effect);
        if (reply[0] === "stale") throw leaseLost();
        return reply;
      } catch (error) {
        if (error instanceof AppError) throw error;
        if (error instanceof Error && error.message.startsWith("NOGROUP")) throw leaseLost();
        if (outcomeOf(error) === "bug") throw error;
        context.log[failures === 1 ? "warn" : "debug"](
          { partition, error },
          "a transaction had no answer, it is repeated",
        );
        await context.clock.sleep(backoffMs(failures, FAILURE_BACKOFF));
      }
    }
  };
  const [, appended = []] = await sendEffect(context, partition, effect, send);
  countAppended(context, effect, appended);
}

function leaseLost(): AppError {
  return new AppError("LEASE_LOST", "the delivery is not held any more: whoever holds it decides");
}
