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
 *   - a delayed message comes at its time or after it, never before it by Redis TIME, and once;
 *   - shutdown and lost connections cost no attempt; a message that fails `maxAttempts` times is kept as a dead letter;
 *   - memory is bounded: windows, in-flight deliveries, dead letters; unread entries are never trimmed.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { Log, Metrics } from "../observability/index.ts";
import type { Keys, RedisConnections } from "../redis/index.ts";
import type { Service } from "../service.ts";
import { type Aside, createAside } from "./aside.ts";
import { createBroadcastConsumer } from "./broadcast.ts";
import { type Catalog, createCatalog } from "./catalog.ts";
import { createConcurrentConsumer } from "./concurrent.ts";
import { type ConsumeOptions, declare, type StartPoint } from "./consumer.ts";
import { type Control, createControl } from "./control.ts";
import { createDeadLetters, type DeadLetters } from "./dead-letters.ts";
import { createDelayed, type Delayed } from "./delayed.ts";
import { DELAY_MS_DEFAULT, DELAY_MS_MAX } from "./delaying.ts";
import { describeTopic, type TopicDescription } from "./describe.ts";
import type { PublishRules } from "./effect.ts";
import { type Expunged, expunge, type Name } from "./expunge.ts";
import { Firing } from "./firing.ts";
import type { HalfTimes } from "./half.ts";
import { createOrderedConsumer } from "./ordered.ts";
import { Producer, type PublishInput, type PublishResult } from "./producer.ts";
import { publishWith } from "./publish-with.ts";
import { createPull, type Pull } from "./pull.ts";
import { imRelay } from "./relay-topic.ts";
import { makeRoom, trimTopic } from "./retention.ts";
import { openTail, type Tail } from "./tail.ts";
import { createTimekeeper, type TimekeeperOptions } from "./timekeeper.ts";
import type { AnyTopic, Topic } from "./topic.ts";
import { type Trace, traceMessage } from "./trace.ts";
import { createTransactions, type Transactions } from "./transaction.ts";
import { type OwnKey, ownKey, type Write } from "./writes.ts";

export type { Aside, KeyAside } from "./aside.ts";
export { type Catalog, type DeclaredGroup, type DeclaredTopic, declarationOf, type Webhook } from "./catalog.ts";
export type { Check, CheckAnswer, CheckHandler, ReceiveChecksOptions } from "./checks.ts";
export { cloudEventOf, halfJson } from "./cloud-event.ts";
export type { Condition } from "./condition.ts";
export { type ConnectedQueue, type ConnectOptions, connectQueue } from "./connect.ts";
export {
  type BatchHandler,
  type ConsumeOptions,
  type DeliveryContext,
  type GroupMode,
  type Handler,
  type PoisonPolicy,
  RETRY_LADDER_MS,
  RETRY_LADDER_SHORT_MS,
  type StartPoint,
} from "./consumer.ts";
export type { Control } from "./control.ts";
export type { DeadLetterPage, DeadLetterQuery, DeadLetters, StoredDeadLetter } from "./dead-letters.ts";
export type { Delayed, DelayedMessage, DelayedPage, DelayedQuery, DelayedResult } from "./delayed.ts";
export { type DelayedState, parseDelayed, shelfKeys } from "./delayed-record.ts";
export { DELAY_MS_DEFAULT, issuesOfDueTime, PENDING_MAX, tooManyWait } from "./delaying.ts";
export type { GroupDescription, TopicDescription } from "./describe.ts";
export type { EffectInput, NextMessage } from "./effect.ts";
export { claimErrand, type ErrandPlace, type ErrandState, noteErrand, runErrands, spendRate } from "./errand.ts";
export type { Expunged, Name } from "./expunge.ts";
export type { Half, HalfDetails, HalfMessage, HalfState, HalfTimes } from "./half.ts";
export type { HalfExpiry } from "./half-expiry.ts";
export type { HalfListOptions, HalfPage } from "./half-list.ts";
export { Bury, InvalidMessage, Later, type Message } from "./message.ts";
export { headerOf, type PublishInput, type PublishResult, valuesOf } from "./producer.ts";
export type {
  NackKind,
  NackOptions,
  Pull,
  PulledDelivery,
  ReceiveOptions,
  RenewResult,
  TokenResult,
} from "./pull.ts";
export type { PullGroup } from "./pull-outlet.ts";
export type { RedriveOptions, RedriveReply } from "./redrive.ts";
export type { RedriveFilter, RedriveResult } from "./redrive-letters.ts";
export type { RedriveSelection, RedriveState, RedriveStatus } from "./redrive-runner.ts";
export { imRelay } from "./relay-topic.ts";
export { topicIsFull } from "./retention.ts";
export {
  type GroupSettings,
  GroupSettingsSchema,
  type Start,
  StartSchema,
  type TopicSettings,
  TopicSettingsSchema,
  toStartPoint,
} from "./settings.ts";
export type { Tail, Tailed } from "./tail.ts";
export type { TimekeeperOptions } from "./timekeeper.ts";
export type { Chore } from "./timers.ts";
export { type AnyTopic, backlogOfPartition, defineTopic, type Topic, type TopicOptions } from "./topic.ts";
export type { Trace, TracedCommit, TracedRecord } from "./trace.ts";
export type { TracedDelivery, TracedState } from "./trace-delivery.ts";
export type { PrepareOptions, Transactions } from "./transaction.ts";
export type { OwnKey, Write } from "./writes.ts";

