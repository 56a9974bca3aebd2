/**
 * The side queue of an ordered group in one partition, as it lies in Redis: its keys and the record of a key that stands aside.
 * The rules by which it changes are the fragment's, lib/redis/lua/mq-side.lua.
 */

import type { Keys } from "../redis/index.ts";
import type { AttemptNote } from "./message.ts";

/** `ready` or waiting for a retry; in `hand` of the partition's holder; `out` to a service; `parked` until unpark. */
export type AsideState = "ready" | "hand" | "out" | "parked";

/** What is kept of a key that stands aside; the counts are its first message's. */
export interface AsideRecord {
  readonly state: AsideState;
  readonly sinceMs: number;
  /** Failed attempts. */
  readonly failed: number;
  /** Holders that vanished with it in hand. */
  readonly losses: number;
  readonly firstFailureMs: number;
  /** Under which it is in hand or out; "0" when it is neither. */
  readonly token: string;
  /** When a service's lease ends, ms by Redis TIME. */
  readonly untilMs: number;
  readonly history: readonly AttemptNote[];
}

const STATES: Readonly<Record<string, AsideState>> = { r: "ready", h: "hand", o: "out", p: "parked" };
const RECORD = /^([rhop]) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (.*)$/s;

/** The four keys, in the order in which scripts take them. */
export function sideKeys(keys: Keys, topic: string, partition: number, group: string) {
  return {
    aside: keys.aside(topic, partition, group),
    asideDue: keys.asideDue(topic, partition, group),
    side: keys.side(topic, partition, group),
    sideOrder: keys.sideOrder(topic, partition, group),
  };
}

/** undefined when the text is none. */
export function parseAside(text: string): AsideRecord | undefined {
  const match = RECORD.exec(text);
  if (!match) return undefined;
  const [, state, since, failed, losses, first, token, until, history] = match as unknown as string[];
  return {
    state: STATES[state!]!,
    sinceMs: Number(since),
    failed: Number(failed),
    losses: Number(losses),
    firstFailureMs: Number(first),
    token: token!,
    untilMs: Number(until),
    history: JSON.parse(history!) as AttemptNote[],
  };
}
