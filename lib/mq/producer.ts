/**
 * Publishing: validate, choose the partition by the key, append at most once per dedupe id. Publications of one tick, from
 * whichever caller, go out as one script call per partition and chunk.
 */

import * as v from "valibot";
import { AppError, type Issue } from "../errors.ts";
import { ID_PATTERN, newId, newPlacedId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import publishLua from "../redis/lua/mq-publish.lua" with { type: "text" };
import type { Condition } from "./condition.ts";
import type { QueueContext } from "./consumer.ts";
import { checkDelay, type DelayReply, keepDelayed, tooManyWait } from "./delaying.ts";
import { type Attributes, formatAttributes, issuesOf, NO_ATTRIBUTES } from "./message.ts";
import { makeRoom, topicIsFull } from "./retention.ts";
import { publishKeys } from "./stream.ts";
import { type AnyTopic, backlogOfPartition, type Topic } from "./topic.ts";

/** Design limits of one message. A body of 256 KB still fits four to a chunk. */
const DATA_BYTES_MAX = 256 * 1024;
const PROPERTIES_BYTES_MAX = 16 * 1024;
/** Names are stored with every message and shown on every page. */
const TYPE_LENGTH_MAX = 128;
const KEY_LENGTH_MAX = 256;
const ID_LENGTH_MAX = 128;
const WHITE_SPACE = /\s/;
/** One script call: some 2 ms of Redis at most, and a reply that other commands need not wait for. */
const CHUNK_MESSAGES_MAX = 500;
const CHUNK_BYTES_MAX = 1024 * 1024;
/** Publications without an answer, per process. Beyond, Redis does not keep up and producers must slow down. */
const UNANSWERED_MAX = 50_000;

export interface PublishInput<D> {
  readonly type: string;
  /** The order key: its hash names the partition. Without it the message goes to any partition, in no order. */
  readonly key?: string;
  /** Exactly one of `data` (validated against the schema) and `raw` (JSON text, taken as it is). */
  readonly data?: D;
  readonly raw?: string;
  /** Default: a new one. */
  readonly id?: string;
  /** A second publication with the same `dedupId`, and the same key if any, within the topic's window is not appended. */
  readonly dedupId?: string;
  readonly sequence?: number;
  /** 1..64 of [A-Za-z0-9_.-]: what groups filter by. */
  readonly tag?: string;
  /** Unix ms after which no group is given it any more. */
  readonly expireAt?: number;
  /**
   * Unix ms at which it is appended, not before, by Redis TIME; the past is now. At most QueueOptions.delayMsMax ahead. Until then it
   * is a record that can be cancelled and moved under the message's id (Queue.delayed), so `id` cannot be given.
   */
  readonly deliverAt?: number;
  /** Of one with `deliverAt`: dropped when this does not hold at that time. */
  readonly condition?: Condition;
  readonly properties?: Readonly<Record<string, string>>;
}

export interface PublishResult {
  /** Of a duplicate: the original's. */
  readonly id: string;
  readonly partition: number;
  /** "" while a delayed message waits. */
  readonly entry: string;
  readonly duplicate: boolean;
  /** Of a delayed message that waits: until when. Of its duplicate: as first asked for. */
  readonly deliverAt?: number;
}

/** Per message the entry id, [id, entry id] of the original, or 0: no room. */
type PublishReply = (string | [id: string, entry: string] | 0)[];

const publishScript = defineScript({
  name: "mqPublish",
  lua: [dedupeLua, publishLua],
  keys: ["stream", "even", "odd", "groups"],
  args: ["windowMs", "backlogMax", "count"],
  hasRest: true,
  decode: (reply) => reply as PublishReply,
});

/** One call of publish or publishMany: answered when all its messages are. */
interface Call {
  readonly results: PublishResult[];
  left: number;
  readonly resolve: (results: PublishResult[]) => void;
  readonly reject: (error: AppError) => void;
}

interface Pending {
  readonly id: string;
  /** As valuesOf gives them. */
  readonly values: readonly string[];
  /** Of a delayed one: when it is due, and its condition as JSON. */
  readonly delay: readonly [dueMs: number, condition: string] | undefined;
  readonly partition: number;
  readonly bytes: number;
  readonly call: Call;
  readonly index: number;
}

interface Outlet {
  readonly topic: AnyTopic;
  readonly partition: number;
  /** Delayed messages go by a script of their own: it has keys that the others need not pay for. */
  readonly isDelayed: boolean;
  waiting: Pending[];
}

export class Producer {
  readonly #context: QueueContext;
  readonly #delayMsMax: number;
  /** By topic; of each the partitions, and behind them those for delayed messages. */
  readonly #outlets = new Map<string, Outlet[]>();
  readonly #due = new Set<Outlet>();
  #unanswered = 0;

  constructor(context: QueueContext, delayMsMax: number) {
    this.#context = context;
    this.#delayMsMax = delayMsMax;
  }

  /** Nothing is appended when one of the inputs is not valid. */
  publish<D>(topic: Topic<D>, inputs: readonly PublishInput<D>[]): Promise<PublishResult[]> {
    if (inputs.length === 0) return Promise.resolve([]);
    return new Promise((resolve, reject) => {
      if (this.#unanswered + inputs.length > UNANSWERED_MAX) {
        throw new AppError("OVERLOADED", `more than ${UNANSWERED_MAX} publications await their answer`, {
          retryAfterMs: 500,
        });
      }
      const call: Call = { results: new Array(inputs.length), left: inputs.length, resolve, reject };
      const pending = inputs.map((input, index) => this.#prepare(topic, input, call, index));
      this.#unanswered += pending.length;
      if (this.#due.size === 0) setImmediate(() => this.#flush());
      for (const item of pending) {
        const outlet = this.#outlet(topic, item.partition, item.delay !== undefined);
        outlet.waiting.push(item);
        this.#due.add(outlet);
      }
    });
  }

  #prepare<D>(topic: Topic<D>, input: PublishInput<D>, call: Call, index: number): Pending {
    const { keys, clock } = this.#context;
    let id = input.id ?? newId(clock.now());
    // Without a key any partition will do, but a repetition must meet the first one.
    const partition = keys.partitionOf(input.key || input.dedupId || id);
    const isDelayed = input.deliverAt !== undefined;
    if (isDelayed) id = newPlacedId(clock.now(), partition);
    const values = valuesOf(topic, input, id);
    const delay = isDelayed ? checkDelay(this.#context, topic.name, partition, input, this.#delayMsMax) : undefined;
    const bytes = values[AT_DATA]!.length + values[AT_PROPERTIES]!.length;
    return { id, values, delay, partition, bytes, call, index };
  }

  #outlet(topic: AnyTopic, partition: number, isDelayed: boolean): Outlet {
    let outlets = this.#outlets.get(topic.name);
    if (!outlets) {
      outlets = [];
      this.#outlets.set(topic.name, outlets);
    }
    const at = isDelayed ? this.#context.keys.partitions + partition : partition;
    outlets[at] ??= { topic, partition, isDelayed, waiting: [] };
    return outlets[at];
  }

  #flush(): void {
    for (const outlet of this.#due) {
      const { waiting } = outlet;
      outlet.waiting = [];
      for (const chunk of chunks(waiting)) void this.#append(outlet, chunk);
    }
    this.#due.clear();
  }

  async #append(outlet: Outlet, chunk: readonly Pending[]): Promise<void> {
    try {
      const refused = await this.#send(outlet, chunk);
      if (refused.length === 0) return;
      // What every group has finished may make room before its time.
      await makeRoom(this.#context, outlet.topic, outlet.partition);
      const full = await this.#send(outlet, refused);
      if (full.length === 0) return;
      this.#context.metrics.publishRefused.inc({ topic: outlet.topic.name }, full.length);
      const error = outlet.isDelayed ? tooManyWait(outlet.topic) : topicIsFull(outlet.topic);
      for (const { call } of full) call.reject(error);
    } catch (error) {
      const known = toAppError(error);
      for (const { call } of chunk) call.reject(known);
    } finally {
      this.#unanswered -= chunk.length;
    }
  }

  /** Appends, or keeps, what there is room for; resolves to the rest. */
  async #send(outlet: Outlet, chunk: readonly Pending[]): Promise<readonly Pending[]> {
    const outcomes = await (outlet.isDelayed ? this.#sendDelayed(outlet, chunk) : this.#sendNow(outlet, chunk));
    const refused: Pending[] = [];
    let appended = 0;
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome === undefined) {
        refused.push(chunk[i]!);
        continue;
      }
      const { call, index } = chunk[i]!;
      if (!outcome.duplicate && outcome.entry !== "") appended += 1;
      call.results[index] = outcome;
      call.left -= 1;
      if (call.left === 0) call.resolve(call.results);
    }
    this.#context.metrics.published.inc({ topic: outlet.topic.name }, appended);
    return refused;
  }

  /** Per message what became of it; undefined: no room. */
  async #sendNow({ topic, partition }: Outlet, chunk: readonly Pending[]): Promise<(PublishResult | undefined)[]> {
    const { keys, redis } = this.#context;
    const replies = await publishScript(redis.commands, {
      ...publishKeys(keys, topic.name, partition),
      windowMs: topic.dedupMs,
      backlogMax: backlogOfPartition(topic, keys.partitions),
      count: chunk.length,
      restArgs: argsOf(chunk),
    });
    return replies.map((reply, i) => {
      if (reply === 0) return undefined;
      if (typeof reply === "string") return { id: chunk[i]!.id, partition, entry: reply, duplicate: false };
      return duplicateOf(partition, reply[0], reply[1]);
    });
  }

  async #sendDelayed({ topic, partition }: Outlet, chunk: readonly Pending[]): Promise<(PublishResult | undefined)[]> {
    const args = chunk.flatMap(({ values, delay }) => [
      ...delay!,
      headerOf(values),
      values[AT_DATA]!,
      values[AT_DEDUP_ID]!,
    ]);
    const replies = await keepDelayed(this.#context, topic, partition, args);
    return replies.map((reply, i) => delayedResult(partition, chunk[i]!.id, reply));
  }
}

