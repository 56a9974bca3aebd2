/** Where the groups of a topic stand: for the command line, metrics and tests. A few commands per partition and group. */

import type { GroupMode, QueueContext } from "./consumer.ts";
import { timeOfEntry } from "./message.ts";
import { groupsOf, type RegisteredGroup } from "./retention.ts";
import { parseAside, sideKeys } from "./side.ts";
import { countBehind, type StreamFacts, streamFacts } from "./stream.ts";
import { streamGroupOf } from "./stream-group.ts";
import type { AnyTopic } from "./topic.ts";

export interface GroupDescription {
  readonly group: string;
  readonly mode: GroupMode;
  /** Messages that the group has not finished. */
  readonly lag: number;
  /** Of them, handed out or waiting behind a retry, as of the last commit. */
  readonly open: number;
  /** Age of the oldest unfinished message, ms; 0 when there is none. Of those aside: since the key stands there. */
  readonly oldestMs: number;
  readonly deadLetters: number;
  /** Keys that wait for an operator's unpark. */
  readonly parkedKeys: number;
  /** Unfinished messages that stand aside, behind keys that cannot go on. */
  readonly sideMessages: number;
  /** By partition, the member that holds its lease; undefined in concurrent groups and where nobody does. */
  readonly owners: readonly (string | undefined)[];
  /** What an operator ordered: no member takes anything since then. */
  readonly paused: { readonly at: number; readonly reason: string } | undefined;
}

export interface TopicDescription {
  readonly topic: string;
  readonly partitions: number;
  /** Entries in the streams, finished or not. */
  readonly length: number;
  readonly groups: readonly GroupDescription[];
}

/** Keys aside whose age is looked at, per partition and group: about 1 ms of Redis. */
const ASIDE_LOOK = 250;
/** Entries counted one by one, per partition and group: about 1 ms of Redis. */
const COUNT_MAX = 500;

/** One group in one partition. */
interface Standing {
  readonly group: string;
  readonly mode: GroupMode;
  readonly lag: number;
  readonly open: number;
  readonly oldestMs: number;
  readonly deadLetters: number;
  readonly parkedKeys: number;
  readonly sideMessages: number;
  readonly owner: string | undefined;
}

/** Describes a topic. Throws Redis errors. */
export async function describeTopic(context: QueueContext, topic: AnyTopic): Promise<TopicDescription> {
  const { keys } = context;
  const partitions = await Promise.all(
    Array.from({ length: keys.partitions }, async (_, partition) => {
      const stream = keys.topic(topic.name, partition);
      const [facts, groups] = await Promise.all([
        streamFacts(context.redis.commands, stream),
        groupsOf(context, topic.name, partition),
      ]);
      const standings = await Promise.all(
        groups.map((registered) => standingOf(context, topic.name, partition, registered, facts)),
      );
      return { length: facts?.length ?? 0, standings };
    }),
  );
  const names = [...new Set(partitions.flatMap(({ standings }) => standings.map(({ group }) => group)))].sort();
  const orders = await Promise.all(
    names.map((group) => context.redis.commands.hmget(keys.groupControl(topic.name, group), "paused", "reason")),
  );
  const groups = names.map((group, i) => {
    const [pausedAt, reason] = orders[i]!;
    const ofPartitions = partitions.map(({ standings }) => standings.find((standing) => standing.group === group));
    const present = ofPartitions.filter((standing) => standing !== undefined);
    const sum = (of: (standing: Standing) => number) => present.reduce((total, standing) => total + of(standing), 0);
    return {
      group,
      mode: present[0]!.mode,
      lag: sum(({ lag }) => lag),
      open: sum(({ open }) => open),
      oldestMs: Math.max(...present.map(({ oldestMs }) => oldestMs)),
      deadLetters: sum(({ deadLetters }) => deadLetters),
      parkedKeys: sum(({ parkedKeys }) => parkedKeys),
      sideMessages: sum(({ sideMessages }) => sideMessages),
      owners: ofPartitions.map((standing) => standing?.owner),
      paused: pausedAt ? { at: Number(pausedAt), reason: reason ?? "" } : undefined,
    };
  });
  return {
    topic: topic.name,
    partitions: keys.partitions,
    length: partitions.reduce((total, { length }) => total + length, 0),
    groups,
  };
}

