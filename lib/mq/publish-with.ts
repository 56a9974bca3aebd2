/**
 * Publishing together with writes to the user's own keys: the transactional message for state that lies in our Redis. One script
 * appends the message and does the writes, or neither. State elsewhere takes a half message (transaction.ts).
 */

import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import publishWithLua from "../redis/lua/mq-publish-with.lua" with { type: "text" };
import writesLua from "../redis/lua/mq-writes.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { type PublishInput, type PublishResult, valuesOf } from "./producer.ts";
import { withRoom } from "./retention.ts";
import { backlogOfPartition, type Topic } from "./topic.ts";
import { formatWrites, refusedByState, type Write } from "./writes.ts";

type Reply =
  | [kind: "appended", entry: string]
  | [kind: "duplicate", id: string, entry: string]
  | [kind: "refused", number: number, why: string]
  | [kind: "full"];

const publishWithScript = defineScript({
  name: "mqPublishWith",
  lua: [appendLua, dedupeLua, writesLua, publishWithLua],
  keys: ["stream", "even", "odd", "groups"],
  args: [
    ...(["windowMs", "backlogMax", "id", "messageType", "key", "sequence"] as const),
    ...(["data", "properties", "attributes", "dedupeId"] as const),
  ],
  hasRest: true,
  decode: (reply) => reply as Reply,
});

/**
 * Appends a message and does the writes in one script. `key` is required, for the writes lie in its partition. The message's id
 * is its dedupe id when `dedupId` gives no other, so a repeat under the same id or dedupId does neither again and answers with
 * the original. Throws AppError as publish does; INVALID also when an own key holds another type or no integer.
 */
export async function publishWith<D>(
  context: QueueContext,
  topic: Topic<D>,
  input: PublishInput<D>,
  writes: readonly Write[],
): Promise<PublishResult> {
  const { keys, redis, clock, metrics } = context;
  if (input.deliverAt !== undefined) {
    const issues = [{ path: "deliverAt", message: "cannot be given together with writes" }];
    throw new AppError("INVALID", `topic ${topic.name}: deliverAt cannot be given together with writes`, { issues });
  }
  if (!input.key) {
    const issues = [{ path: "key", message: "is required: the writes lie in its partition" }];
    throw new AppError("INVALID", `topic ${topic.name}: key is required`, { issues });
  }
  const newMessageId = input.id ?? newId(clock.now());
  const values = valuesOf(topic, { ...input, dedupId: input.dedupId || newMessageId }, newMessageId);
  const [id, messageType, key, sequence, data, properties, attributes, dedupeId] = values as Values;
  const partition = keys.partitionOf(key);
  const formatted = formatWrites(keys, partition, writes);
  const send = () =>
    publishWithScript(redis.commands, {
      stream: keys.topic(topic.name, partition),
      even: keys.published(topic.name, partition, "even"),
      odd: keys.published(topic.name, partition, "odd"),
      groups: keys.groups(topic.name, partition),
      windowMs: topic.dedupMs,
      backlogMax: backlogOfPartition(topic, keys.partitions),
      ...{ id, messageType, key, sequence, data, properties, attributes, dedupeId },
      restKeys: formatted.keys,
      restArgs: formatted.args,
    });
  const reply = await withRoom(context, topic, partition, send);
  if (reply[0] === "refused") throw refusedByState(reply[1], reply[2]);
  if (reply[0] === "duplicate") return { id: reply[1], partition, entry: reply[2], duplicate: true };
  metrics.published.inc({ topic: topic.name });
  return { id, partition, entry: reply[1], duplicate: false };
}

type Values = [
  ...[id: string, type: string, key: string, sequence: string, data: string, properties: string],
  ...[attributes: string, dedupeId: string],
];