/** undefined: no room. */
function delayedResult(partition: number, id: string, reply: DelayReply): PublishResult | undefined {
  switch (reply[0]) {
    case "full":
      return undefined;
    case "appended":
      return { id, partition, entry: reply[1], duplicate: false };
    case "waits":
      return { id, partition, entry: "", duplicate: false, deliverAt: Number(reply[1]) };
    case "duplicate":
      return duplicateOf(partition, reply[1], reply[2]);
  }
}

/** Of an original that waited, its due time stands for the entry that it did not have yet. */
export function duplicateOf(partition: number, id: string, entry: string): PublishResult {
  return { ...appendedOf(partition, id, entry), duplicate: true };
}

/** What scripts tell of a message: its entry, or `@` and its due time while it waits. */
export function appendedOf(partition: number, id: string, entry: string): PublishResult {
  if (!entry.startsWith("@")) return { id, partition, entry, duplicate: false };
  return { id, partition, entry: "", duplicate: false, deliverAt: Number(entry.slice(1)) };
}

/**
 * A publication as scripts take it: id, type, key, sequence, data, properties, attributes, dedupe id. Throws INVALID and
 * TOO_LARGE with the field and its limit.
 */
export function valuesOf<D>(topic: Topic<D>, input: PublishInput<D>, id: string): readonly string[] {
  const { type, key = "", sequence, dedupId = "" } = input;
  const data = textOf(topic, input);
  const properties = input.properties ? JSON.stringify(input.properties) : "";
  checkNames(topic.name, id, type, key, dedupId);
  checkAttributes(topic.name, input);
  checkBytes(topic.name, "data", data, DATA_BYTES_MAX);
  checkBytes(topic.name, "properties", properties, PROPERTIES_BYTES_MAX);
  const attributes = formatAttributes(attributesOf(input));
  return [id, type, key, sequence === undefined ? "" : String(sequence), data, properties, attributes, dedupId];
}