async function standingOf(
  context: QueueContext,
  topic: string,
  partition: number,
  { group, mode, generation }: RegisteredGroup,
  facts: StreamFacts | undefined,
): Promise<Standing> {
  const { keys, redis, clock } = context;
  const [fields, deadLetters, aside] = await Promise.all([
    redis.commands.hmget(keys.lease(topic, partition, group), "owner", "checkpoint", "read", "open"),
    redis.commands.xlen(keys.deadLetters(topic, partition, group)),
    mode === "ordered" ? standingAside(context, topic, partition, group) : NOTHING_ASIDE,
  ]);
  const stream = keys.topic(topic, partition);
  const [owner, checkpoint, read, open] = fields;
  const place =
    mode === "ordered"
      ? orderedPlace(checkpoint ?? "0-0", Number(read ?? 0), open ?? "", facts)
      : await concurrentPlace(context, stream, streamGroupOf(group, generation), facts);
  const oldest = place.lag === 0 ? undefined : (place.oldest ?? (await firstAfter(context, stream, place.position)));
  const since = Math.min(oldest === undefined ? Number.POSITIVE_INFINITY : timeOfEntry(oldest), aside.sinceMs);
  return {
    group,
    mode,
    lag: place.lag + aside.messages,
    open: place.open + aside.messages,
    oldestMs: Number.isFinite(since) ? Math.max(0, clock.now() - since) : 0,
    deadLetters,
    parkedKeys: aside.parked,
    sideMessages: aside.messages,
    owner: owner || undefined,
  };
}

interface StandingAside {
  readonly messages: number;
  readonly parked: number;
  /** Since when the first key stands aside, of those looked at; Infinity when none does. */
  readonly sinceMs: number;
}

const NOTHING_ASIDE: StandingAside = { messages: 0, parked: 0, sinceMs: Number.POSITIVE_INFINITY };

async function standingAside(
  { keys, redis }: QueueContext,
  topic: string,
  partition: number,
  group: string,
): Promise<StandingAside> {
  const { aside, asideDue, side } = sideKeys(keys, topic, partition, group);
  const { commands } = redis;
  const [standing, due, messages] = await Promise.all([
    commands.hlen(aside),
    commands.zcard(asideDue),
    commands.hlen(side),
  ]);
  if (standing === 0) return NOTHING_ASIDE;
  const [, fields] = await commands.hscan(aside, 0, "COUNT", ASIDE_LOOK);
  const records = fields.flatMap((text, i) => (i % 2 === 1 ? [parseAside(text)] : []));
  const sinceMs = Math.min(...records.map((record) => record?.sinceMs ?? Number.POSITIVE_INFINITY));
  // What is parked waits for nothing that is due.
  return { messages, parked: Math.max(0, standing - due), sinceMs };
}

interface Place {
  readonly lag: number;
  readonly open: number;
  /** The oldest open entry, when one is. */
  readonly oldest: string | undefined;
  /** All up to here is finished or open. */
  readonly position: string;
}

function orderedPlace(checkpoint: string, read: number, openText: string, facts: StreamFacts | undefined): Place {
  const open = openText === "" ? [] : openText.split(" ");
  const unread = facts ? Math.min(facts.length, Math.max(0, facts.added - read)) : 0;
  return { lag: unread + open.length, open: open.length, oldest: open[0], position: checkpoint };
}

async function concurrentPlace(
  { redis }: QueueContext,
  stream: string,
  group: string,
  facts: StreamFacts | undefined,
): Promise<Place> {
  const nothing: Place = { lag: 0, open: 0, oldest: undefined, position: "0-0" };
  if (!facts) return nothing;
  const replies = (await redis.commands.xinfo("GROUPS", stream)) as unknown[][];
  const reply = replies.find((fields) => fields[fields.indexOf("name") + 1] === group);
  if (!reply) return { ...nothing, lag: facts.length };
  const of = (name: string) => reply[reply.indexOf(name) + 1];
  const position = String(of("last-delivered-id"));
  const open = Number(of("pending"));
  const behind = position === facts.last ? 0 : await countBehind(redis.commands, stream, position, COUNT_MAX);
  // Beyond what is worth counting, Redis' own count is near enough.
  const lag = behind < COUNT_MAX ? behind : Math.max(behind, Number(of("lag") ?? 0));
  const pending =
    open > 0 ? ((await redis.commands.xpending(stream, group)) as unknown as [number, string]) : undefined;
  return { lag: lag + open, open, oldest: pending?.[1], position };
}

async function firstAfter({ redis }: QueueContext, stream: string, position: string): Promise<string | undefined> {
  const [entry] = await redis.commands.xrange(stream, `(${position}`, "+", "COUNT", 1);
  return entry?.[0];
}
