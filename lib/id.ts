/**
 * Ids: their form, how they are made, and the partition they hash to.
 *
 *   message, entry, connection:  01JDG3S8QK 7XN4P2 00A1
 *                                └ time ──┘ └ who ┘└ count ┘     20 characters of Crockford base 32, sortable by time
 *                                  48 bit ms  30 bit  20 bit
 *
 * `who` is drawn once per process and `count` runs on from a random start, so one process never repeats itself within a
 * millisecond (2^20 ids) and two processes collide in a millisecond with a chance of 2^-30 times 2^-20 per pair of ids.
 * A record that is asked for by its id alone (delayed and half messages) has a placed id: `-` and its partition behind it.
 * Crypto randomness per id was tried: it costs more than the rest of a send's parsing.
 */

import { assert } from "./assert.ts";

declare const brand: unique symbol;
type Branded<T, B extends string> = T & { readonly [brand]: B };

export type UserId = Branded<string, "UserId">;
export type ConversationId = Branded<string, "ConversationId">;

/** The two id alphabets of the wire. `:` `{` `}` never: they would forge keys and hash tags. */
export const USER_ID_PATTERN = /^[A-Za-z0-9_.@|+=-]{1,128}$/;
export const ID_PATTERN = /^[A-Za-z0-9_.-]{1,64}$/;

const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TIME_CHARACTERS = 10;
const COUNT_LIMIT = 2 ** 20;

const random = crypto.getRandomValues(new Uint32Array(2));
const who = encode(random[0]! % 2 ** 30, 6);
let count = random[1]! % COUNT_LIMIT;
let lastMs = -1;
let lastTime = "";

/** Every two characters there are: of an id nearly all its cost was to encode its count one by one. */
const PAIRS = Array.from({ length: 32 * 32 }, (_, i) => ALPHABET[i >> 5]! + ALPHABET[i & 31]!);

function encode(value: number, characters: number): string {
  let text = "";
  for (let rest = value, i = 0; i < characters; i++) {
    text = ALPHABET[rest % 32] + text;
    rest = Math.floor(rest / 32);
  }
  return text;
}

/** A new id, unique across processes and sortable by the given time in ms. */
export function newId(nowMs: number): string {
  if (nowMs !== lastMs) {
    lastMs = nowMs;
    lastTime = encode(nowMs, TIME_CHARACTERS);
  }
  count = (count + 1) % COUNT_LIMIT;
  return lastTime + who + PAIRS[count >> 10]! + PAIRS[count & 1_023]!;
}

const PLACED_ID_PATTERN = /^[0-9A-HJKMNP-TV-Z]{20}-(0|[1-9]\d{0,3})$/;

/** A new id that tells in which partition its record lies. */
export function newPlacedId(nowMs: number, partition: number): string {
  return `${newId(nowMs)}-${partition}`;
}

/** The partition that a placed id names, or undefined when it is none or the partition is not one of `partitions`. */
export function partitionOfPlacedId(id: string, partitions: number): number | undefined {
  const partition = Number(PLACED_ID_PATTERN.exec(id)?.[1]);
  return partition < partitions ? partition : undefined;
}

/** The time in ms that a newId carries. */
export function timeOfId(id: string): number {
  let ms = 0;
  for (let i = 0; i < TIME_CHARACTERS; i++) ms = ms * 32 + ALPHABET.indexOf(id[i]!);
  return ms;
}

/**
 * The partition 0..partitions-1 of an id: FNV-1a over UTF-16 units with murmur3's finaliser. Fixed for ever: it decides
 * where data lies. (Plain FNV-1a spreads short numbered ids unevenly over 16.)
 */
export function partitionOf(id: string, partitions: number): number {
  assert(partitions >= 1 && partitions <= 1024, `partitions must be 1..1024, not ${partitions}`);
  let hash = 0x811c9dc5;
  for (let i = 0; i < id.length; i++) hash = Math.imul(hash ^ id.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) % partitions;
}

/** The one direct conversation of a pair, the same whoever asks: a digest, for two user ids do not fit in 64 characters. */
export async function directConversationId(a: string, b: string): Promise<ConversationId> {
  const pair = a < b ? `${a}\n${b}` : `${b}\n${a}`;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(pair)));
  const hex = Array.from(digest.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `d-${hex}` as ConversationId;
}
