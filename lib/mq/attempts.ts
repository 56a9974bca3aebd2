/** What a group remembers of a delivery that failed or was lost, until it is finished: in memory, and as a line of text in Redis. */

import type { AttemptNote, Delivery } from "./message.ts";

export interface Attempts {
  readonly failed: number;
  /**
   * Leases that ran out without an answer. Beyond LOSSES_MAX two for each member that had it alone in hand, and one more while it is
   * so; and one for each service outside, which has nothing else in hand then.
   */
  readonly losses: number;
  readonly firstFailureMs: number;
  readonly history: readonly AttemptNote[];
}

export const NO_ATTEMPTS: Attempts = { failed: 0, losses: 0, firstFailureMs: 0, history: [] };

/** This many losses make a suspect, to be handed out alone; this many members lost with it alone, and it is buried (design.md §6). */
export const LOSSES_MAX = 3;

/** The losses of a suspect, as they are remembered while a member has it alone in hand. */
export function inHandAlone(losses: number): number {
  const isNoted = losses > LOSSES_MAX && (losses - LOSSES_MAX) % 2 === 1;
  return isNoted ? losses : losses + 1;
}

/** How many members were lost with it alone in hand. */
export function lostAlone(losses: number): number {
  return Math.max(0, Math.floor((losses - LOSSES_MAX) / 2));
}

/** A history is kept beside each of up to some ten thousand keys: of each error its first words. */
const ERROR_LENGTH_MAX = 200;

export function formatAttempts({ failed, losses, firstFailureMs, history }: Attempts): string {
  return `${failed} ${losses} ${firstFailureMs} ${formatHistory(history)}`;
}

export function parseAttempts(text: string): Attempts {
  const match = /^(\d+) (\d+) (\d+) (.*)$/s.exec(text);
  if (!match) return NO_ATTEMPTS;
  const history = match[4] === "" ? [] : (JSON.parse(match[4]!) as AttemptNote[]);
  return { failed: Number(match[1]), losses: Number(match[2]), firstFailureMs: Number(match[3]), history };
}

export function formatHistory(history: readonly AttemptNote[]): string {
  return JSON.stringify(history.map(([atMs, member, error]) => [atMs, member, error.slice(0, ERROR_LENGTH_MAX)]));
}

/** Makes a delivery the next attempt behind those remembered. */
export function resume<D>(delivery: Delivery<D>, { failed, firstFailureMs, history }: Attempts): void {
  delivery.attempt = failed + 1;
  delivery.firstFailureMs = firstFailureMs;
  delivery.history = history;
}
