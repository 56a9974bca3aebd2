/**
 * The side queue of an ordered group in one partition, as it lies in Redis: its keys, and the record of a key that stands aside.
 * The rules by which it changes are the fragment's, lib/redis/lua/mq-side.lua.
 */

import type { Keys } from "../redis/index.ts";
import { type Attempts, parseAttempts } from "./attempts.ts";
import type { Delivery } from "./message.ts";

/** `ready` or waiting for a retry; in `hand` of the partition's holder; `out` to a service; `parked`. */
export type AsideState = "ready" | "hand" | "out" | "parked";

/** What is kept of a key that stands aside; the counts are its first message's. */
export interface AsideRecord extends Attempts {
  readonly state: AsideState;
  readonly sinceMs: number;
  /** Under which it is in hand or out; "0" when it is neither. */
  readonly token: string;
  /** When a service's lease ends, ms by Redis TIME. */
  readonly untilMs: number;
}

const STATES: Readonly<Record<string, AsideState>> = { r: "ready", h: "hand", o: "out", p: "parked" };
const RECORD = /^([rhop]) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (.*)$/s;

/** The four keys, by the names that scripts have for them. */
export function sideKeys(keys: Keys, topic: string, partition: number, group: string) {
  return {
    aside: keys.aside(topic, partition, group),
    asideDue: keys.asideDue(topic, partition, group),
    side: keys.side(topic, partition, group),
    sideOrder: keys.sideOrder(topic, partition, group),
  };
}

/** undefined when the text is no record. */
export function parseAside(text: string): AsideRecord | undefined {
  const match = RECORD.exec(text);
  if (!match) return undefined;
  const [, state, since, failed, losses, first, token, until, history] = match as unknown as string[];
  return {
    ...parseAttempts(`${failed} ${losses} ${first} ${history}`),
    state: STATES[state!]!,
    sinceMs: Number(since),
    token: token!,
    untilMs: Number(until),
  };
}

/** The key that a message keeps its order under. One without a key has no order to keep, and stands under its entry id alone. */
export function orderKeyOf<D>(delivery: Delivery<D>): string {
  return delivery.key || delivery.entry;
}

/** Header and data of a message as the side queue keeps it: `<length of the header in bytes> <header><data>`. */
export function parseSideMessage(text: string): [header: string, data: string] {
  const bytes = Buffer.from(text);
  const begin = bytes.indexOf(" ") + 1;
  const end = begin + Number.parseInt(text, 10);
  return [bytes.toString("utf8", begin, end), bytes.toString("utf8", end)];
}