const AT_DATA = 4;
const AT_PROPERTIES = 5;
const AT_DEDUP_ID = 7;

/** The field's name in the topic: as mq_append joins it. */
export function headerOf([id, type, key, sequence, , properties, attributes]: readonly string[]): string {
  const header = `${id} ${type} ${key} ${sequence} ${properties}`;
  return attributes === "" ? header : `@${attributes} ${header}`;
}

/** Headers with their data, then the dedupe ids when there are any. */
function argsOf(chunk: readonly Pending[]): string[] {
  const args: string[] = [];
  let hasDedupes = false;
  for (const { values } of chunk) {
    args.push(headerOf(values), values[AT_DATA]!);
    hasDedupes ||= values[AT_DEDUP_ID] !== "";
  }
  if (hasDedupes) for (const { values } of chunk) args.push(values[AT_DEDUP_ID]!);
  return args;
}

function textOf<D>(topic: Topic<D>, { data, raw }: PublishInput<D>): string {
  if ((data === undefined) === (raw === undefined)) {
    throw invalid(topic.name, [{ path: "data", message: "or raw: give exactly one" }]);
  }
  if (raw !== undefined) return raw;
  const result = v.safeParse(topic.schema, data);
  if (!result.success) throw invalid(topic.name, issuesOf(result.issues));
  return JSON.stringify(data);
}