export interface QueueOptions {
  readonly redis: RedisConnections;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** The name of this process among the members of a group; stable over restarts, unique among live ones. */
  readonly member: string;
  /** The topics that the program declares itself: the catalog knows them beside those that services declare. */
  readonly topics?: readonly Topic<unknown>[];
  /** When half messages are checked and expire, where the defaults (HalfTimes) do not suit; the same in all processes. */
  readonly halfTimes?: Partial<HalfTimes>;
  /** Seals the tokens of pulls: at least 32 bytes, the same in all processes that serve the same clients. Default: this process's own. */
  readonly tokenSecret?: Uint8Array;
  /** How far ahead a message may be delayed; default 40 days, at most 365. */
  readonly delayMsMax?: number;
  /** The layer rules of this role: throw LAYER_VIOLATION for what they forbid. Without it everything is allowed. */
  readonly may?: {
    publish(topic: string): void;
    consume(topic: string, group: string): void;
  };
}

export interface Queue {
  /**
   * Appends one message; calls of one tick travel together. Throws AppError: INVALID and TOO_LARGE name the field and its
   * limit; LAYER_VIOLATION; OVERLOADED (not appended); UNKNOWN_OUTCOME (repeat it with the same dedupId).
   */
  publish<D>(topic: Topic<D>, input: PublishInput<D>): Promise<PublishResult>;
  /** As publish, with one script call per partition. Atomic per partition and chunk, not over all: on an error repeat all. */
  publishMany<D>(topic: Topic<D>, inputs: readonly PublishInput<D>[]): Promise<PublishResult[]>;
  /**
   * Appends one message and does writes to keys of the caller's own, in the partition of the message's key: both or neither. The
   * message's `dedupId` (default: its id) makes a repeat after UNKNOWN_OUTCOME safe. Throws as publish; INVALID also when a
   * write does not suit what its key holds: nothing is written then.
   */
  publishWith<D>(topic: Topic<D>, input: PublishInput<D>, writes: readonly Write[]): Promise<PublishResult>;
  /** Where a key of the caller's own lies that is written together with messages of `key`. Throws INVALID. */
  own(key: string, name: string): OwnKey;
  /** A member of a group; at most one per topic and group in a process. Throws INVALID or LAYER_VIOLATION. */
  consume<D>(topic: Topic<D>, options: ConsumeOptions<D>): Service;
  /** Trims what every group has finished and retention no longer needs. Returns the number of entries trimmed. */
  trim(topic: AnyTopic): Promise<number>;
  /** Trims one partition of what is finished, before its time: for scripts outside the queue that append to a topic and found it full. */
  makeRoom(topic: AnyTopic, partition: number): Promise<void>;
  /** Deletes what names somebody, as far as every group has finished it, and counts what waits. Cost: all of the topic is looked through. */
  expunge(topic: AnyTopic, name: Name): Promise<Expunged>;
  /** Where the groups stand. Cost: a few commands per partition and group. */
  describe(topic: AnyTopic): Promise<TopicDescription>;
  /** Consume without being a member: for services outside. */
  readonly pull: Pull;
  /** Pause, resume, seek and drop groups. */
  readonly control: Control;
  /** What the groups gave up on: list, inspect, redrive. */
  readonly deadLetters: DeadLetters;
  /**
   * The life of one message: its commits, deliveries, dead letters. For operators: mostly a few ms of Redis, up to half a second for an
   * id that tells no time. Throws INVALID, OVERLOADED.
   */
  trace(id: string): Promise<Trace>;
  /** Half messages: kept unseen until their producer has decided. */
  readonly transactions: Transactions;
  /** Keys of ordered groups that stand aside: list, unpark. */
  readonly aside: Aside;
  /** Messages published with `deliverAt`: look, list, cancel, move, send now. */
  readonly delayed: Delayed;
  /**
   * What makes delayed messages come, and does periodic chores: at least one process of an installation runs it (Skein's role
   * `scheduler` does), any number may; at most one per process. Its start rejects with INVALID or LAYER_VIOLATION.
   */
  createTimers(options?: TimekeeperOptions): Service;
  /**
   * Reads along with a topic from a start point or a cursor, without a group; to be closed. One blocking connection. Throws INVALID when
   * the cursor is not of this topic, OVERLOADED.
   */
  tail(topic: Topic<unknown>, after: StartPoint | { readonly cursor: string }): Promise<Tail>;
  /** Topics and groups that services declared, for all processes. */
  readonly catalog: Catalog;
  /** Logs what went wrong in the background, for services built on the queue. */
  report(error: unknown, message: string): void;
}

