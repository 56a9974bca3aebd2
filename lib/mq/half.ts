/**
 * Half messages in Redis: what is kept of one, and the scripts that decide. Which way a half goes is settled by one
 * compare-and-set, whoever asks, however often.
 *
 *              commit ──────────────────────────► committed   in the topic, once
 *   prepared ──rollback ────────────────────────► rolled_back
 *       │ ▲    budget or checks used up
 *       │ └──────── resume ─────────┐
 *       └───────────────────────► expired ──commit, rollback──► as above
 *                                    └── 7 days ──► dropped and counted
 *
 * Before its commit it lies in a hash that no group reads; the commit script itself appends it.
 */

import { AppError } from "../errors.ts";
import { partitionOfPlacedId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import halfLua from "../redis/lua/mq-half.lua" with { type: "text" };
import decideLua from "../redis/lua/mq-half-decide.lua" with { type: "text" };
import prepareLua from "../redis/lua/mq-half-prepare.lua" with { type: "text" };
import readLua from "../redis/lua/mq-half-read.lua" with { type: "text" };
import resumeLua from "../redis/lua/mq-half-resume.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { type Message, parseAttributes } from "./message.ts";
import { withRoom } from "./retention.ts";
import { type AnyTopic, backlogOfPartition } from "./topic.ts";

export type HalfState = "prepared" | "committed" | "rolled_back" | "expired";
export type HalfDecision = "committed" | "rolled_back";

/** When things happen to half messages that nobody decides. All by Redis TIME. */
export interface HalfTimes {
  /** From prepare to the first check: the time that the local transaction takes when all is well. Default 10 s. */
  readonly firstCheckMs: number;
  /** The wait behind the first, the second, … check, so many checks there are. Default 15, from 30 s × 1.5 up to 10 min. */
  readonly checkWaitsMs: readonly number[];
  /** From prepare or resume to expired, however few checks were asked for. Default 4 h. */
  readonly budgetMs: number;
  /** How long an expired one is kept. Default 7 days. */
  readonly expiredMs: number;
  /** How long a decision is remembered. Default 24 h. */
  readonly endedMs: number;
  /** How often who answers checks looks for due ones: what a check may be late. Default 1 s, one small script per partition. */
  readonly lookMs: number;
}

const HOUR_MS = 3_600_000;
/** design.md §6. RocketMQ's 15 checks. */
export const HALF_TIMES: HalfTimes = {
  firstCheckMs: 10_000,
  checkWaitsMs: Array.from({ length: 15 }, (_, n) => Math.min(600_000, Math.round(30_000 * 1.5 ** n))),
  budgetMs: 4 * HOUR_MS,
  expiredMs: 7 * 24 * HOUR_MS,
  endedMs: 24 * HOUR_MS,
  lookMs: 1_000,
};

/** Undecided ones per partition: some 10 s of 200 a second. Whoever prepares more does not decide. */
const OPEN_MAX = 2_000;
/** Decisions remembered per partition, some 250 bytes each. */
const ENDED_MAX = 20_000;
/** Those who are refused for the bound try again when some have been decided. */
const MANY_RETRY_MS = 1_000;

export interface HalfContext extends QueueContext {
  readonly times: HalfTimes;
}

/** What the record tells without its message. */
export interface Half {
  /** The transaction's id. */
  readonly id: string;
  readonly state: HalfState;
  readonly topic: string;
  readonly producerGroup: string;
  readonly checkUrl?: string;
  /** Checks that were handed out. */
  readonly checks: number;
  readonly preparedAt: number;
  /** The id that the message has in its topic: of a duplicate, the original's. */
  readonly messageId: string;
  /** Of a committed one: its entry (none of a duplicate whose original is delayed), and whether another message had its dedupId already. */
  readonly entry?: string;
  readonly duplicate?: boolean;
}

/** A message that is not in its topic yet: `entry` is "", `time` when it was prepared. */
export type HalfMessage = Omit<Message<unknown>, "data" | "redrives" | "attempt">;

/** Id, type, key, sequence, data, properties, attributes. */
export type MessageReply = readonly [string, string, string, string, string, string, string];

const STATES: Readonly<Record<string, HalfState>> = { p: "prepared", c: "committed", r: "rolled_back", x: "expired" };
const LETTERS: Readonly<Record<HalfDecision, string>> = { committed: "c", rolled_back: "r" };

const prepareScript = defineScript({
  name: "mqHalfPrepare",
  lua: [halfLua, prepareLua],
  keys: ["half", "due", "prepared", "stream", "groups"],
  args: [
    ...([
      "id",
      "topic",
      "producerGroup",
      "checkUrl",
      "windowMs",
      "firstCheckMs",
      "budgetMs",
      "openMax",
      "backlogMax",
    ] as const),
    ...(["messageId", "messageType", "key", "sequence", "data", "properties", "attributes", "dedupeId"] as const),
  ],
  decode: (reply) => reply as ["prepared", preparedMs: string] | ["many"] | ["full"],
});

const decideScript = defineScript({
  name: "mqHalfDecide",
  lua: [appendLua, dedupeLua, halfLua, decideLua],
  keys: ["half", "due", "prepared", "expired", "ended", "stream", "even", "odd"],
  args: ["id", "decision", "endedMs", "endedMax"],
  decode: (reply) =>
    reply as [] | [state: string, messageId: string, entry: string, duplicate: string, isDecidedNow: 0 | 1],
});

const resumeScript = defineScript({
  name: "mqHalfResume",
  lua: [halfLua, resumeLua],
  keys: ["half", "due", "prepared", "expired"],
  args: ["id", "budgetMs", "openMax"],
  decode: (reply) => reply as [] | [stateOrMany: string],
});

const readScript = defineScript({
  name: "mqHalfRead",
  lua: [halfLua, readLua],
  keys: ["half", "due"],
  args: ["id"],
  decode: (reply) => reply as [] | [head: string, nextCheckMs: string, message: MessageReply | []],
});

/** Where the checks of a half lie. No producer group can have the name of those with a URL. */
export const HTTP_CHECKS = "#http";
export const checksOf = ({ producerGroup, checkUrl }: Pick<Half, "producerGroup" | "checkUrl">) =>
  checkUrl === undefined ? producerGroup : HTTP_CHECKS;

export function parseHead(id: string, text: string): Half {
  const [state, checks, preparedMs, , topic, producerGroup, checkUrl, messageId, entry, duplicate] = text.split(" ");
  const half: Half = {
    id,
    state: STATES[state!]!,
    topic: topic!,
    producerGroup: producerGroup!,
    ...(checkUrl === "-" ? {} : { checkUrl }),
    checks: Number(checks),
    preparedAt: Number(preparedMs),
    messageId: messageId!,
  };
  return half.state === "committed" ? committed(half, entry!, duplicate!) : half;
}

/** Of an original that is delayed, its due time stands for the entry that it does not have yet. */
function committed(half: Half, entry: string, duplicate: string): Half {
  return { ...half, ...(entry.startsWith("@") ? {} : { entry }), duplicate: duplicate === "1" };
}

export function messageOf(half: Half, partition: number, reply: MessageReply): HalfMessage {
  const [id, type, key, sequence, raw, properties, text] = reply;
  const attributes = parseAttributes(text);
  return {
    ...{ id, topic: half.topic, partition, entry: "", type, key },
    sequence: sequence === "" ? undefined : Number(sequence),
    time: half.preparedAt,
    raw,
    properties: properties === "" ? {} : (JSON.parse(properties) as Record<string, string>),
    tag: attributes.t ?? "",
    expireAt: attributes.x === undefined ? undefined : Number(attributes.x),
    originSequence: undefined,
  };
}

export interface Preparation {
  readonly id: string;
  readonly partition: number;
  readonly topic: AnyTopic;
  readonly producerGroup: string;
  readonly checkUrl: string | undefined;
  readonly firstCheckMs: number;
  /** As valuesOf gives them. */
  readonly values: readonly string[];
}

/**
 * Keeps a half message. Throws AppError RATE_LIMITED when too many of its partition are open or its topic is full, and for Redis
 * errors.
 */
export async function prepareHalf(context: HalfContext, preparation: Preparation): Promise<Half> {
  const { keys, redis, times, metrics } = context;
  const { id, partition, topic, producerGroup, checkUrl, firstCheckMs, values } = preparation;
  const url = checkUrl === undefined ? {} : { checkUrl };
  const [messageId, messageType, key, sequence, data, properties, attributes, dedupeId] = values as MessageValues;
  const send = () =>
    asked(
      prepareScript(redis.commands, {
        half: keys.half(partition),
        due: keys.halfDue(partition, checksOf({ producerGroup, ...url })),
        prepared: keys.halfIn(partition, "prepared"),
        stream: keys.topic(topic.name, partition),
        groups: keys.groups(topic.name, partition),
        ...{ id, topic: topic.name, producerGroup, checkUrl: checkUrl ?? "-", windowMs: topic.dedupMs, firstCheckMs },
        ...{ budgetMs: times.budgetMs, openMax: OPEN_MAX, backlogMax: backlogOfPartition(topic, keys.partitions) },
        ...{ messageId, messageType, key, sequence, data, properties, attributes, dedupeId },
      }),
    );
  const reply = await withRoom(context, topic, partition, send);
  if (reply[0] === "many") throw tooMany();
  metrics.halves.inc({ outcome: "prepared" });
  return {
    ...{ id, state: "prepared", topic: topic.name, producerGroup, ...url },
    ...{ checks: 0, preparedAt: Number(reply[1]), messageId },
  };
}

type MessageValues = [
  ...[id: string, type: string, key: string, sequence: string, data: string, properties: string],
  ...[attributes: string, dedupeId: string],
];

/**
 * Commits or rolls back. The same decision again answers as the first time. Throws AppError CONFLICT with the state when it was
 * decided the other way, NOT_FOUND when there is no such half (any more), and for Redis errors: repeat it then.
 */
export async function decideHalf(context: HalfContext, id: string, decision: HalfDecision): Promise<Half> {
  const { keys, times, metrics } = context;
  const { partition, half } = await findHalf(context, id);
  const reply = await asked(
    decideScript(context.redis.commands, {
      half: keys.half(partition),
      due: keys.halfDue(partition, checksOf(half)),
      prepared: keys.halfIn(partition, "prepared"),
      expired: keys.halfIn(partition, "expired"),
      ended: keys.halfIn(partition, "ended"),
      stream: keys.topic(half.topic, partition),
      even: keys.published(half.topic, partition, "even"),
      odd: keys.published(half.topic, partition, "odd"),
      id,
      decision: LETTERS[decision],
      endedMs: times.endedMs,
      endedMax: ENDED_MAX,
    }),
  );
  if (reply.length === 0) throw notFound(id);
  const [letter, messageId, entry, duplicate, isDecidedNow] = reply;
  const state = STATES[letter]!;
  if (isDecidedNow === 1) {
    metrics.halves.inc({ outcome: state });
    if (state === "committed" && duplicate === "0") metrics.published.inc({ topic: half.topic });
  }
  if (state !== decision) throw conflict(id, state);
  const decided: Half = { ...half, state, messageId };
  return state === "committed" ? committed(decided, entry, duplicate) : decided;
}

/**
 * Gives an expired half a new budget, its first check now. One that is prepared is left as it is. Throws AppError CONFLICT with the
 * state when it was decided, NOT_FOUND, RATE_LIMITED as prepare, and for Redis errors.
 */
export async function resumeHalf(context: HalfContext, id: string): Promise<Half> {
  const { keys, times, metrics } = context;
  const { partition, half } = await findHalf(context, id);
  const [answer] = await asked(
    resumeScript(context.redis.commands, {
      half: keys.half(partition),
      due: keys.halfDue(partition, checksOf(half)),
      prepared: keys.halfIn(partition, "prepared"),
      expired: keys.halfIn(partition, "expired"),
      id,
      budgetMs: times.budgetMs,
      openMax: OPEN_MAX,
    }),
  );
  if (answer === undefined) throw notFound(id);
  if (answer === "many") throw tooMany();
  const state = STATES[answer]!;
  if (state === "committed" || state === "rolled_back") throw conflict(id, state);
  if (state === "expired") metrics.halves.inc({ outcome: "resumed" });
  return { ...half, state: "prepared", checks: state === "expired" ? 0 : half.checks };
}

/** What is known of one half, its message while it is undecided. Throws AppError NOT_FOUND, and for Redis errors. */
export async function readHalf(context: HalfContext, id: string): Promise<HalfDetails> {
  const { keys, redis } = context;
  const { partition, half: found } = await findHalf(context, id);
  const due = keys.halfDue(partition, checksOf(found));
  const reply = await asked(readScript(redis.commands, { half: keys.half(partition), due, id }));
  if (reply.length === 0) throw notFound(id);
  const [head, nextCheckMs, message] = reply;
  const half = parseHead(id, head);
  return {
    ...half,
    ...(nextCheckMs === "" ? {} : { nextCheckAt: Number(nextCheckMs) }),
    ...(message.length === 0 ? {} : { message: messageOf(half, partition, message) }),
  };
}

export interface HalfDetails extends Half {
  /** Ms by Redis TIME; of a prepared one whose checks are not used up. */
  readonly nextCheckAt?: number;
  readonly message?: HalfMessage;
}

/**
 * The head of a half. Its topic and producer group never change: they name the keys of the scripts that decide. Throws as
 * readHalf.
 */
export async function findHalf({ keys, redis }: HalfContext, id: string): Promise<{ partition: number; half: Half }> {
  const partition = partitionOfPlacedId(id, keys.partitions);
  if (partition === undefined) throw notFound(id);
  const head = await asked(redis.commands.hget(keys.half(partition), id));
  if (head === null) throw notFound(id);
  return { partition, half: parseHead(id, head) };
}

async function asked<T>(reply: Promise<T>): Promise<T> {
  try {
    return await reply;
  } catch (error) {
    throw toAppError(error);
  }
}

function notFound(id: string): AppError {
  return new AppError("NOT_FOUND", `there is no transaction ${id}, or its end was long ago`);
}

function conflict(id: string, state: HalfState): AppError {
  return new AppError("CONFLICT", `transaction ${id} is ${state.replace("_", " ")} already`, { state });
}

function tooMany(): AppError {
  const message = `more than ${OPEN_MAX} transactions of one partition are undecided`;
  return new AppError("RATE_LIMITED", message, { retryAfterMs: MANY_RETRY_MS });
}
