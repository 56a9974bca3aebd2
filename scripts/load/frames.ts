/**
 * The frames of a load run, built and read without JSON: a `message.send` whose number is overwritten in place, and the number
 * found again in the reply's id and in the notification's text.
 *
 *   sent      {"jsonrpc":"2.0","id":1000000042,"method":"message.send","params":{…,"clientId":"x-1000000042",
 *             "body":{"text":"1000000042 xxxx…"}}}
 *   reply     {"jsonrpc":"2.0","id":1000000042,"result":…        the sender's ack
 *   message   {"jsonrpc":"2.0","method":"message",…"text":"1000000042 xxxx…   at the other members
 */

import { encodeFrame } from "./wire.ts";

/** Numbers have a fixed width, so that a template is overwritten in place. */
const FIRST = 1_000_000_000;
const DIGITS = 10;
const PREFIX = '{"jsonrpc":"2.0","';
const ID = Buffer.from(`${PREFIX}id":`);
const METHOD = Buffer.from(`${PREFIX}method":"`);
const MESSAGE = Buffer.from('message"');
const TEXT = Buffer.from('"text":"');
const RESULT = Buffer.from(',"result":');
const QUOTE = 0x22;

export interface SendTemplate {
  /** The frame of message `n`; the same bytes again at the next call. */
  frame(n: number): Buffer;
}

/** `run` makes the client ids of one run differ from another's. */
export function createSendTemplate(run: string, conversation: string, textBytes: number): SendTemplate {
  const number = String(FIRST);
  const text = `${number} ${"x".repeat(textBytes)}`.slice(0, textBytes);
  const payload =
    `${PREFIX}id":${number},"method":"message.send","params":{"conversation":"${conversation}",` +
    `"clientId":"${run}-${number}","body":{"text":"${text}"}}}`;
  const frame = encodeFrame(payload);
  const places: number[] = [];
  for (let at = frame.indexOf(number); at >= 0; at = frame.indexOf(number, at + DIGITS)) places.push(at);
  return {
    frame(n) {
      let value = FIRST + n;
      for (let digit = DIGITS - 1; digit >= 0; digit--) {
        const byte = 0x30 + (value % 10);
        value = Math.floor(value / 10);
        for (const place of places) frame[place + digit] = byte;
      }
      return frame;
    },
  };
}

export type Incoming =
  | { readonly kind: "ack"; readonly n: number }
  | { readonly kind: "refused"; readonly n: number; readonly error: string }
  | { readonly kind: "message"; readonly n: number }
  | { readonly kind: "other" };

/** Kept and overwritten: a frame's reader allocates nothing. */
const seen = { kind: "other" as Incoming["kind"], n: 0, error: "" };
/** Where the text began in the last notification: the next one differs by a digit at most. */
let textAt = 0;

/** What a frame says. The result is valid until the next call. */
export function readFrame(chunk: Buffer, start: number, end: number): Incoming {
  seen.kind = "other";
  if (startsWith(chunk, start, ID)) {
    const at = start + ID.length;
    seen.n = readNumber(chunk, at);
    if (startsWith(chunk, at + DIGITS, RESULT)) seen.kind = "ack";
    else if (seen.n >= 0) {
      seen.kind = "refused";
      seen.error = chunk.toString("utf8", at + DIGITS, end);
    }
  } else if (startsWith(chunk, start, METHOD) && startsWith(chunk, start + METHOD.length, MESSAGE)) {
    let at = start + textAt;
    if (textAt === 0 || !startsWith(chunk, at, TEXT)) {
      at = chunk.indexOf(TEXT, start);
      if (at < 0 || at >= end) return seen as Incoming;
      textAt = at - start;
    }
    seen.n = readNumber(chunk, at + TEXT.length);
    if (seen.n >= 0) seen.kind = "message";
  }
  return seen as Incoming;
}

function startsWith(chunk: Buffer, at: number, wanted: Buffer): boolean {
  for (let i = 0; i < wanted.length; i++) if (chunk[at + i] !== wanted[i]) return false;
  return true;
}

function readNumber(chunk: Buffer, at: number): number {
  let value = 0;
  for (let i = 0; i < DIGITS; i++) {
    const byte = chunk[at + i]!;
    if (byte === QUOTE || byte < 0x30 || byte > 0x39) return -1;
    value = value * 10 + byte - 0x30;
  }
  return value - FIRST;
}
