/**
 * What is stored under a test's prefix, as it reads: without the times at which something happened or will end, so that two
 * executions of one script are told apart only by what they did.
 */

import type { RedisClient } from "../../lib/redis/index.ts";
import type { TestStore } from "./redis.ts";

/** Unix ms, by itself or as a word of a value. Entry ids, which hold a time too, are not: they say what happened. */
const TIME = /(?<![\d-])1[5-9]\d{11}(?![\d-])/g;

export async function contentOf({ redis, prefix }: TestStore): Promise<Record<string, unknown>> {
  const { commands } = redis;
  const found = (await commands.keys(`${prefix}*`)).sort();
  const contents = await Promise.all(found.map((key) => contentOfKey(commands, key)));
  return Object.fromEntries(found.map((key, i) => [key, contents[i]]));
}

async function contentOfKey(commands: RedisClient, key: string): Promise<unknown> {
  const type = await commands.type(key);
  switch (type) {
    case "none":
      return undefined;
    case "string":
      return withoutTimes(await commands.get(key));
    case "hash": {
      const fields = Object.entries(await commands.hgetall(key)).sort(([a], [b]) => (a < b ? -1 : 1));
      return withoutTimes(fields);
    }
    case "zset":
      return withoutTimes(await commands.zrange(key, "0", "-1", "WITHSCORES"));
    case "set":
      return (await commands.smembers(key)).sort();
    case "stream":
      return { entries: await commands.xrange(key, "-", "+"), groups: await groupsOf(commands, key) };
    default:
      throw new Error(`${key} holds a ${type}, which no test has stored before`);
  }
}

/** Where each consumer group stands, and who holds what how often handed out; not since when. */
async function groupsOf(commands: RedisClient, stream: string): Promise<unknown> {
  const groups = (await commands.xinfo("GROUPS", stream)) as unknown[][];
  return Promise.all(
    groups.map(async (group) => {
      const name = String(group[group.indexOf("name") + 1]);
      const pending = (await commands.xpending(stream, name, "-", "+", 1_000)) as unknown[][];
      return {
        name,
        delivered: group[group.indexOf("last-delivered-id") + 1],
        pending: pending.map(([entry, member, , count]) => [entry, member, count]),
      };
    }),
  );
}

function withoutTimes(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value).replace(TIME, "0"));
}
