/** The queue over a test store: one topic, any number of members, and what their handlers saw. */

import * as v from "valibot";
import { type Clock, systemClock } from "../../lib/clock.ts";
import type { DeadLetter } from "../../lib/mq/dead-letter.ts";
import { defineTopic, type HalfTimes, type Message, openQueue, type Queue, type Topic } from "../../lib/mq/index.ts";
import { type Log, silentLog } from "../../lib/observability/index.ts";
import type { Service } from "../../lib/service.ts";
import { openTestStore, type TestStore } from "./redis.ts";

export const Numbered = v.strictObject({ n: v.number() });
export type Numbered = v.InferOutput<typeof Numbered>;

export interface TestQueue extends AsyncDisposable {
  readonly store: TestStore;
  readonly topic: Topic<Numbered>;
  /** The queue of member "m". */
  readonly queue: Queue;
  /** A queue of another member, over the same connections. */
  member(name: string): Queue;
  /** Publishes n = from..to under a key, in order. */
  publish(key: string, from: number, to: number): Promise<void>;
  /** Starts a service and stops it hard at the test's end. */
  run(service: Service): Promise<Service>;
  /** The place of the group in the key's partition. */
  lease(group: string, key: string): Promise<Record<string, string>>;
  /** Dead letters of the group over all partitions, as objects. */
  deadLetters(group: string): Promise<Record<string, string>[]>;
}

export interface TestQueueOptions {
  readonly partitions?: number;
  readonly url?: string;
  readonly clock?: Clock;
  readonly log?: Log;
  readonly topic?: Topic<Numbered>;
  readonly halfTimes?: Partial<HalfTimes>;
}

export async function openTestQueue(name: string, options: TestQueueOptions = {}): Promise<TestQueue> {
  const { partitions = 4, url, clock = systemClock, log = silentLog, halfTimes = {} } = options;
  const store = await openTestStore(name, { partitions, ...(url === undefined ? {} : { url }) });
  const { redis, keys, metrics } = store;
  const topic = options.topic ?? defineTopic("t", { schema: Numbered });
  const member = (of: string) => openQueue({ redis, keys, clock, log, metrics, halfTimes, member: of });
  const queue = member("m");
  const running: Service[] = [];
  return {
    store,
    topic,
    queue,
    member,
    async publish(key, from, to) {
      const inputs = Array.from({ length: to - from + 1 }, (_, i) => ({
        type: "numbered",
        key,
        data: { n: from + i },
      }));
      await queue.publishMany(topic, inputs);
    },
    async run(service) {
      running.push(service);
      await service.start();
      return service;
    },
    lease: (group, key) => redis.commands.hgetall(keys.lease(topic.name, keys.partitionOf(key), group)),
    async deadLetters(group) {
      const all: Record<string, string>[] = [];
      for (let partition = 0; partition < partitions; partition++) {
        const entries = await redis.commands.xrange(keys.deadLetters(topic.name, partition, group), "-", "+");
        for (const [, fields] of entries) all.push(pairs(fields));
      }
      return all;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(running.map((service) => service.stop(AbortSignal.abort())));
      await store[Symbol.asyncDispose]();
    },
  };
}

/** A dead letter as the scripts take it. */
export function letterOf(entry: string): DeadLetter {
  const values = [entry, "id", "t", "k", "", "{}", "", "", "bury", "no", "1", "", "[]"];
  return { entry, reason: "bury", error: "no", values };
}

/** The numbers of messages by key, in the order in which a handler saw them. */
export function byKey(messages: readonly Pick<Message<Numbered>, "key" | "data">[]): Record<string, number[]> {
  const numbers: Record<string, number[]> = {};
  for (const { key, data } of messages) {
    numbers[key] ??= [];
    numbers[key].push(data.n);
  }
  return numbers;
}

export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

/** Distinct keys that all lie in one partition. */
export function keysOfOnePartition(partitionOf: (key: string) => number, count: number): string[] {
  const keys: string[] = [];
  for (let i = 0; keys.length < count; i++) if (partitionOf(`k${i}`) === partitionOf("k0")) keys.push(`k${i}`);
  return keys;
}

function pairs(fields: readonly string[]): Record<string, string> {
  const object: Record<string, string> = {};
  for (let i = 0; i < fields.length; i += 2) object[fields[i]!] = fields[i + 1]!;
  return object;
}

/** Everything stored under a test's prefix, so that "unchanged" can be told. */
export async function digestOf({ redis, prefix }: TestStore): Promise<Record<string, string>> {
  const found = (await redis.commands.keys(`${prefix}*`)).sort();
  const dumps = await Promise.all(found.map((key) => redis.commands.dumpBuffer(key)));
  return Object.fromEntries(found.map((key, i) => [key, dumps[i]?.toString("hex") ?? ""]));
}
