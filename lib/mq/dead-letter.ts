/**
 * Dead letters: what a group gave up on, kept with the reason, bounded in number and time. The move is one script with the
 * ack or the commit (lease.ts, delivery-lease.ts), so a message is never in both places and never in neither.
 */

import type { QueueContext } from "./consumer.ts";
import { Bury, type Delivery } from "./message.ts";

/** Per topic and group, over all partitions (design.md §6); the oldest go first, counted. */
const DEAD_LETTERS_MAX = 100_000;
/** A week leaves an operator a weekend. */
export const DEAD_LETTER_MS = 7 * 24 * 3_600_000;
/** An error text says what is wrong in its first lines. */
const ERROR_LENGTH_MAX = 1_000;

export interface DeadLetter {
  readonly entry: string;
  readonly reason: BuryReason;
  readonly error: string;
  /** As mq_bury takes them. */
  readonly values: readonly string[];
}

/** `reason`: `bury` the handler said so, `invalid` the schema did, `attempts` were used up, `poison` crashed its holders. */
export type BuryReason = "bury" | "invalid" | "attempts" | "poison";

export function deadLetterOf<D>(delivery: Delivery<D>, reason: BuryReason, error: unknown): DeadLetter {
  const { entry, attempt, firstFailureMs, history } = delivery;
  const parts = delivery.isWellFormed ? delivery.parts : ["", "", "", "", JSON.stringify(delivery.fields), "", ""];
  const text = textOf(error);
  const values = [
    entry,
    ...parts,
    reason,
    text,
    String(attempt),
    String(firstFailureMs || ""),
    JSON.stringify(history),
  ];
  return { entry, reason, error: text, values };
}

/** Why a handler's error buries a message at once, or undefined when it is to be tried again. */
export function buryReasonOf(error: unknown): BuryReason | undefined {
  if (!(error instanceof Bury)) return undefined;
  return error.name === "InvalidMessage" ? "invalid" : "bury";
}

/** The bound of one partition's dead letters. */
export function deadLettersMax({ keys }: QueueContext): number {
  return Math.ceil(DEAD_LETTERS_MAX / keys.partitions);
}

export function textOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.slice(0, ERROR_LENGTH_MAX);
}
