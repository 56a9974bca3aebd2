/**
 * The commit of sends: the one place where a message becomes durable. Sends of a partition that arrive while a script of
 * that partition is under way go together with the next one, so load makes batches by itself and an idle system adds no wait.
 *
 *   send ─► queue of its partition ─► im-send script (≤ 64 sends) ─► [WAIT n] ─► outcome per send
 *
 * A script that Redis did not execute is repeated with back-off; one whose outcome is unknown is repeated as well, for the
 * dedupe record makes that safe. Past the deadline the send ends as OVERLOADED (never executed) or UNKNOWN_OUTCOME.
 */

import { backoffMs, type Clock } from "../clock.ts";
import { AppError, type ErrorCode } from "../errors.ts";
import { topicIsFull } from "../mq/index.ts";
import type { Metrics } from "../observability/index.ts";
import { defineScript, type Keys, outcomeOf, type RedisClient, toAppError } from "../redis/index.ts";
import lua from "../redis/lua/im-send.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import { CHANNEL_SPEAKERS } from "./permissions.ts";
import { awaitReplicas } from "./replicas.ts";
import type { Room } from "./room.ts";
import { imEvents } from "./topics.ts";

/** 64 sends keep the script near 0.6 ms; 128 gave 3 % more throughput and twice the wait of whoever comes next. */
const BATCH_MAX = 64;
/** Waiting sends per partition before callers are told OVERLOADED: some 50 ms of work. */
const QUEUE_MAX = 4_096;
/** A send is tried for so long; the caller's own deadline is 5 s. */
const DEADLINE_MS = 4_000;
const RETRY = { firstMs: 20, maxMs: 500, jitter: 0.3 };
/** One dedupe generation; two are looked at, so an id is remembered for 24 to 48 h. */
const GENERATION_MS = 24 * 3_600_000;

export interface Send {
  readonly conversation: string;
  readonly by: string;
  readonly clientId: string;
  /** Of type, body, replyTo and mentions: tells a repeated send from another one under the same id. */
  readonly digest: string;
  readonly id: string;
  /** 0: none. */
  readonly replyTo: number;
  /** The message's JSON behind its seq: `"id":…}`. */
  readonly tail: string;
  /** Of the sender, "" when it came by HTTP. */
  readonly connection: string;
}

export type SendOutcome =
  | { readonly seq: number; readonly id: string; readonly isDuplicate: boolean }
  | { readonly error: AppError };

export interface Committer {
  commit(send: Send): Promise<SendOutcome>;
  /** Whether a message was committed under this clientId; remembered as long as repetitions are found. */
  knows(by: string, conversation: string, clientId: string): Promise<boolean>;
}

export interface CommitterParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Replicas that must hold a commit before it is acknowledged; 0 below `replicated`. */
  readonly replicas: number;
  readonly room: Room;
}

interface Waiting {
  readonly send: Send;
  readonly resolve: (outcome: SendOutcome) => void;
}

type Reply = readonly (string | number)[];

const commitSends = defineScript({
  name: "imSend",
  lua: [append, lua],
  keys: ["events", "sent", "sentBefore", "eventGroups"],
  args: ["generation", "generationMs", "eventsMax", "conversationCount", "channelSpeakers"],
  hasRest: true,
  decode: (reply) => reply as Reply,
});

const FULL = "EFULL";

const REFUSALS: Record<string, readonly [ErrorCode, string?]> = {
  NOT_MEMBER: ["NOT_MEMBER"],
  MUTED: ["MUTED"],
  BLOCKED: ["FORBIDDEN", "The other user takes no messages from you"],
  FORBIDDEN: ["FORBIDDEN", "Only the owner and admins of a channel may write"],
  DISSOLVED: ["FORBIDDEN", "The conversation is dissolved"],
  REPLY_TO: ["INVALID", "replyTo must be the seq of an earlier entry"],
  INTERNAL: ["INTERNAL"],
};

