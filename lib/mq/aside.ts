/**
 * Keys of ordered groups that stand aside, for operators: which they are, why, and how a parked one goes on.
 *
 * A key is parked when its first message used up its attempts in a group with `onPoison: "park"`. Until it is unparked, all that is
 * published under it is kept behind that message; then all of it is handed out, in order.
 */

import { defineScript, toAppError } from "../redis/index.ts";
import sideLua from "../redis/lua/mq-side.lua" with { type: "text" };
import unparkLua from "../redis/lua/mq-unpark.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { type AsideRecord, parseAside, sideKeys } from "./side.ts";
import type { AnyTopic } from "./topic.ts";

/** What an operator looks at; more is a matter of counting (describe). */
const LIST_MAX = 1_000;
const SCAN_COUNT = 100;
const ENTRY = /^\d+-\d+$/;

export interface KeyAside extends AsideRecord {
  readonly key: string;
  readonly partition: number;
  /** Messages of the key that stand aside, the one that cannot go on among them. */
  readonly messages: number;
}

export interface Aside {
  /** Keys that stand aside, at most 1 000, in no order. Throws AppError. */
  list(topic: AnyTopic, group: string): Promise<readonly KeyAside[]>;
  /**
   * Lets a parked key go on: its first message is tried again, with all its attempts before it, and then what came after it, in
   * order. `not_found` when it is not parked, which it is not any more when this is repeated. Throws AppError.
   */
  unpark(topic: AnyTopic, group: string, key: string): Promise<"ok" | "not_found">;
}

const unparkScript = defineScript({
  name: "mqUnpark",
  lua: [sideLua, unparkLua],
  keys: ["aside", "asideDue", "side", "sideOrder"],
  args: ["key"],
  decode: Number,
});

export function createAside(context: QueueContext): Aside {
  const { keys, redis } = context;
  const partitions = Array.from({ length: keys.partitions }, (_, partition) => partition);
  return {
    async list(topic, group) {
      try {
        const found: KeyAside[] = [];
        for (const partition of partitions) {
          if (found.length < LIST_MAX) {
            found.push(...(await listPartition(context, topic.name, partition, group, LIST_MAX - found.length)));
          }
        }
        return found;
      } catch (error) {
        throw toAppError(error);
      }
    },
    async unpark(topic, group, key) {
      // The key of a message without one is its entry id, which does not tell its partition.
      const asked = ENTRY.test(key) ? partitions : [keys.partitionOf(key)];
      try {
        const unparked = await Promise.all(
          asked.map((partition) =>
            unparkScript(redis.commands, { ...sideKeys(keys, topic.name, partition, group), key }),
          ),
        );
        return unparked.includes(1) ? "ok" : "not_found";
      } catch (error) {
        throw toAppError(error);
      }
    },
  };
}

async function listPartition(
  { keys, redis }: QueueContext,
  topic: string,
  partition: number,
  group: string,
  limit: number,
): Promise<KeyAside[]> {
  const { aside, sideOrder } = sideKeys(keys, topic, partition, group);
  const records = new Map<string, AsideRecord>();
  let cursor = "0";
  do {
    const [next, fields] = await redis.commands.hscan(aside, cursor, "COUNT", SCAN_COUNT);
    for (let i = 0; i < fields.length; i += 2) {
      const record = parseAside(fields[i + 1]!);
      if (record) records.set(fields[i]!, record);
    }
    cursor = next;
  } while (cursor !== "0" && records.size < limit);
  return Promise.all(
    [...records].slice(0, limit).map(async ([key, record]) => {
      const messages = await redis.commands.zlexcount(sideOrder, `[${key} `, `(${key}!`);
      return { ...record, key, partition, messages };
    }),
  );
}
