/**
 * What pulling asks of a group's mode (pull-concurrent.ts, pull-ordered.ts): hand out, and take answers. Everything that it says lies
 * in Redis afterwards.
 */

import { type Attempts, LOSSES_MAX } from "./attempts.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import type { BuryReason } from "./dead-letter.ts";
import { type Delivery, InvalidMessage } from "./message.ts";
import type { PullRef } from "./pull-token.ts";
import { isExpired, isSelected } from "./selection.ts";

/** The name under which services outside hold deliveries and partitions. */
export const PULL_MEMBER = "#pull";

/** The settings of a group, as a pull needs them. */
export type PullGroup = Pick<
  Declaration<unknown>,
  "group" | "mode" | "start" | "leaseMs" | "maxAttempts" | "onPoison" | "tags" | "retryMs"
>;

/** One delivery in the hands of a service. */
export interface Handed<D> {
  readonly delivery: Delivery<D>;
  readonly fence: string;
  /** Unix ms by Redis TIME. */
  readonly leaseUntil: number;
  /** So many holders were lost over it that it is to be handed out alone. */
  readonly isSuspect: boolean;
}

/** What one partition had to give. */
export interface Taken<D> {
  readonly handed: readonly Handed<D>[];
  /** It may have more now. */
  readonly isMore: boolean;
  /** When something will be due there, ms by Redis TIME. */
  readonly nextDueMs: number | undefined;
}

/** `gone`: it was answered before. */
export type PullOutcome = "ok" | "stale" | "gone";

export interface Failure {
  readonly error: string;
  /** Until the next attempt; undefined: the group's own wait. */
  readonly waitMs: number | undefined;
  /** No further attempt is of any use. */
  readonly isHopeless: boolean;
}

export interface Outlet<D> {
  /**
   * Makes the group where it is not there. Not for one who has waited: the group may have been dropped meanwhile, and would hold
   * back trimming for ever.
   */
  mayRegister: boolean;
  /** The partitions that it may hand out of now. */
  open(): Promise<readonly number[]>;
  /** Hands out at most `limit` deliveries, and stops when they hold more than about `bytesMax`. */
  take(partition: number, limit: number, bytesMax: number): Promise<Taken<D>>;
  /** All of one partition, here and below. */
  ack(refs: readonly PullRef[]): Promise<readonly PullOutcome[]>;
  /** Back to the group after `waitMs`, no attempt counted. */
  release(refs: readonly PullRef[], waitMs: number): Promise<readonly PullOutcome[]>;
  /** A failed attempt: again later, or the end of its attempts. */
  fail(ref: PullRef, failure: Failure): Promise<PullOutcome>;
  /** The new ends of the leases; 0 for what is held no more. */
  renew(refs: readonly PullRef[], leaseMs: number): Promise<readonly number[]>;
  /** The delivery as it was handed out; undefined when it is not there any more. */
  find(ref: PullRef): Promise<Delivery<D> | undefined>;
}

/** What is to become of a delivery before any service sees it. */
export type Verdict = "hand" | "suspect" | "pass" | { readonly reason: BuryReason; readonly error: unknown };

/** Judges what a partition gave: is it for the group, has it attempts left, can it be read, did it kill its holders? */
export function judge<D>(
  { clock, metrics }: QueueContext,
  topic: string,
  declaration: PullGroup,
  delivery: Delivery<D>,
  { failed, losses }: Attempts,
): Verdict {
  const now = clock.now();
  const { group, maxAttempts } = declaration;
  if (!isSelected(delivery, declaration, now)) {
    if (isExpired(delivery, now)) metrics.expired.inc({ topic, group });
    return "pass";
  }
  try {
    void delivery.data;
    void delivery.properties;
  } catch (error) {
    if (!(error instanceof InvalidMessage)) throw error;
    return { reason: "invalid", error };
  }
  if (failed >= maxAttempts) return { reason: "attempts", error: delivery.history.at(-1)?.[2] ?? "" };
  if (losses < LOSSES_MAX) return "hand";
  // A group that would rather wait than give up goes on with it.
  if (losses === LOSSES_MAX || !Number.isFinite(maxAttempts)) return "suspect";
  return { reason: "poison", error: `${losses} holders were lost over it without an answer` };
}
