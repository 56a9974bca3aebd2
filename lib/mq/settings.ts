/**
 * What a service may set of a topic and of a group, as schemas: the catalog checks with them, HTTP describes and parses with them,
 * so a fault is named alike everywhere. Every number has a bound; what is left out has the default of a consumer in process.
 */

import * as v from "valibot";
import { ID_PATTERN } from "../id.ts";
import { LEASE_MS_MAX, LEASE_MS_MIN, type StartPoint, TAGS_MAX } from "./consumer.ts";

const DAY_MS = 24 * 3_600_000;
/** Shorter would trim what a slow group has not even been told of. */
const RETENTION_MS_MIN = 1_000;
const RETENTION_MS_MAX = 365 * DAY_MS;
/** Some 40 GB of small messages: beyond it the topic is an archive, and belongs into one. */
const LENGTH_MAX_MAX = 100_000_000;
/** Days of retries, and then an operator should look. */
const ATTEMPTS_MAX = 1_000;
const BACKOFF_MS_MAX = DAY_MS;
const BACKOFF_STEPS_MAX = 32;
const URL_CHARACTERS_MAX = 1_000;
/** An HMAC key; shorter is guessed, longer than a hash block gains nothing. */
const SECRET_CHARACTERS_MIN = 8;
const SECRET_CHARACTERS_MAX = 256;
/** `whsec_` and a key of 16 to 128 bytes in base64 (Standard Webhooks), or any other text as it is. */
const ENCODED_SECRET_PATTERN = /^whsec_(?=.{22,172}$)[A-Za-z0-9+/]+={0,2}$/;
const TIME_MS_MAX = 8_640_000_000_000_000;

const whole = (min: number, max: number) => {
  const message = `must be a whole number from ${min} to ${max}`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
};
const oneOf = <const T extends readonly string[]>(...names: T) =>
  v.picklist(names, `must be one of ${names.join(", ")}`);

const Entry = v.pipe(v.string(), v.regex(/^\d{1,15}(-\d{1,15})?$/, "must be an entry id, <ms>-<count>"));
const Time = whole(0, TIME_MS_MAX);

/** Where to begin, in any of the forms that a service may use; toStartPoint makes one of them. */
export const StartSchema = v.union(
  [oneOf("first", "latest"), Time, Entry, v.strictObject({ time: Time }), v.strictObject({ id: Entry })],
  "must be first, latest, a time in Unix ms, an entry id, {time} or {id}",
);
export type Start = v.InferOutput<typeof StartSchema>;

export function toStartPoint(start: Start): StartPoint {
  if (typeof start === "number") return { time: start };
  if (typeof start !== "string" || start === "first" || start === "latest") return start as StartPoint;
  return { id: start };
}

export const TopicSettingsSchema = v.strictObject({
  /** How long messages stay at least, read or not. */
  retentionMs: v.optional(whole(RETENTION_MS_MIN, RETENTION_MS_MAX)),
  /** How many messages the topic keeps beyond what its groups still need; with so many unread ones producers are refused (429). */
  maxLength: v.optional(whole(1, LENGTH_MAX_MAX)),
});
export type TopicSettings = v.InferOutput<typeof TopicSettingsSchema>;

const SecretSchema = v.pipe(
  v.string(),
  v.regex(/^[\x21-\x7e]*$/, "must be visible ASCII"),
  v.minLength(SECRET_CHARACTERS_MIN, `must be at least ${SECRET_CHARACTERS_MIN} characters`),
  v.maxLength(SECRET_CHARACTERS_MAX, `must be at most ${SECRET_CHARACTERS_MAX} characters`),
  v.check(
    (secret) => !secret.startsWith("whsec_") || ENCODED_SECRET_PATTERN.test(secret),
    "must be 16 to 128 bytes in base64 after whsec_",
  ),
);

export const GroupSettingsSchema = v.strictObject({
  mode: oneOf("concurrent", "ordered", "broadcast"),
  /** Where a new group begins; default `first`. */
  start: v.optional(StartSchema, "first"),
  leaseMs: v.optional(whole(LEASE_MS_MIN, LEASE_MS_MAX)),
  /** Deliveries before a message becomes a dead letter. */
  maxAttempts: v.optional(whole(1, ATTEMPTS_MAX)),
  /** Waits between attempts: a ladder in ms, its last step repeating, or doubling from firstMs to maxMs. */
  backoff: v.optional(
    v.union(
      [
        v.pipe(v.array(whole(0, BACKOFF_MS_MAX)), v.minLength(1), v.maxLength(BACKOFF_STEPS_MAX)),
        v.strictObject({
          firstMs: whole(0, BACKOFF_MS_MAX),
          maxMs: whole(0, BACKOFF_MS_MAX),
          jitter: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1)), 0.1),
        }),
      ],
      `must be 1 to ${BACKOFF_STEPS_MAX} waits of 0 to ${BACKOFF_MS_MAX} ms, or {firstMs, maxMs, jitter?}`,
    ),
  ),
  /** Of ordered groups: what becomes of a message that used up its attempts, and of its key. */
  onPoison: v.optional(oneOf("skip", "park", "block")),
  /** Only messages with one of these tags. */
  tags: v.optional(
    v.pipe(
      v.array(v.pipe(v.string(), v.regex(ID_PATTERN, "must be 1..64 of [A-Za-z0-9_.-]"))),
      v.minLength(1, "must hold at least 1"),
      v.maxLength(TAGS_MAX, `must hold at most ${TAGS_MAX}`),
    ),
  ),
  /** Each message is sent there as a CloudEvent, signed by the secret; two secrets while one replaces the other. */
  webhook: v.optional(
    v.strictObject({
      url: v.pipe(
        v.string(),
        v.maxLength(URL_CHARACTERS_MAX, `must be at most ${URL_CHARACTERS_MAX} characters`),
        v.regex(/^https?:\/\/[\x21-\x7e]+$/, "must be an https URL in visible ASCII"),
      ),
      secret: v.union([
        SecretSchema,
        v.pipe(v.array(SecretSchema), v.minLength(2, "must be one, or two"), v.maxLength(2, "must be one, or two")),
      ]),
    }),
  ),
});
export type GroupSettings = v.InferOutput<typeof GroupSettingsSchema>;
