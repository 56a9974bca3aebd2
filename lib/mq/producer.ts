/**
 * Publishing: validate, choose the partition by the key, append at most once per dedupe id. Publications of one tick, from
 * whichever caller, go out as one script call per partition and chunk.
 */

import * as v from "valibot";
import { AppError, type Issue } from "../errors.ts";
import { ID_PATTERN, newId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import publishLua from "../redis/lua/mq-publish.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { type Attributes, formatHeader, issuesOf, NO_ATTRIBUTES } from "./message.ts";
import type { AnyTopic, Topic } from "./topic.ts";

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
  /** A second publication with the same `dedupId` in the same partition within the topic's window is not appended. */
  readonly dedupId?: string;
  readonly sequence?: number;
  /** 1..64 of [A-Za-z0-9_.-]: what groups filter by. */
  readonly tag?: string;
  /** Unix ms after which no group is given it any more. */
  readonly expireAt?: number;
  readonly properties?: Readonly<Record<string, string>>;
}

export interface PublishResult {
  /** Of a duplicate: the original's. */
  readonly id: string;
  readonly partition: number;
  readonly entry: string;
  readonly duplicate: boolean;
}

/** Per message the entry id, or [id, entry id] of the original. */
type PublishReply = (string | [id: string, entry: string])[];

const publishScript = defineScript({
  name: "mqPublish",
  lua: publishLua,
  keys: ["stream", "even", "odd"],
  args: ["windowMs", "count"],
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
  readonly header: string;
  readonly data: string;
  readonly dedupId: string;
  readonly partition: number;
  readonly bytes: number;
  readonly call: Call;
  readonly index: number;
}

interface Outlet {
  readonly topic: AnyTopic;
  readonly partition: number;
  waiting: Pending[];
}

export class Producer {
  readonly #context: QueueContext;
  readonly #outlets = new Map<string, Outlet>();
  readonly #due = new Set<Outlet>();
  #unanswered = 0;

  constructor(context: QueueContext) {
    this.#context = context;
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
        const outlet = this.#outlet(topic, item.partition);
        outlet.waiting.push(item);
        this.#due.add(outlet);
      }
    });
  }

  #prepare<D>(topic: Topic<D>, input: PublishInput<D>, call: Call, index: number): Pending {
    const { keys, clock } = this.#context;
    const id = input.id ?? newId(clock.now());
    const key = input.key ?? "";
    const data = textOf(topic, input);
    const properties = input.properties ? JSON.stringify(input.properties) : "";
    const dedupId = input.dedupId ?? "";
    checkNames(topic.name, id, input.type, key, dedupId);
    checkAttributes(topic.name, input);
    checkBytes(topic.name, "data", data, DATA_BYTES_MAX);
    checkBytes(topic.name, "properties", properties, PROPERTIES_BYTES_MAX);
    return {
      id,
      header: formatHeader(attributesOf(input), id, input.type, key, input.sequence ?? "", properties),
      data,
      dedupId,
      partition: keys.partitionOf(key || id),
      bytes: data.length + properties.length,
      call,
      index,
    };
  }

  #outlet(topic: AnyTopic, partition: number): Outlet {
    const name = `${topic.name}/${partition}`;
    let outlet = this.#outlets.get(name);
    if (!outlet) {
      outlet = { topic, partition, waiting: [] };
      this.#outlets.set(name, outlet);
    }
    return outlet;
  }

  #flush(): void {
    for (const outlet of this.#due) {
      const { waiting } = outlet;
      outlet.waiting = [];
      for (const chunk of chunks(waiting)) void this.#append(outlet, chunk);
    }
    this.#due.clear();
  }

  async #append({ topic, partition }: Outlet, chunk: readonly Pending[]): Promise<void> {
    const { keys, redis, metrics } = this.#context;
    try {
      const replies = await publishScript(redis.commands, {
        stream: keys.topic(topic.name, partition),
        even: keys.published(topic.name, partition, "even"),
        odd: keys.published(topic.name, partition, "odd"),
        windowMs: topic.dedupMs,
        count: chunk.length,
        restArgs: argsOf(chunk),
      });
      let appended = 0;
      for (const [i, reply] of replies.entries()) {
        const { call, index, id } = chunk[i]!;
        const duplicate = typeof reply !== "string";
        if (!duplicate) appended += 1;
        call.results[index] = duplicate
          ? { id: reply[0], partition, entry: reply[1], duplicate }
          : { id, partition, entry: reply, duplicate };
        call.left -= 1;
        if (call.left === 0) call.resolve(call.results);
      }
      metrics.published.inc({ topic: topic.name }, appended);
    } catch (error) {
      const known = toAppError(error);
      for (const { call } of chunk) call.reject(known);
    } finally {
      this.#unanswered -= chunk.length;
    }
  }
}

/** As the script takes them. */
function argsOf(chunk: readonly Pending[]): string[] {
  const args: string[] = [];
  let hasDedupes = false;
  for (const { header, data, dedupId } of chunk) {
    args.push(header, data);
    hasDedupes ||= dedupId !== "";
  }
  if (hasDedupes) for (const { dedupId } of chunk) args.push(dedupId);
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

function checkAttributes(topic: string, { id, tag, expireAt }: PublishInput<unknown>): void {
  const issues: Issue[] = [];
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
  return value.length >= min && value.length <= max && !WHITE_SPACE.test(value);
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