function attributesOf({ tag, expireAt }: PublishInput<unknown>): Attributes {
  if (tag === undefined && expireAt === undefined) return NO_ATTRIBUTES;
  return { ...(tag ? { t: tag } : {}), ...(expireAt === undefined ? {} : { x: String(expireAt) }) };
}

function checkAttributes(topic: string, input: PublishInput<unknown>): void {
  const { id, tag, expireAt, deliverAt, condition } = input;
  // Nearly all messages have none.
  if (id === undefined && tag === undefined && expireAt === undefined && condition === undefined) return;
  const issues: Issue[] = [];
  if (condition !== undefined && deliverAt === undefined) {
    issues.push({ path: "condition", message: "needs a deliverAt, the time when it is judged" });
  }
  if (id?.startsWith("@")) issues.push({ path: "id", message: "must not begin with @" });
  if (tag !== undefined && !ID_PATTERN.test(tag))
    issues.push({ path: "tag", message: "must be 1..64 of [A-Za-z0-9_.-]" });
  if (expireAt !== undefined && !(Number.isSafeInteger(expireAt) && expireAt > 0)) {
    issues.push({ path: "expireAt", message: "must be a time in Unix ms" });
  }
  if (issues.length > 0) throw invalid(topic, issues);
}

/** Id, type and key are stored in one field, separated by blanks. */
function checkNames(topic: string, id: string, type: string, key: string, dedupId: string): void {
  if (isName(id, 1, ID_LENGTH_MAX) && isName(type, 1, TYPE_LENGTH_MAX) && isName(key, 0, KEY_LENGTH_MAX)) {
    if (dedupId.length <= KEY_LENGTH_MAX) return;
  }
  const issues: Issue[] = [];
  const check = (path: string, value: string, min: number, max: number) => {
    if (!isName(value, min, max))
      issues.push({ path, message: `must be ${min} to ${max} characters without white space` });
  };
  check("id", id, 1, ID_LENGTH_MAX);
  check("type", type, 1, TYPE_LENGTH_MAX);
  check("key", key, 0, KEY_LENGTH_MAX);
  if (dedupId.length > KEY_LENGTH_MAX) {
    issues.push({ path: "dedupId", message: `has ${dedupId.length} characters; the limit is ${KEY_LENGTH_MAX}` });
  }
  throw invalid(topic, issues);
}

function isName(value: string, min: number, max: number): boolean {
  return value.length >= min && value.length <= max && !hasWhiteSpace(value);
}

/** A regular expression per name was an eighth of what publishing costs; names are short and nearly always ASCII. */
function hasWhiteSpace(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code <= 0x20 || code >= 0x7f) return WHITE_SPACE.test(value);
  }
  return false;
}

function checkBytes(topic: string, path: string, text: string, max: number): void {
  // No UTF-16 unit takes more than 3 bytes: most texts are short enough without being measured.
  if (text.length * 3 <= max) return;
  const bytes = Buffer.byteLength(text);
  if (bytes <= max) return;
  const message = `is ${bytes} bytes; the limit is ${max}`;
  throw new AppError("TOO_LARGE", `topic ${topic}: ${path} ${message}`, { issues: [{ path, message }] });
}

function invalid(topic: string, issues: readonly Issue[]): AppError {
  const lines = issues.map(({ path, message }) => `${path} ${message}`).join("; ");
  return new AppError("INVALID", `topic ${topic}: ${lines}`, { issues });
}

function* chunks(waiting: readonly Pending[]): Generator<readonly Pending[]> {
  let first = 0;
  let bytes = 0;
  for (const [i, item] of waiting.entries()) {
    if (i > first && (i - first >= CHUNK_MESSAGES_MAX || bytes + item.bytes > CHUNK_BYTES_MAX)) {
      yield waiting.slice(first, i);
      first = i;
      bytes = 0;
    }
    bytes += item.bytes;
  }
  yield waiting.slice(first);
}
