/**
 * Taking somebody's name out of a topic before its time: what names him and every group has finished is deleted, with what groups
 * gave up on and what waits for its due time. What a group has not finished stays, for it is that group's to read: it is counted, and
 * a later call finds it finished.
 *
 * Streams know no names, so all of a topic is looked through, in slices of about 1 ms of Redis: 2.3 µs an entry.
 */

import { AppError } from "../errors.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import expungeLua from "../redis/lua/mq-expunge.lua" with { type: "text" };
import progressLua from "../redis/lua/mq-progress.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { parseDelayed, shelfKeys } from "./delayed-record.ts";
import { groupsOf, type RegisteredGroup } from "./retention.ts";
import { streamGroupOf } from "./stream-group.ts";
import type { AnyTopic } from "./topic.ts";

/** Entries and bytes of one script. */
const SCAN_MAX = 500;
const SCAN_BYTES_MAX = 2 * 1024 * 1024;
/** Dead letters of one read: each has up to 256 KB of data. */
const LETTERS_PER_READ = 32;
/** Fields of one look into a hash. */
const FIELDS_PER_SCAN = 500;
/** Groups that come or go while a partition is looked at: each lets it be looked at again. */
const TRIES_MAX = 10;

/** How messages of a topic name somebody. */
export interface Name {
  /** By their order key; undefined where keys are other things. */
  readonly key?: string | undefined;
  /** By any of these texts in their data. */
  readonly texts: readonly string[];
}

export interface Expunged {
  /** Entries, dead letters and delayed messages that are gone. */
  readonly entries: number;
  readonly letters: number;
  readonly delayed: number;
  /** Group -> messages that name him and that it has not finished, those aside included. */
  readonly waiting: ReadonlyMap<string, number>;
}

const expungeScript = defineScript({
  name: "mqExpunge",
  lua: [progressLua, expungeLua],
  keys: ["stream", "groups"],
  args: ["after", "key", "scanMax", "bytesMax", "textCount"],
  hasRest: true,
  decode: (reply) => reply as [-1] | [gone: number, last: string, isEnd: 0 | 1, waiting: number[]],
});

/** Idempotent. Throws AppError OVERLOADED or UNKNOWN_OUTCOME for Redis errors. */
export async function expunge(context: QueueContext, topic: AnyTopic, name: Name): Promise<Expunged> {
  const found = { entries: 0, letters: 0, delayed: 0, waiting: new Map<string, number>() };
  try {
    for (let partition = 0; partition < context.keys.partitions; partition++) {
      const groups = await expungeStream(context, topic, partition, name, found);
      for (const { group } of groups) {
        found.letters += await expungeLetters(context, topic, partition, group, name);
        count(found.waiting, group, await countAside(context, topic, partition, group, name));
      }
      found.delayed += await expungeDelayed(context, topic, partition, name);
    }
  } catch (error) {
    throw toAppError(error);
  }
  return found;
}

function count(waiting: Map<string, number>, group: string, more: number): void {
  if (more > 0) waiting.set(group, (waiting.get(group) ?? 0) + more);
}

/** Answers with the groups of the partition. */
async function expungeStream(
  context: QueueContext,
  topic: AnyTopic,
  partition: number,
  { key = "", texts }: Name,
  found: { entries: number; waiting: Map<string, number> },
): Promise<readonly RegisteredGroup[]> {
  const { keys, redis } = context;
  let after = "";
  let groups = await groupsOf(context, topic.name, partition);
  for (let tries = 0; tries < TRIES_MAX; ) {
    const reply = await expungeScript(redis.commands, {
      ...{ stream: keys.topic(topic.name, partition), groups: keys.groups(topic.name, partition) },
      ...{ after, key, scanMax: SCAN_MAX, bytesMax: SCAN_BYTES_MAX, textCount: texts.length },
      restKeys: groups.map(({ group }) => keys.lease(topic.name, partition, group)),
      restArgs: [
        ...texts,
        ...groups.flatMap(({ group, mode, generation }) => [streamGroupOf(group, generation), mode]),
      ],
    });
    if (reply[0] === -1) {
      tries += 1;
      groups = await groupsOf(context, topic.name, partition);
      continue;
    }
    const [gone, last, isEnd, waiting] = reply;
    found.entries += gone;
    for (const [i, { group }] of groups.entries()) count(found.waiting, group, waiting![i]!);
    if (isEnd === 1) return groups;
    after = last!;
  }
  throw new AppError("OVERLOADED", `The groups of ${topic.name} come and go`, { retryAfterMs: 200 });
}

async function expungeLetters(
  { keys, redis }: QueueContext,
  { name }: AnyTopic,
  partition: number,
  group: string,
  { key, texts }: Name,
): Promise<number> {
  const dead = keys.deadLetters(name, partition, group);
  let removed = 0;
  for (let from = "-"; ; ) {
    const letters = await redis.commands.xrange(dead, from, "+", "COUNT", LETTERS_PER_READ);
    const naming = letters.filter(([, fields]) => {
      const of = (field: string) => fields[fields.indexOf(field) + 1] ?? "";
      return (key !== undefined && of("k") === key) || holds(of("d"), texts);
    });
    if (naming.length > 0) removed += await redis.commands.xdel(dead, ...naming.map(([entry]) => entry));
    if (letters.length < LETTERS_PER_READ) return removed;
    from = `(${letters.at(-1)![0]}`;
  }
}

/** What stands aside is copied out of the stream, and is the group's as what it has not read is. */
async function countAside(
  context: QueueContext,
  { name }: AnyTopic,
  partition: number,
  group: string,
  { key, texts }: Name,
): Promise<number> {
  let aside = 0;
  await eachField(context, context.keys.side(name, partition, group), (_entry, message) => {
    if (holds(message, texts) || (key !== undefined && message.includes(` ${key} `))) aside += 1;
  });
  return aside;
}

/** Ended records go as well: they keep their message's key for a day. */
async function expungeDelayed(
  context: QueueContext,
  { name }: AnyTopic,
  partition: number,
  { key, texts }: Name,
): Promise<number> {
  const { records, due, ended } = shelfKeys(context.keys, partition);
  const topics = new Map<string, string>();
  const naming = new Set<string>();
  await eachField(context, records, (field, value) => {
    if (field.endsWith(":")) {
      if (holds(value.slice(value.indexOf("\n") + 1), texts)) naming.add(field.slice(0, -1));
      return;
    }
    const record = parseDelayed(field, value);
    if (record) topics.set(field, record.topic);
    if (record && record.key === key) naming.add(field);
  });
  const ids = [...naming].filter((id) => topics.get(id) === name);
  for (const id of ids) {
    await context.redis.commands.multi().hdel(records, id, `${id}:`).zrem(due, id).zrem(ended, id).exec();
  }
  return ids.length;
}

const holds = (data: string, texts: readonly string[]) => texts.some((text) => data.includes(text));

async function eachField(
  { redis }: QueueContext,
  hash: string,
  look: (field: string, value: string) => void,
): Promise<void> {
  for (let cursor = "0"; ; ) {
    const [next, fields] = await redis.commands.hscan(hash, cursor, "COUNT", FIELDS_PER_SCAN);
    for (let i = 0; i < fields.length; i += 2) look(fields[i]!, fields[i + 1]!);
    if (next === "0") return;
    cursor = next;
  }
}
