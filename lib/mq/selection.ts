/**
 * Which messages of a topic a group is given. The others it finishes unseen: they count neither as delivered nor as acked.
 *
 *   for another group   a redriven dead letter carries the group that it is for
 *   other tag           the group has a tag filter, and the message none of its tags
 *   expired             `expireAt` lies in the past
 */

import type { Delivery } from "./message.ts";

export interface Selector {
  readonly group: string;
  /** undefined: all messages, also those without a tag. */
  readonly tags: ReadonlySet<string> | undefined;
}

/** Whether the group is given this message now. For a message without attributes this costs one look at a character. */
export function isSelected<D>(delivery: Delivery<D>, { group, tags }: Selector, nowMs: number): boolean {
  if (!delivery.hasAttributes) return tags === undefined;
  const { g, t } = delivery.attributes;
  if (g !== undefined && g !== group) return false;
  if (tags !== undefined && !(t !== undefined && tags.has(t))) return false;
  return !isExpired(delivery, nowMs);
}

/** Whether its `expireAt` has passed: what the metric of expired messages counts, once isSelected said no. */
export function isExpired<D>(delivery: Delivery<D>, nowMs: number): boolean {
  return delivery.hasAttributes && delivery.expireAt !== undefined && delivery.expireAt < nowMs;
}
