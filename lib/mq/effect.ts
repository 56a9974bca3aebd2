/**
 * An effect: messages and writes that one script does together with what else it does, or not at all. A message goes straight to its
 * topic when its key lies in the script's partition, to the records of that partition when it is delayed, and through im.relay
 * when its key lies in another.
 */

import { AppError, type Issue } from "../errors.ts";
import { newId, newPlacedId } from "../id.ts";
import { toAppError } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import { shelfKeys } from "./delayed-record.ts";
import { checkDelay, PENDING_MAX, tooManyWait } from "./delaying.ts";
import { headerOf, type PublishInput, valuesOf } from "./producer.ts";
import { forwardOf, imRelay } from "./relay-topic.ts";
import { makeRoom, topicIsFull } from "./retention.ts";
import { publishKeys } from "./stream.ts";
import { type AnyTopic, backlogOfPartition, type Topic } from "./topic.ts";
import { formatWrites, refusedByState, type Write } from "./writes.ts";

/** A message that follows from one that is consumed. */
export interface NextMessage {
  readonly topic: Topic<unknown>;
  /** As for publish. With a `key` of another partition it arrives a moment later, and cannot be delayed with a condition. */
  readonly input: PublishInput<unknown>;
}

export interface EffectInput {
  readonly writes?: readonly Write[];
  readonly publish?: readonly NextMessage[];
}

/** What a process may publish, and how far ahead. */
export interface PublishRules {
  /** Throws LAYER_VIOLATION. */
  readonly mayPublish: (topic: string, inputs: readonly PublishInput<unknown>[]) => void;
  readonly delayMsMax: number;
}

/** As mq-effect.lua takes it. */
export interface Effect {
  readonly keys: readonly string[];
  readonly args: readonly (string | number)[];
  /** Commands that it costs, roughly. */
  readonly weight: number;
  readonly bytes: number;
  /** In the order of the messages. */
  readonly messages: readonly { readonly topic: AnyTopic; readonly isDelayed: boolean }[];
}

/** Why Redis did not do it; nothing was done. */
export type EffectRefusal = readonly ["full", number: number] | readonly ["write", number: number, why: string];

/** A script of some 0.5 ms, as the writes. */
const MESSAGES_MAX = 64;
/** All data together. Four of the largest messages. */
const BYTES_MAX = 1024 * 1024;

interface Placed {
  readonly topic: AnyTopic;
  readonly values: readonly string[];
  /** Due ms, condition. */
  readonly delay: readonly [number, string] | undefined;
}

/** Checks an effect of a script in `partition`. Throws AppError: INVALID and TOO_LARGE with the field, LAYER_VIOLATION. */
export function formatEffect(
  context: QueueContext,
  partition: number,
  { writes = [], publish = [] }: EffectInput,
  rules: PublishRules,
): Effect {
  if (publish.length > MESSAGES_MAX) {
    throw refused("INVALID", { path: "publish", message: `are ${publish.length}; the limit is ${MESSAGES_MAX}` });
  }
  const { keys } = context;
  const placed = publish.map((next) => placeOf(context, partition, next, rules));
  const keyNumbers = new KeyNumbers();
  const args: (string | number)[] = [];
  let bytes = 0;
  for (const { topic, values, delay } of placed) {
    const [, , , , data, , , dedupId] = values;
    const first = keyNumbers.of(Object.values(publishKeys(keys, topic.name, partition)));
    const shelf = delay ? keyNumbers.of(Object.values(shelfKeys(keys, partition))) : 0;
    const limit = delay ? PENDING_MAX : backlogOfPartition(topic, keys.partitions);
    args.push(first, shelf, topic.dedupMs, limit);
    args.push(headerOf(values), data!, dedupId!, ...(delay ? [...delay, topic.name] : ["", "", ""]));
    bytes += data!.length;
  }
  if (bytes > BYTES_MAX) {
    throw refused("TOO_LARGE", { path: "publish", message: `are ${bytes} characters; the limit is ${BYTES_MAX}` });
  }
  const own = formatWrites(keys, partition, writes);
  return {
    keys: [...keyNumbers.keys, ...own.keys],
    args: [placed.length, keyNumbers.keys.length, ...args, ...own.args],
    weight: placed.length * 4 + writes.length,
    bytes: bytes + own.bytes,
    messages: placed.map(({ topic, delay }) => ({ topic, isDelayed: delay !== undefined })),
  };
}

