/**
 * Publishing together with writes to the user's own keys: the transactional message for state that lies in our Redis. One script
 * appends the message and does the writes, or neither. State elsewhere takes a half message (transaction.ts).
 */

import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import delayLua from "../redis/lua/mq-delay.lua" with { type: "text" };
import effectLua from "../redis/lua/mq-effect.lua" with { type: "text" };
import publishWithLua from "../redis/lua/mq-publish-with.lua" with { type: "text" };
import writesLua from "../redis/lua/mq-writes.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { type EffectRefusal, formatEffect, type PublishRules, sendEffect } from "./effect.ts";
import { appendedOf, duplicateOf, type PublishInput, type PublishResult } from "./producer.ts";
import type { Topic } from "./topic.ts";
import type { Write } from "./writes.ts";

const publishWithScript = defineScript({
  name: "mqPublishWith",
  lua: [appendLua, dedupeLua, delayLua, writesLua, effectLua, publishWithLua],
  keys: ["stream"],
  args: ["dedupeId"],
  hasRest: true,
  decode: (reply) => reply as EffectRefusal | ["done", id: string, entry: string, isDuplicate: 0 | 1],
});

/**
 * Appends a message, or keeps it until it is due, and does the writes in one script. `key` is required, for the writes lie in its
 * partition. The message's id is its dedupe id when `dedupId` gives no other, so a repeat under the same id or dedupId does
 * neither again and answers with the original. Throws AppError as publish does; INVALID also when an own key holds another type
 * or no integer.
 */
export async function publishWith<D>(
  context: QueueContext,
  topic: Topic<D>,
  input: PublishInput<D>,
  writes: readonly Write[],
  rules: PublishRules,
): Promise<PublishResult> {
  const { keys, redis, clock, metrics } = context;
  if (!input.key) {
    const issues = [{ path: "key", message: "is required: the writes lie in its partition" }];
    throw new AppError("INVALID", `topic ${topic.name}: key is required`, { issues });
  }
  const partition = keys.partitionOf(input.key);
  // The script may run twice: without an id of the caller's, too, it is one publication.
  const dedupId = input.dedupId || input.id || newId(clock.now());
  const next = { topic: topic as Topic<unknown>, input: { ...input, dedupId } };
  const effect = formatEffect(context, partition, { publish: [next], writes }, rules);
  const [stream, ...restKeys] = effect.keys;
  const [, id, entry, isDuplicate] = await sendEffect(context, partition, effect, () =>
    publishWithScript(redis.commands, { stream: stream!, dedupeId: dedupId, restKeys, restArgs: effect.args }),
  );
  const isNamed = (input.dedupId || input.id) !== undefined;
  if (isDuplicate === 1 && isNamed) return duplicateOf(partition, id, entry);
  const result = appendedOf(partition, id, entry);
  if (result.entry !== "") metrics.published.inc({ topic: topic.name });
  return result;
}
