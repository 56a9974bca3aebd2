/**
 * What the campaign on the queue is about: keys with numbered messages, groups of both kinds, what fails how often, the orders to its
 * processes, and the evidence.
 */

import * as v from "valibot";
import { defineTopic } from "../../lib/mq/index.ts";

export const PREFIX = "chaos";
export const PARTITIONS = 16;
export const numbered = defineTopic("numbered", { schema: v.strictObject({ n: v.number() }) });
export const PRODUCERS = 2;
export const CONSUMERS = 3;
/** The shortest there is: a pause beyond it is short, too. */
export const LEASE_MS = 1_000;

export interface PlannedGroup {
  readonly group: string;
  readonly mode: "ordered" | "concurrent";
  readonly isBatch: boolean;
  /** Its handlers commit an effect with the message: one more in a hash of its own, and a message in a topic of its own. */
  readonly hasEffect: boolean;
}

export const GROUPS: readonly PlannedGroup[] = [
  { group: "single", mode: "ordered", isBatch: false, hasEffect: false },
  { group: "batch", mode: "ordered", isBatch: true, hasEffect: false },
  { group: "shared", mode: "concurrent", isBatch: false, hasEffect: false },
  { group: "ledger", mode: "ordered", isBatch: false, hasEffect: true },
  { group: "accounts", mode: "concurrent", isBatch: false, hasEffect: true },
];
export const effectTopic = (group: string) =>
  defineTopic(`effects.${group}`, { schema: v.strictObject({ n: v.number() }) });

/** Buried by every group at its first delivery. */
export const isHopeless = (n: number): boolean => n % 97 === 50;
/** Deliveries that fail before one succeeds, in every group. */
export const failuresOf = (n: number): number => (n % 23 === 11 ? 2 : n % 13 === 5 ? 1 : 0);

export const keyOf = (index: number): string => `key-${index}`;

interface Ground {
  readonly redisUrl: string;
  readonly name: string;
}

export type MqOrder =
  | (Ground & {
      readonly role: "producer";
      readonly evidencePath: string;
      readonly keys: readonly string[];
      readonly messagesPerKey: number;
      readonly perSecond: number;
    })
  | (Ground & { readonly role: "consumer"; readonly evidencePath: string });

/** `ready`: a consumer has started; `finished`: a producer has published all. */
export type MqEvent = { readonly type: "ready" } | { readonly type: "finished" };

/** Before each call that publishes from..to of a key, and after it was answered. */
export type ProducerLine = readonly ["attempt" | "ok", key: string, from: number, to: number];

/**
 * When a handler returns, or gives up on the message for good; of those without an effect. The file's order is the order in which it
 * happened, over all processes.
 */
export type HandlerLine = readonly ["done" | "buried", group: string, key: string, n: number, token: number];
