/**
 * The topic `im.relay`: what a partition's script wants done outside its partition, written by that very script, so that it cannot be
 * lost. Its group is relay.ts.
 *
 *   type      key            data
 *   timer     the record     a delayed message was stored or moved: BullMQ is to wake somebody when it is due
 *   forward   the message's  a message of a consume transaction whose own partition is another one
 */

import * as v from "valibot";
import type { Condition } from "./condition.ts";
import { RELAY_TOPIC } from "./delayed-record.ts";
import { type PublishInput, valuesOf } from "./producer.ts";
import { defineTopic, type Topic } from "./topic.ts";

const Time = v.pipe(v.number(), v.integer());

const TimerSchema = v.strictObject({ record: v.string(), version: v.number(), due: Time });

/** With the topic's settings, for its declaration is the publisher's: another dedupe window would drop the topic's own. */
const ForwardSchema = v.strictObject({
  topic: v.strictObject({
    name: v.string(),
    retentionMs: v.number(),
    lengthMax: v.number(),
    backlogMax: v.number(),
    dedupMs: v.number(),
  }),
  message: v.strictObject({
    id: v.string(),
    type: v.string(),
    key: v.exactOptional(v.string()),
    raw: v.string(),
    dedupId: v.exactOptional(v.string()),
    sequence: v.exactOptional(v.number()),
    tag: v.exactOptional(v.string()),
    expireAt: v.exactOptional(Time),
    deliverAt: v.exactOptional(Time),
    condition: v.exactOptional(v.custom<Condition>((value) => typeof value === "object" && value !== null)),
    properties: v.exactOptional(v.record(v.string(), v.string())),
  }),
});
export type Forward = v.InferOutput<typeof ForwardSchema>;

const HOUR_MS = 3_600_000;
/** Finished entries say nothing that the records do not. */
const LENGTH_MAX = 20_000;

export type RelayData = v.InferOutput<typeof TimerSchema> | Forward;

export const imRelay = defineTopic(RELAY_TOPIC, {
  schema: v.union([TimerSchema, ForwardSchema]),
  retentionMs: HOUR_MS,
  lengthMax: LENGTH_MAX,
});

/** The data, as JSON, of an `im.relay` message of type `forward`. `id` makes it one message however often it is relayed. */
export function forwardOf<D>(topic: Topic<D>, input: PublishInput<D>, id: string): string {
  const [, , , , raw] = valuesOf(topic, input, id);
  const { name, retentionMs, lengthMax, backlogMax, dedupMs } = topic;
  const { data: _data, raw: _raw, ...rest } = input;
  const forward: Forward = {
    topic: { name, retentionMs, lengthMax, backlogMax, dedupMs },
    message: { ...rest, id, raw: raw! },
  };
  return JSON.stringify(forward);
}
