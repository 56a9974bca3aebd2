/**
 * Reads an IRC channel log, dirt and all. Lines end with LF (a CR before it belongs to the ending); each is one of
 *
 *   [03:10] <nick> text                       said: one message, the text byte for byte from behind the one space
 *   === nick [user@host] has joined #channel  joined
 *   === nick [user@host] has left #channel    left (also "has quit")
 *   === a is now known as b                   renamed
 *   anything else                             other: actions, modes, notices, blank lines. Counted, not sent.
 *
 * Bytes that are not UTF-8 become U+FFFD, counted. A text that is empty or longer than the wire takes cannot be sent: counted.
 */

import { LIMITS, utf8Bytes } from "../../lib/im/protocol.ts";

export type LogEvent =
  /** `minute` of the day. */
  | {
      readonly kind: "said";
      readonly line: number;
      readonly minute: number;
      readonly nick: string;
      readonly text: string;
    }
  | { readonly kind: "joined" | "left"; readonly line: number; readonly nick: string }
  | { readonly kind: "renamed"; readonly line: number; readonly nick: string; readonly to: string };

export interface LogCounts {
  lines: number;
  said: number;
  /** `[time] <nick>` with nothing behind it, and texts above the limit: not sent. */
  empty: number;
  tooLong: number;
  joined: number;
  left: number;
  renamed: number;
  other: number;
  /** Lines with bytes that are not UTF-8, and the U+FFFD that took their place. */
  repairedLines: number;
  replacements: number;
}

export interface ParsedLog {
  readonly events: readonly LogEvent[];
  readonly counts: LogCounts;
}

const SAID = /^\[(\d\d):(\d\d)\] <([^>]+)>(?: ([\s\S]*))?$/;
const JOINED = /^=== (\S+) \[.*\] +has joined /;
const LEFT = /^=== (\S+) \[.*\] +has (?:left|quit)\b/;
const RENAMED = /^=== (\S+) is now known as (\S+)\s*$/;

const LF = 0x0a;
const CR = 0x0d;
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lossy = new TextDecoder("utf-8", { ignoreBOM: true });
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];
const REPLACEMENT = "\uFFFD";

/** Reads a whole file. Never throws: what it does not understand it counts. */
export function parseLog(bytes: Uint8Array): ParsedLog {
  const counts: LogCounts = {
    ...{ lines: 0, said: 0, empty: 0, tooLong: 0, joined: 0, left: 0, renamed: 0, other: 0 },
    ...{ repairedLines: 0, replacements: 0 },
  };
  const events: LogEvent[] = [];
  for (const raw of linesOf(bytes)) {
    counts.lines += 1;
    const event = toEvent(decode(raw, counts), counts.lines, counts);
    if (event) events.push(event);
  }
  return { events, counts };
}

function* linesOf(bytes: Uint8Array): Generator<Uint8Array> {
  let start = BYTE_ORDER_MARK.every((byte, i) => bytes[i] === byte) ? BYTE_ORDER_MARK.length : 0;
  while (start < bytes.length) {
    const found = bytes.indexOf(LF, start);
    const end = found < 0 ? bytes.length : found;
    yield bytes.subarray(start, end > start && bytes[end - 1] === CR ? end - 1 : end);
    start = end + 1;
  }
}

function decode(raw: Uint8Array, counts: LogCounts): string {
  try {
    return strict.decode(raw);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    const repaired = lossy.decode(raw);
    counts.repairedLines += 1;
    counts.replacements += repaired.split(REPLACEMENT).length - 1 - genuineReplacements(raw);
    return repaired;
  }
}

/** U+FFFD that the line itself holds, as the bytes EF BF BD. */
function genuineReplacements(raw: Uint8Array): number {
  let found = 0;
  for (let i = 0; i + 2 < raw.length; i++)
    if (raw[i] === 0xef && raw[i + 1] === 0xbf && raw[i + 2] === 0xbd) found += 1;
  return found;
}

function toEvent(text: string, line: number, counts: LogCounts): LogEvent | undefined {
  const said = SAID.exec(text);
  if (said) {
    const [, hours, minutes, nick, words = ""] = said;
    const bytes = utf8Bytes(words);
    if (bytes === 0) counts.empty += 1;
    else if (bytes > LIMITS.textBytes) counts.tooLong += 1;
    else {
      counts.said += 1;
      return { kind: "said", line, minute: Number(hours) * 60 + Number(minutes), nick: nick!, text: words };
    }
    return undefined;
  }
  const renamed = RENAMED.exec(text);
  if (renamed) {
    counts.renamed += 1;
    return { kind: "renamed", line, nick: renamed[1]!, to: renamed[2]! };
  }
  for (const [kind, pattern] of [
    ["joined", JOINED],
    ["left", LEFT],
  ] as const) {
    const nick = pattern.exec(text)?.[1];
    if (nick === undefined) continue;
    counts[kind] += 1;
    return { kind, line, nick };
  }
  counts.other += 1;
  return undefined;
}