/**
 * Sends an effect, and once more when a topic was full and is trimmed. Throws AppError: INVALID for a write that does not suit what its
 * key holds, RATE_LIMITED for a topic without room; and for Redis errors.
 */
export async function sendEffect<R extends readonly unknown[]>(
  context: QueueContext,
  partition: number,
  effect: Effect,
  send: () => Promise<R | EffectRefusal>,
): Promise<R> {
  const isDone = (reply: R | EffectRefusal): reply is R => reply[0] !== "full" && reply[0] !== "write";
  try {
    const first = await send();
    if (isDone(first)) return first;
    if (!(await makeRoomFor(context, partition, effect, first))) throw refusalOf(context, effect, first);
    const second = await send();
    if (isDone(second)) return second;
    throw refusalOf(context, effect, second);
  } catch (error) {
    throw toAppError(error);
  }
}

/** Trims the topic that has no room. Resolves to whether that may help. Throws Redis errors. */
async function makeRoomFor(
  context: QueueContext,
  partition: number,
  { messages }: Effect,
  refusal: EffectRefusal,
): Promise<boolean> {
  if (refusal[0] !== "full") return false;
  const { topic, isDelayed } = messages[refusal[1] - 1]!;
  if (isDelayed) return false;
  await makeRoom(context, topic, partition);
  return true;
}

/** Counts what was appended, as scripts tell of it: per message 1 or 0. */
export function countAppended({ metrics }: QueueContext, { messages }: Effect, appended: readonly number[]): void {
  for (const [i, { topic }] of messages.entries()) if (appended[i] === 1) metrics.published.inc({ topic: topic.name });
}

/** The error of a refusal. */
function refusalOf({ metrics }: QueueContext, { messages }: Effect, refusal: EffectRefusal): AppError {
  if (refusal[0] === "write") return refusedByState(refusal[1], refusal[2]);
  const { topic, isDelayed } = messages[refusal[1] - 1]!;
  metrics.publishRefused.inc({ topic: topic.name });
  return isDelayed ? tooManyWait(topic) : topicIsFull(topic);
}

function placeOf(context: QueueContext, partition: number, { topic, input }: NextMessage, rules: PublishRules): Placed {
  const { keys, clock } = context;
  rules.mayPublish(topic.name, [input]);
  // Without a key any partition will do.
  if (input.key && keys.partitionOf(input.key) !== partition) return forwardedOf(context, { topic, input }, rules);
  if (input.deliverAt === undefined) {
    return { topic, values: valuesOf(topic, input, input.id ?? newId(clock.now())), delay: undefined };
  }
  const delay = checkDelay(context, topic.name, partition, input, rules.delayMsMax);
  return { topic, values: valuesOf(topic, input, newPlacedId(clock.now(), partition)), delay };
}

/** Its own partition's script is the relay's: everything about it is checked here, for there nobody hears of it. */
function forwardedOf(context: QueueContext, { topic, input }: NextMessage, rules: PublishRules): Placed {
  const { keys, clock } = context;
  if (input.deliverAt !== undefined) {
    checkDelay(context, topic.name, keys.partitionOf(input.key!), input, rules.delayMsMax);
  }
  const id = input.id ?? newId(clock.now());
  const raw = forwardOf(topic, input, id);
  return {
    topic: imRelay,
    values: valuesOf(imRelay, { type: "forward", key: input.key!, raw }, newId(clock.now())),
    delay: undefined,
  };
}

/** Numbers keys from 1, groups of them each once. */
class KeyNumbers {
  readonly keys: string[] = [];
  readonly #numbers = new Map<string, number>();

  /** The number of the first of `group`; the others follow it. */
  of(group: readonly string[]): number {
    const known = this.#numbers.get(group[0]!);
    if (known !== undefined) return known;
    const number = this.keys.length + 1;
    this.keys.push(...group);
    this.#numbers.set(group[0]!, number);
    return number;
  }
}

function refused(code: "INVALID" | "TOO_LARGE", issue: Issue): AppError {
  return new AppError(code, `${issue.path} ${issue.message}`, { issues: [issue] });
}
