/**
 * From a log to what is done with it: who is a member when it begins, and then each line's act in the file's order. Membership
 * of the log is taken seriously where it is told and repaired where it is not:
 *
 *   first seen speaking, leaving or being renamed   a member from the start
 *   speaks although gone                            joins before the line
 *   joins although there, leaves although gone      nothing
 *   a is now known as b                             a leaves, b joins (unless there)
 */

import type { LogEvent } from "./parse.ts";

export type Step =
  /** `dueMs` from the file's beginning, at the log's own speed. */
  | {
      readonly kind: "send";
      readonly line: number;
      readonly dueMs: number;
      readonly user: string;
      readonly text: string;
      /** Which of the user's devices; the first, if left out. */
      readonly device?: number;
    }
  | { readonly kind: "join" | "leave"; readonly line: number; readonly user: string }
  /** Of different users, all at once. */
  | { readonly kind: "acts"; readonly line: number; readonly acts: readonly Act[] };

/** What a member does besides speaking, on which of the own devices; `target` is the line that was said. */
export type Act = { readonly user: string; readonly device: number } & (
  | { readonly kind: "edit"; readonly target: number; readonly text: string }
  | { readonly kind: "recall" | "read"; readonly target: number }
  | { readonly kind: "react"; readonly target: number; readonly emoji: string; readonly on: boolean }
  | { readonly kind: "typing" }
);

export interface Plan {
  /** Members from the start, in the order of their first appearance. */
  readonly initial: readonly string[];
  readonly steps: readonly Step[];
  /** Everyone, of the start or later. */
  readonly users: ReadonlySet<string>;
}

const DAY_MINUTES = 24 * 60;
const MINUTE_MS = 60_000;
/** As long as a user id may be. */
const USER_ID_MAX = 128;

export function toPlan(events: readonly LogEvent[]): Plan {
  const initial = membersFromTheStart(events);
  const present = new Set(initial);
  const users = new Set(initial);
  const steps: Step[] = [];
  const dueMs = dueTimes(events);

  const join = (line: number, user: string) => {
    users.add(user);
    if (present.has(user)) return;
    present.add(user);
    steps.push({ kind: "join", line, user });
  };
  const leave = (line: number, user: string) => {
    if (present.delete(user)) steps.push({ kind: "leave", line, user });
  };

  for (const [i, event] of events.entries()) {
    const { line } = event;
    const user = userIdOf(event.nick);
    if (event.kind === "said") {
      join(line, user);
      steps.push({ kind: "send", line, dueMs: dueMs[i]!, user, text: event.text });
    } else if (event.kind === "renamed") {
      if (event.to === event.nick) continue;
      leave(line, user);
      join(line, userIdOf(event.to));
    } else if (event.kind === "joined") join(line, user);
    else leave(line, user);
  }
  return { initial, steps, users };
}

function membersFromTheStart(events: readonly LogEvent[]): string[] {
  const seen = new Set<string>();
  const initial: string[] = [];
  for (const event of events) {
    if (!seen.has(event.nick) && event.kind !== "joined") initial.push(userIdOf(event.nick));
    seen.add(event.nick);
    if (event.kind === "renamed") seen.add(event.to);
  }
  return initial;
}

/** The log tells minutes only: the lines of a minute are spread evenly over it. Midnight may pass. */
function dueTimes(events: readonly LogEvent[]): number[] {
  const perMinute: { minute: number; lines: number[] }[] = [];
  let day = 0;
  for (const [i, event] of events.entries()) {
    if (event.kind !== "said") continue;
    const last = perMinute.at(-1);
    const lastOfDay = last === undefined ? event.minute : last.minute % DAY_MINUTES;
    // A clock that was set back by minutes is no new day.
    if (lastOfDay - event.minute > DAY_MINUTES / 2) day += DAY_MINUTES;
    const minute = Math.max(day + event.minute, last?.minute ?? 0);
    if (last?.minute === minute) last.lines.push(i);
    else perMinute.push({ minute, lines: [i] });
  }
  const due = new Array<number>(events.length).fill(0);
  const first = perMinute[0]?.minute ?? 0;
  for (const { minute, lines } of perMinute) {
    for (const [n, i] of lines.entries()) due[i] = (minute - first + n / lines.length) * MINUTE_MS;
  }
  return due;
}

/**
 * The user id of a nick: the same for the same nick, another for another. Bytes outside the id alphabet, and `=` itself, become
 * `=XX`; a nick too long for that becomes `=sha256.` and a digest, which no escape produces.
 */
export function userIdOf(nick: string): string {
  let id = "";
  for (const byte of new TextEncoder().encode(nick)) {
    const character = String.fromCharCode(byte);
    id += /[A-Za-z0-9_.@|+-]/.test(character) ? character : `=${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  if (id.length <= USER_ID_MAX) return id;
  return `=sha256.${new Bun.CryptoHasher("sha256").update(nick).digest("hex")}`;
}
