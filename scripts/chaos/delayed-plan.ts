/** What the campaign on delayed messages is about: the topic, the fates of its messages, the orders to its publishers, the evidence. */

import * as v from "valibot";
import { type DelayedResult, defineTopic } from "../../lib/mq/index.ts";
import type { Random } from "./random.ts";

export const delayedNumbers = defineTopic("chaos.delayed", { schema: v.strictObject({ n: v.number() }) });

/** Publisher processes; the numbers are shared out among them. */
export const PUBLISHERS = 2;

/** What its publisher does with a message that waits. */
export type Fate = "none" | "cancel" | "move";

/** In hundredths; the others are left alone. */
const CANCELLED = 5;
const MOVED = 10;

export function fateOf(random: Random): Fate {
  const of = random.next() * 100;
  if (of < CANCELLED) return "cancel";
  return of < CANCELLED + MOVED ? "move" : "none";
}

export interface PublisherOrder {
  readonly name: string;
  readonly redisUrl: string;
  readonly evidencePath: string;
  readonly seed: number;
  readonly from: number;
  readonly to: number;
  readonly perSecond: number;
  /** Messages are due within so long from their publication. */
  readonly spreadMs: number;
}

export type PublisherEvent = { readonly type: "published"; readonly count: number } | { readonly type: "finished" };

/** Each is written down before, respectively after, the call. A call without an outcome is repeated until it has one. */
export type DelayedLine =
  | { readonly e: "asked"; readonly n: number; readonly due: number }
  | { readonly e: "kept"; readonly n: number; readonly id: string }
  | { readonly e: "cancelled"; readonly n: number; readonly result: DelayedResult }
  | { readonly e: "moving"; readonly n: number; readonly to: number }
  | { readonly e: "moved"; readonly n: number; readonly result: DelayedResult };