const CREATE = {
  ordered: createOrderedConsumer,
  concurrent: createConcurrentConsumer,
  broadcast: createBroadcastConsumer,
} as const;

/** Opens the queue over connections that the caller owns. Consumers open their own blocking connections. */
export function openQueue({
  may,
  topics = [],
  halfTimes,
  tokenSecret,
  delayMsMax = DELAY_MS_DEFAULT,
  ...context
}: QueueOptions): Queue {
  if (!(delayMsMax > 0 && delayMsMax <= DELAY_MS_MAX)) {
    throw new AppError("INVALID", `delayMsMax must be 1..${DELAY_MS_MAX} ms (365 days)`);
  }
  const producer = new Producer(context, delayMsMax);
  const firing = new Firing(context);
  const delayed = createDelayed(context, firing, delayMsMax);
  const consuming = new Set<string>();
  const catalog = createCatalog(context, topics);
  const deadLetters = createDeadLetters(context);
  const transactions = createTransactions(context, (topic) => may?.publish(topic), halfTimes);
  const mayPublish = (topic: string, inputs: readonly { readonly deliverAt?: number }[]) => {
    may?.publish(topic);
    if (inputs.some(({ deliverAt }) => deliverAt !== undefined)) may?.publish(imRelay.name);
  };
  const rules: PublishRules = { mayPublish, delayMsMax };
  const consume: Queue["consume"] = (topic, options) => {
    may?.consume(topic.name, options.group);
    const declaration = declare(options, rules);
    const name = `${topic.name}/${declaration.group}`;
    if (consuming.has(name)) throw new AppError("INVALID", `${name} is consumed by this process already`);
    consuming.add(name);
    return CREATE[declaration.mode](context, topic, declaration, () => consuming.delete(name));
  };
  return {
    async publish(topic, input) {
      mayPublish(topic.name, [input]);
      const [result] = await producer.publish(topic, [input]);
      return result!;
    },
    async publishMany(topic, inputs) {
      mayPublish(topic.name, inputs);
      return producer.publish(topic, inputs);
    },
    async publishWith(topic, input, writes) {
      return publishWith(context, topic, input, writes, rules);
    },
    own: (key, name) => ownKey(context.keys, key, name),
    consume,
    trim: (topic) => trimTopic(context, topic),
    makeRoom: (topic, partition) => makeRoom(context, topic, partition),
    expunge: (topic, name) => expunge(context, topic, name),
    describe: (topic) => describeTopic(context, topic),
    control: createControl(context),
    deadLetters,
    transactions,
    trace: (id) => traceMessage(context, { catalog, deadLetters, transactions, delayed }, id),
    pull: createPull(context, tokenSecret),
    aside: createAside(context),
    delayed,
    createTimers: (options = {}) =>
      createTimekeeper(
        { context, firing, consume, publish: (topic, inputs) => producer.publish(topic, inputs) },
        options,
      ),
    tail: (topic, after) => openTail(context, topic, after),
    catalog,
    report: (error, message) => context.log.warn({ error }, message),
  };
}
