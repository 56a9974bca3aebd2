/**
 * A topic: its name, what its messages carry, and how long they stay. A declaration without I/O, made once at module level
 * and shared by producers and consumers, so that both infer the same type.
 *
 *   export const imEvents = defineTopic("im.events", { schema: v.strictObject({ conversation: v.string() }) });
 */

import type * as v from "valibot";
import { assert } from "../assert.ts";
import { ID_PATTERN } from "../id.ts";

/** Entries stay at least this long, read or not (design.md §6). */
const RETENTION_MS = 72 * 3_600_000;
/** Finished entries beyond this many per topic go before their time: about 400 MB of chat events. */
const LENGTH_MAX = 1_000_000;
/**
 * Unread entries are never trimmed, so a group that stands still must hold up producers before Redis is full. Ten times what is kept
 * anyway: some 4 GB of chat events, ten minutes at 16 000/s.
 */
const BACKLOG_FACTOR = 10;
/** A producer that repeats itself does so within minutes; the ids are kept in memory that long. */
const DEDUP_MS = 5 * 60_000;
const DEDUP_MS_MAX = 24 * 3_600_000;

export interface TopicOptions<S extends v.GenericSchema> {
  /** What `data` holds. It must not transform: what is published is what consumers see. */
  readonly schema: S;
  /** Default 72 h. */
  readonly retentionMs?: number;
  /** Over all partitions; default 1 000 000. Only finished entries are trimmed for it. */
  readonly lengthMax?: number;
  /** Over all partitions: a topic with so many entries that its groups have not finished refuses more; default 10 × lengthMax. */
  readonly backlogMax?: number;
  /** How long a `dedupId` is remembered; default 5 min, at most 24 h. */
  readonly dedupMs?: number;
}

/** A topic where what it carries does not matter. */
export interface AnyTopic {
  readonly name: string;
  readonly retentionMs: number;
  readonly lengthMax: number;
  readonly backlogMax: number;
  readonly dedupMs: number;
}

export interface Topic<D> extends AnyTopic {
  readonly schema: v.GenericSchema<unknown, D>;
}

/** Where a partition of the topic is full, in entries. */
export function backlogOfPartition({ backlogMax }: AnyTopic, partitions: number): number {
  return Math.ceil(backlogMax / partitions);
}

/** Declares a topic. A name outside the id alphabet or a limit out of range is a programmer's error. */
export function defineTopic<S extends v.GenericSchema>(
  name: string,
  { schema, retentionMs = RETENTION_MS, lengthMax = LENGTH_MAX, dedupMs = DEDUP_MS, ...rest }: TopicOptions<S>,
): Topic<v.InferOutput<S>> {
  const { backlogMax = BACKLOG_FACTOR * lengthMax } = rest;
  assert(ID_PATTERN.test(name), `topic ${name}: a name is 1..64 of [A-Za-z0-9_.-]`);
  assert(retentionMs > 0 && lengthMax > 0, `topic ${name}: retentionMs and lengthMax must be above 0`);
  assert(backlogMax >= lengthMax, `topic ${name}: backlogMax must be at least lengthMax`);
  assert(dedupMs > 0 && dedupMs <= DEDUP_MS_MAX, `topic ${name}: dedupMs must be 1..${DEDUP_MS_MAX}`);
  return Object.freeze({
    name,
    schema: schema as unknown as v.GenericSchema<unknown, v.InferOutput<S>>,
    retentionMs,
    lengthMax,
    backlogMax,
    dedupMs,
  });
}
