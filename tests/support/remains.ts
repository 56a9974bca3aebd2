/** Where a text still stands, in all of a test's Redis: names of keys, and everything that they hold, whatever their type. */

import type { RedisClient } from "../../lib/redis/index.ts";
import { contentOf } from "./content.ts";
import type { TestStore } from "./redis.ts";

/** `<key>: <what surrounds the text>` of each key that has any of the texts. */
export async function remainsIn(store: TestStore, texts: readonly string[]): Promise<string[]> {
  const contents = Object.entries(await contentOf(store));
  return contents.flatMap(([key, content]) => {
    const all = `${key}: ${JSON.stringify(content)}`;
    const text = texts.find((one) => all.includes(one));
    if (text === undefined) return [];
    const at = all.indexOf(text);
    return [`${key}: …${all.slice(Math.max(0, at - 80), at + 80)}…`];
  });
}

/** Every kind of key that there is, as its name's pattern: to see that a test has brought about what it wants to see erased. */
export async function kindsOf(redis: RedisClient, prefix: string): Promise<Set<string>> {
  const keys = await redis.keys(`${prefix}*`);
  return new Set(keys.map((key) => key.slice(prefix.length + 1).replace(/^\{[^}]*\}:?/, "")));
}
