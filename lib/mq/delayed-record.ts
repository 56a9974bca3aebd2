/**
 * The record of a delayed message: the truth about it, in the partition of the message's key, written by the script that asked for
 * it. Its id, a placed id, is the message's, too.
 *
 *   PENDING ──► FIRED        appended to its topic, in the step that says so
 *      │  ├────► CANCELLED
 *      │  └────► DROPPED     its condition did not hold, or its expireAt had passed
 *      └─ move: another due time, the next version
 *
 * An ended record stays 24 h, so that who asks late hears the truth. The format is mq-delay.lua's.
 */

import type { Keys } from "../redis/index.ts";

/** The topic by which the timers hear of records (relay-topic.ts). */
export const RELAY_TOPIC = "im.relay";

export type DelayedState = "PENDING" | "FIRED" | "CANCELLED" | "DROPPED";

export interface DelayedRecord {
  /** The message's id. */
  readonly id: string;
  readonly state: DelayedState;
  /** One more with each move. */
  readonly version: number;
  /** When it is, or was, due, ms. */
  readonly deliverAt: number;
  readonly createdAt: number;
  readonly topic: string;
  readonly type: string;
  /** "" when the publisher gave none. */
  readonly key: string;
  readonly expireAt?: number;
  /** Of one that is not PENDING. */
  readonly endedAt?: number;
  /** Of a FIRED one: its entry in the topic. */
  readonly entry?: string;
  /** Of a DROPPED one. */
  readonly reason?: "expired" | "condition";
  /** JSON text (condition.ts); "" when it asks for none. */
  readonly condition: string;
}

const STATES: Readonly<Record<string, DelayedState>> = { P: "PENDING", F: "FIRED", C: "CANCELLED", D: "DROPPED" };
const RECORD = /^([PFCD]) (\d+) (\d+) (\d+) (\d+) (\d+) (\S+) (\S+) (\S*) (\S*) (.*)$/s;

/** undefined when the text is none. */
export function parseDelayed(id: string, text: string): DelayedRecord | undefined {
  const match = RECORD.exec(text);
  if (!match) return undefined;
  const [, letter, version, due, created, ended, expires, topic, type, key, note, condition] =
    match as unknown as string[];
  const state = STATES[letter!]!;
  return {
    ...{ id, state, version: Number(version), deliverAt: Number(due), createdAt: Number(created) },
    ...{ topic: topic!, type: type!, key: key!, condition: condition! },
    ...(expires === "0" ? {} : { expireAt: Number(expires) }),
    ...(ended === "0" ? {} : { endedAt: Number(ended) }),
    ...(state === "FIRED" ? { entry: note! } : {}),
    ...(state === "DROPPED" ? { reason: note as "expired" | "condition" } : {}),
  };
}

/** The keys of a partition, by the names that its scripts have for them. */
export function shelfKeys(keys: Keys, partition: number) {
  return {
    records: keys.delayed(partition),
    due: keys.delayedDue(partition),
    ended: keys.delayedEnded(partition),
    relay: keys.topic(RELAY_TOPIC, partition),
  };
}
