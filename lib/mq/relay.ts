/**
 * The group `relay` of `im.relay`: carries out what scripts wrote there. Timers go to BullMQ, those of one tick together; messages of
 * consume transactions go to their own partitions, at most once each within their topic's dedupe window. What fails is tried until it
 * succeeds, and holds up its own key alone.
 */

import * as v from "valibot";
import type { AppError } from "../errors.ts";
import { toAppError } from "../redis/index.ts";
import type { Service } from "../service.ts";
import type { ConsumeOptions } from "./consumer.ts";
import type { Message } from "./message.ts";
import type { PublishInput, PublishResult } from "./producer.ts";
import { type Forward, imRelay, type RelayData } from "./relay-topic.ts";
import type { Timer } from "./timers.ts";
import { defineTopic, type Topic } from "./topic.ts";

const GROUP = "relay";
/** A dead owner's timers come late by so much, unless the reconciler is faster. */
const LEASE_MS = 5_000;
const RETRY = { firstMs: 100, maxMs: 3_000, jitter: 0.2 };
const IN_FLIGHT_MAX = 2_000;

export interface RelayParts {
  readonly consume: (topic: Topic<RelayData>, options: ConsumeOptions<RelayData>) => Service;
  readonly publish: (topic: Topic<unknown>, inputs: readonly PublishInput<unknown>[]) => Promise<PublishResult[]>;
  /** Adds timers; one that is there already is left as it is. */
  readonly add: (timers: readonly Timer[]) => Promise<void>;
}

export function createRelay({ consume, publish, add }: RelayParts): Service {
  const addSoon = batchOfTick(add);
  return consume(imRelay, {
    group: GROUP,
    mode: "ordered",
    leaseMs: LEASE_MS,
    inFlightMax: IN_FLIGHT_MAX,
    onPoison: "block",
    backoff: RETRY,
    async handle({ data }: Message<RelayData>) {
      if ("record" in data) await addSoon(data);
      else await publish(topicOf(data), [inputOf(data)]);
    },
  });
}

function topicOf({ topic: { name, ...settings } }: Forward): Topic<unknown> {
  return defineTopic(name, { schema: v.unknown(), ...settings });
}

/** Relayed again, it is a duplicate. A delayed one gets the id of its record. */
function inputOf({ message: { id, ...message } }: Forward): PublishInput<unknown> {
  const dedupId = message.dedupId ?? id;
  return message.deliverAt === undefined ? { ...message, id, dedupId } : { ...message, dedupId };
}

/** Collects what is given within a tick, and does it once. */
function batchOfTick<T>(run: (items: readonly T[]) => Promise<void>): (item: T) => Promise<void> {
  let waiting: { item: T; resolve: () => void; reject: (error: AppError) => void }[] = [];
  const flush = async () => {
    const batch = waiting;
    waiting = [];
    try {
      await run(batch.map(({ item }) => item));
      for (const { resolve } of batch) resolve();
    } catch (error) {
      const known = toAppError(error);
      for (const { reject } of batch) reject(known);
    }
  };
  return (item) =>
    new Promise((resolve, reject) => {
      if (waiting.length === 0) setImmediate(() => void flush());
      waiting.push({ item, resolve, reject });
    });
}