export function createCommitter(parts: CommitterParts): Committer {
  const { redis, keys, clock, metrics, replicas, room } = parts;
  const queues: Waiting[][] = Array.from({ length: keys.partitions }, () => []);
  const isRunning: boolean[] = queues.map(() => false);

  async function drain(partition: number): Promise<void> {
    const queue = queues[partition]!;
    isRunning[partition] = true;
    while (queue.length > 0) {
      const batch = queue.splice(0, BATCH_MAX);
      try {
        await commitBatch(partition, batch);
      } catch (error) {
        for (const { resolve } of batch) resolve({ error: toAppError(error) });
      }
    }
    isRunning[partition] = false;
  }

  async function commitBatch(partition: number, batch: readonly Waiting[]): Promise<void> {
    const startedMs = performance.now();
    const input = batchInput(batch);
    let replies = await withRetries(() => execute(partition, input));
    if (replies.includes(FULL)) {
      // Again for all: those that were committed are found to be duplicates of themselves.
      await room.make(partition);
      replies = await withRetries(() => execute(partition, input));
      metrics.publishRefused.inc({ topic: imEvents.name }, replies.filter((reply) => reply === FULL).length);
    }
    metrics.commitBatch.observe(batch.length);
    metrics.commitSeconds.observe((performance.now() - startedMs) / 1_000);
    for (let i = 0; i < batch.length; i++) batch[i]!.resolve(toOutcome(batch[i]!.send, replies[i]!));
  }

  /** Runs `attempt` until it succeeds or the deadline passes. Throws AppError; unknown once is unknown for good. */
  async function withRetries(attempt: () => Promise<Reply>): Promise<Reply> {
    const deadline = performance.now() + DEADLINE_MS;
    let unknown: AppError | undefined;
    for (let tries = 1; ; tries++) {
      try {
        return await attempt();
      } catch (error) {
        const outcome = error instanceof AppError ? "unknown" : outcomeOf(error);
        metrics.redisErrors.inc({ class: outcome });
        if (outcome === "bug") throw error;
        if (outcome === "unknown") unknown = toAppError(error);
        const waitMs = backoffMs(tries, RETRY);
        if (performance.now() + waitMs > deadline) throw unknown ?? toAppError(error);
        await clock.sleep(waitMs);
      }
    }
  }

  async function execute(partition: number, input: BatchInput): Promise<Reply> {
    let generation = Math.floor(clock.now() / GENERATION_MS);
    // Once more when the clocks of this worker and Redis lie on two sides of midnight.
    for (;;) {
      const called = commitSends(redis, {
        ...room.at(partition),
        sent: keys.sent(partition, generation),
        sentBefore: keys.sent(partition, generation - 1),
        generation,
        generationMs: GENERATION_MS,
        conversationCount: input.conversations.length,
        channelSpeakers: CHANNEL_SPEAKERS,
        restKeys: input.conversations.flatMap((id) => [keys.members(id), keys.log(id)]),
        restArgs: input.args,
      });
      // On the same connection, so WAIT speaks of this script's writes.
      const [reply] = await Promise.all([called, awaitReplicas(redis, replicas)]);
      if (reply[0] === "G") {
        generation = Number(reply[1]);
        continue;
      }
      return reply;
    }
  }

  return {
    commit(send) {
      const partition = keys.partitionOf(send.conversation);
      const queue = queues[partition]!;
      if (queue.length >= QUEUE_MAX) {
        return Promise.resolve({
          error: new AppError("OVERLOADED", "Too many sends are waiting", { retryAfterMs: 200 }),
        });
      }
      return new Promise((resolve) => {
        queue.push({ send, resolve });
        // After the microtasks of this tick: calls that arrived in one request share a script.
        if (!isRunning[partition]) {
          isRunning[partition] = true;
          queueMicrotask(() => void drain(partition));
        }
      });
    },
    async knows(by, conversation, clientId) {
      const partition = keys.partitionOf(conversation);
      const generation = Math.floor(clock.now() / GENERATION_MS);
      const field = dedupeField(by, conversation, clientId);
      const records = await Promise.all([
        redis.hget(keys.sent(partition, generation), field),
        redis.hget(keys.sent(partition, generation - 1), field),
      ]);
      return records.some((record) => record !== null);
    },
  };
}

function dedupeField(by: string, conversation: string, clientId: string): string {
  return `${by}/${conversation}/${clientId}`;
}

interface BatchInput {
  readonly conversations: readonly string[];
  readonly args: (string | number)[];
}

function batchInput(batch: readonly Waiting[]): BatchInput {
  const indexes = new Map<string, number>();
  const sends: (string | number)[] = [];
  for (const { send } of batch) {
    let index = indexes.get(send.conversation);
    if (index === undefined) {
      index = indexes.size + 1;
      indexes.set(send.conversation, index);
    }
    const field = dedupeField(send.by, send.conversation, send.clientId);
    const propertiesEnd = send.connection === "" ? '"}' : `","connection":"${send.connection}"}`;
    sends.push(index, send.by, field, ` ${send.id} ${send.digest}`, send.replyTo, send.tail, send.id, propertiesEnd);
  }
  const conversations = [...indexes.keys()];
  return { conversations, args: [...conversations, ...sends] };
}

function toOutcome(send: Send, reply: string | number): SendOutcome {
  if (typeof reply === "number") return { seq: reply, id: send.id, isDuplicate: false };
  if (reply.startsWith("D")) {
    const [seq, id, digest] = reply.slice(1).split(" ");
    // Its own id: the first try of this very send was executed and its reply lost.
    if (digest === send.digest) return { seq: Number(seq), id: id!, isDuplicate: id !== send.id };
    return { error: new AppError("CONFLICT", "clientId was used for another message in this conversation") };
  }
  if (reply === FULL) return { error: topicIsFull(imEvents) };
  const [code, detail] = REFUSALS[reply.slice(1)] ?? (["INTERNAL"] as const);
  return { error: new AppError(code, detail) };
}
