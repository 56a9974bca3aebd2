/**
 * Redriving: dead letters go back to the group that gave up on them, and to it alone. One script appends the message anew, addressed
 * to the group, and removes the letter; so it is in one of both places, takes the tail of its key in every mode, and other groups
 * pass it over. Oldest first, so that letters of one key keep their order. At most 3 times per message.
 */

import { defineScript } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import redriveLua from "../redis/lua/mq-redrive.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { comparePositions, formatLetterId, type LetterPosition } from "./letter-scan.ts";

/** A message that failed after three returns fails for a reason that redriving does not heal (design.md §6). */
const REDRIVES_MAX = 3;
/** Letters and bytes per script call: a few ms of Redis. */
const CHUNK_MAX = 100;
const CHUNK_BYTES_MAX = 2 * 1024 * 1024;

/**
 * `redriven`; `not_found` it is gone: evicted, too old, or redriven before; `limit` it came back 3 times already; `expired` its
 * `expireAt` has passed; `malformed` the entry was no message. Only `redriven` changes anything.
 */
export type RedriveResult = "redriven" | "not_found" | "limit" | "expired" | "malformed";

export interface RedriveFilter {
  readonly key?: string;
  /** A text that occurs in one of the errors. */
  readonly error?: string;
  /** Buried before, and at or after, these Unix ms. */
  readonly before?: number;
  readonly after?: number;
}

const redriveScript = defineScript({
  name: "mqRedrive",
  lua: [appendLua, redriveLua],
  keys: ["stream", "dead", "lease"],
  args: ["group", "redrivesMax", "bytesMax", "isDry"],
  hasRest: true,
  decode: (reply) => reply as RedriveResult[],
});

/** Redrives these letters; the results are in their order. At most once each, however often it is called. Throws Redis errors. */
export async function redriveLetters(
  context: QueueContext,
  topic: string,
  group: string,
  letters: readonly LetterPosition[],
  isDry = false,
): Promise<{ readonly id: string; readonly result: RedriveResult }[]> {
  const byPartition = new Map<number, LetterPosition[]>();
  for (const letter of [...letters].sort(comparePositions)) {
    const others = byPartition.get(letter.partition);
    if (others) others.push(letter);
    else byPartition.set(letter.partition, [letter]);
  }
  const results = new Map<string, RedriveResult>();
  await Promise.all(
    [...byPartition].map(async ([partition, rest]) => {
      // A partition that does not exist has no letters.
      if (partition >= context.keys.partitions) return;
      for (let first = 0; first < rest.length; ) {
        const chunk = rest.slice(first, first + CHUNK_MAX);
        const outcomes = await redriveChunk(context, topic, group, partition, chunk, isDry);
        for (const [i, outcome] of outcomes.entries()) results.set(formatLetterId(chunk[i]!), outcome);
        first += outcomes.length;
      }
    }),
  );
  return letters.map((letter) => {
    const id = formatLetterId(letter);
    return { id, result: results.get(id) ?? "not_found" };
  });
}

/** At least the first of the letters. */
async function redriveChunk(
  { keys, redis, metrics }: QueueContext,
  topic: string,
  group: string,
  partition: number,
  letters: readonly LetterPosition[],
  isDry: boolean,
): Promise<readonly RedriveResult[]> {
  const outcomes = await redriveScript(redis.commands, {
    stream: keys.topic(topic, partition),
    dead: keys.deadLetters(topic, partition, group),
    lease: keys.lease(topic, partition, group),
    group,
    redrivesMax: REDRIVES_MAX,
    bytesMax: CHUNK_BYTES_MAX,
    isDry: isDry ? "1" : "0",
    restArgs: letters.map(({ entry }) => entry),
  });
  const redriven = outcomes.filter((outcome) => outcome === "redriven").length;
  if (!isDry && redriven > 0) metrics.redriven.inc({ topic, group }, redriven);
  return outcomes;
}

/** A filter's times as XRANGE takes them. */
export function boundsOf({ after, before }: RedriveFilter): { readonly from: string; readonly to: string } {
  return { from: after === undefined ? "-" : `${after}-0`, to: before === undefined ? "+" : `(${before}-0` };
}
