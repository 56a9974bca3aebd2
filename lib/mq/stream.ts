/** What the queue knows of Redis Streams beside reading and appending: the order of entry ids, and a stream's counts. */

import type { RedisClient } from "../redis/index.ts";

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
