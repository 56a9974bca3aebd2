/** What the queue knows of Redis Streams beside reading and appending: the order of entry ids, a stream's counts, and its keys. */

import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import countLua from "../redis/lua/mq-count.lua" with { type: "text" };

const countScript = defineScript({
  name: "mqCount",
  lua: countLua,
  keys: ["stream"],
  args: ["position", "upTo", "limit"],
  decode: (reply) => {
    const [count, last] = reply as [number, string];
    return { count, last };
  },
});

/** Orders stream entry ids: below 0 when `a` comes first. */
export function compareEntries(a: string, b: string): number {
  // Numbers of as many digits compare as texts do, and nearly all ids have as many: no parts need be cut out.
  if (a.length === b.length && a.indexOf("-") === b.indexOf("-")) return a < b ? -1 : a > b ? 1 : 0;
  const [aMs = "0", aCount = "0"] = a.split("-");
  const [bMs = "0", bCount = "0"] = b.split("-");
  return Number(aMs) - Number(bMs) || Number(aCount) - Number(bCount);
}

export interface StreamFacts {
  readonly length: number;
  /** Entries ever added. */
  readonly added: number;
  readonly first: string;
  readonly last: string;
}

/** XINFO STREAM, or undefined when there is no stream. */
export async function streamFacts(commands: RedisClient, stream: string): Promise<StreamFacts | undefined> {
  let reply: unknown[];
  try {
    reply = (await commands.xinfo("STREAM", stream)) as unknown[];
  } catch (error) {
    if (error instanceof Error && error.message.includes("no such key")) return undefined;
    throw error;
  }
  const of = new Map<unknown, unknown>();
  for (let i = 0; i < reply.length; i += 2) of.set(reply[i], reply[i + 1]);
  const first = of.get("first-entry") as [string] | null;
  return {
    length: Number(of.get("length")),
    added: Number(of.get("entries-added")),
    first: first?.[0] ?? String(of.get("last-generated-id")),
    last: String(of.get("last-generated-id")),
  };
}

/** Entries trimmed ahead of a reader that stands at `position`, having counted `ordinal` entries up to there. */
export function lostBehind(facts: StreamFacts, position: string, ordinal: number): number {
  const isCaughtUp = compareEntries(position, facts.last) >= 0;
  // In the midst of the stream nothing can be told: what is trimmed lies behind the reader, or before it.
  if (!isCaughtUp && compareEntries(facts.first, position) <= 0) return 0;
  return Math.max(0, (isCaughtUp ? facts.added : facts.added - facts.length) - ordinal);
}

/** Counts the entries behind a position one by one, at most `limit`. 1 µs of Redis each. */
export async function countBehind(commands: RedisClient, stream: string, position: string, limit: number) {
  return (await countScript(commands, { stream, position, upTo: "+", limit })).count;
}

/** Entries counted per script call: about 1 ms of Redis. */
const COUNT_CHUNK = 500;

/**
 * How many entries were ever added up to a position: what `read` says of a checkpoint. undefined when no entry lies behind it.
 * Counts those that do, however many they are, in small script calls.
 */
export async function ordinalOf(commands: RedisClient, stream: string, position: string): Promise<number | undefined> {
  const facts = await streamFacts(commands, stream);
  if (!facts || compareEntries(position, facts.last) >= 0) return undefined;
  let behind = 0;
  for (let from = position; compareEntries(from, facts.last) < 0; ) {
    const { count, last } = await countScript(commands, {
      ...{ stream, position: from, upTo: facts.last },
      limit: COUNT_CHUNK,
    });
    if (count === 0) break;
    behind += count;
    from = last;
  }
  // What was trimmed meanwhile was not counted, and nobody can read it any more.
  const now = await streamFacts(commands, stream);
  const isTrimmed = now !== undefined && compareEntries(now.first, position) > 0;
  return Math.max(facts.added - behind, isTrimmed ? now.added - now.length : 0);
}

/** The keys of a publication, by the names that its scripts have for them. */
export function publishKeys(keys: Keys, topic: string, partition: number) {
  return {
    stream: keys.topic(topic, partition),
    even: keys.published(topic, partition, "even"),
    odd: keys.published(topic, partition, "odd"),
    groups: keys.groups(topic, partition),
  };
}
