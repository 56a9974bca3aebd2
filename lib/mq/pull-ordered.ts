/**
 * Pulling from an ordered group. `#pull` holds partitions as a member would (pull-share.ts); every message goes to the side queue
 * before it is handed out, so of each key one message at a time is out, in order, and what is unfinished is in Redis for whichever
 * process is asked next, and for members that take the partition over: they wait for the end of what is out.
 *
 *   stream ──receive──► aside, and the first message of each key out ──ack──► gone, the next of its key is due
 */

import { defineScript } from "../redis/index.ts";
import answerLua from "../redis/lua/mq-answer-ordered.lua" with { type: "text" };
import buryLua from "../redis/lua/mq-bury.lua" with { type: "text" };
import lostLua from "../redis/lua/mq-lost.lua" with { type: "text" };
import receiveLua from "../redis/lua/mq-receive-ordered.lua" with { type: "text" };
import sideLua from "../redis/lua/mq-side.lua" with { type: "text" };
import { type Attempts, formatAttempts, parseAttempts, resume } from "./attempts.ts";
import type { QueueContext } from "./consumer.ts";
import { type DeadLetter, deadLetterOf, deadLettersMax } from "./dead-letter.ts";
import { Delivery } from "./message.ts";
import {
  type Failure,
  type Handed,
  judge,
  type Outlet,
  PULL_MEMBER,
  type PullGroup,
  type PullOutcome,
  type Taken,
  type Verdict,
} from "./pull-outlet.ts";
import { PULL_HOLD_MS, type PullShare } from "./pull-share.ts";
import type { PullRef } from "./pull-token.ts";
import { parseAside, parseSideMessage, sideKeys } from "./side.ts";
import { SIDE_BYTES_MAX, SIDE_KEYS_MAX, SIDE_MESSAGES_MAX } from "./side-queue.ts";
import type { Topic } from "./topic.ts";

/** Answers per script call: about 1 ms of Redis. */
const CHUNK_MAX = 100;

type Claim = [key: string, entry: string, header: string, data: string, attempts: string];
type ReceiveReply =
  | [0]
  | [1, Claim[], token: string, until: string, isMore: 0 | 1, due: string, isFull: 0 | 1, lost: number];

const receiveScript = defineScript({
  name: "mqReceiveOrdered",
  lua: [lostLua, sideLua, receiveLua],
  keys: ["stream", "lease", "attempts", "aside", "asideDue", "side", "sideOrder"],
  args: ["leaseMs", "holdMs", "limit", "bytesMax", "keysMax", "messagesMax", "memoryMax"],
  decode: (reply) => {
    const given = reply as ReceiveReply;
    if (given[0] === 0) return undefined;
    const [, claims, token, until, isMore, due, isFull, lost] = given;
    return {
      ...{ claims, token, lost, leaseUntil: Number(until), isMore: isMore === 1, isFull: isFull === 1 },
      nextDueMs: due === "" ? undefined : Number(due),
    };
  },
});

const answerScript = defineScript({
  name: "mqAnswerOrdered",
  lua: [buryLua, sideLua, answerLua],
  keys: ["lease", "dead", "aside", "asideDue", "side", "sideOrder"],
  args: ["deadMax"],
  hasRest: true,
  decode: (reply) => {
    const [outcomes, evicted] = reply as [number[], number];
    return { outcomes, evicted };
  },
});

/** What becomes of a delivery. */
type Answer =
  | { readonly kind: "ack" }
  | { readonly kind: "release" | "renew"; readonly ms: number }
  | { readonly kind: "retry"; readonly ms: number; readonly attempts: Attempts }
  | { readonly kind: "park"; readonly attempts: Attempts }
  | { readonly kind: "bury"; readonly letter: DeadLetter };

interface Item {
  readonly ref: PullRef;
  readonly answer: Answer;
}

export class OrderedOutlet<D> implements Outlet<D> {
  mayRegister = true;
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #group: PullGroup;
  readonly #share: PullShare;

  constructor(context: QueueContext, topic: Topic<D>, group: PullGroup, share: PullShare) {
    this.#context = context;
    this.#topic = topic;
    this.#group = group;
    this.#share = share;
  }

  open(): Promise<readonly number[]> {
    return this.#share.partitions(this.#group, this.mayRegister);
  }

  async take(partition: number, limit: number, bytesMax: number): Promise<Taken<D>> {
    const { redis, metrics, log } = this.#context;
    const given = await receiveScript(redis.commands, {
      ...this.#keys(partition),
      ...{ leaseMs: this.#group.leaseMs, holdMs: PULL_HOLD_MS, limit, bytesMax },
      ...{ keysMax: SIDE_KEYS_MAX, messagesMax: SIDE_MESSAGES_MAX, memoryMax: SIDE_BYTES_MAX },
    });
    if (!given) {
      // A member has taken it over, or a seek freed it: whoever waits looks again.
      this.#share.forget();
      return { handed: [], isMore: false, nextDueMs: undefined };
    }
    const labels = { topic: this.#topic.name, group: this.#group.group };
    if (given.lost > 0) metrics.lostByTrim.inc(labels, given.lost);
    if (given.isFull)
      log.error({ ...labels, partition }, "too much stands aside: the partition is not read until some of it goes on");
    const handed: Handed<D>[] = [];
    const unseen: Item[] = [];
    for (const [, entry, header, data, text] of given.claims) {
      const delivery = new Delivery(this.#topic, partition, [entry, [header, data]]);
      const attempts = parseAttempts(text);
      resume(delivery, attempts);
      if (attempts.losses > 0) metrics.takeovers.inc(labels);
      const verdict = judge(this.#context, this.#topic.name, this.#group, delivery, attempts);
      if (verdict === "hand" || verdict === "suspect") {
        handed.push({
          ...{ delivery, fence: given.token, leaseUntil: given.leaseUntil },
          isSuspect: verdict === "suspect",
        });
      } else {
        const ref = { partition, entry, fence: given.token, key: delivery.key };
        unseen.push({ ref, answer: this.#answerOf(verdict, delivery, attempts) });
      }
    }
    if (unseen.length > 0) await this.#answer(partition, unseen);
    return { handed, isMore: given.isMore || unseen.length > 0, nextDueMs: given.nextDueMs };
  }

  ack(refs: readonly PullRef[]): Promise<readonly PullOutcome[]> {
    return this.#answerAll(refs, { kind: "ack" });
  }

  release(refs: readonly PullRef[], waitMs: number): Promise<readonly PullOutcome[]> {
    return this.#answerAll(refs, { kind: "release", ms: waitMs });
  }

  async fail(ref: PullRef, { error, waitMs, isHopeless }: Failure): Promise<PullOutcome> {
    const { redis, clock, metrics } = this.#context;
    const { group, maxAttempts, retryMs } = this.#group;
    const [text, delivery] = await Promise.all([
      redis.commands.hget(this.#keys(ref.partition).aside, ref.key || ref.entry),
      this.find(ref),
    ]);
    if (!delivery) return "gone";
    const record = parseAside(text ?? "");
    if (!record) return "stale";
    resume(delivery, record);
    delivery.note(clock.now(), PULL_MEMBER, error);
    const failed = record.failed + 1;
    const firstFailureMs = record.firstFailureMs || clock.now();
    const attempts = { failed, losses: record.losses, firstFailureMs, history: delivery.history };
    const isOver = isHopeless || failed >= maxAttempts;
    const verdict: Verdict = { reason: isHopeless ? "bury" : "attempts", error };
    const answer: Answer = isOver
      ? this.#answerOf(verdict, delivery, attempts)
      : { kind: "retry", ms: waitMs ?? retryMs(failed), attempts };
    // The script refuses it when anything has happened to the delivery since its record was read.
    const [outcome] = await this.#answer(ref.partition, [{ ref, answer }]);
    if (outcome === 1 && !isOver) metrics.retried.inc({ topic: this.#topic.name, group });
    return outcomeOf(outcome!);
  }

  async renew(refs: readonly PullRef[], leaseMs: number): Promise<readonly number[]> {
    const items = refs.map((ref) => ({ ref, answer: { kind: "renew", ms: leaseMs } as const }));
    const ends = await this.#answer(refs[0]!.partition, items);
    return ends.map((end) => (end > 2 ? end : 0));
  }

  async find(ref: PullRef): Promise<Delivery<D> | undefined> {
    const text = await this.#context.redis.commands.hget(this.#keys(ref.partition).side, ref.entry);
    return text === null ? undefined : new Delivery(this.#topic, ref.partition, [ref.entry, parseSideMessage(text)]);
  }

  /** What is not handed out is passed over, parked or buried. A rejected message is buried whatever the group does with poison. */
  #answerOf(verdict: Exclude<Verdict, "hand" | "suspect">, delivery: Delivery<D>, attempts: Attempts): Answer {
    if (verdict === "pass") return { kind: "ack" };
    const { reason, error } = verdict;
    const isPoison = reason === "attempts" || reason === "poison";
    if (isPoison && this.#group.onPoison === "park") return { kind: "park", attempts };
    return { kind: "bury", letter: deadLetterOf(delivery, reason, error) };
  }

  async #answerAll(refs: readonly PullRef[], answer: Answer): Promise<readonly PullOutcome[]> {
    const items = refs.map((ref) => ({ ref, answer }));
    return (await this.#answer(refs[0]!.partition, items)).map(outcomeOf);
  }

  async #answer(partition: number, items: readonly Item[]): Promise<readonly number[]> {
    const { redis, metrics } = this.#context;
    const labels = { topic: this.#topic.name, group: this.#group.group };
    const all: number[] = [];
    for (let first = 0; first < items.length; first += CHUNK_MAX) {
      const chunk = items.slice(first, first + CHUNK_MAX);
      const { outcomes, evicted } = await answerScript(redis.commands, {
        ...this.#keys(partition),
        deadMax: deadLettersMax(this.#context),
        restArgs: chunk.flatMap(argsOf),
      });
      const buried = chunk.filter(({ answer }, i) => answer.kind === "bury" && outcomes[i] === 1);
      if (buried.length > 0) metrics.buried.inc(labels, buried.length);
      if (evicted > 0) metrics.deadLettersEvicted.inc(labels, evicted);
      all.push(...outcomes);
    }
    return all;
  }

  #keys(partition: number) {
    const { keys } = this.#context;
    const { name } = this.#topic;
    const { group } = this.#group;
    return {
      ...sideKeys(keys, name, partition, group),
      stream: keys.topic(name, partition),
      lease: keys.lease(name, partition, group),
      attempts: keys.attempts(name, partition, group),
      dead: keys.deadLetters(name, partition, group),
    };
  }
}

function argsOf({ ref, answer }: Item): (string | number)[] {
  const head = [answer.kind, ref.key || ref.entry, ref.entry, ref.fence];
  switch (answer.kind) {
    case "ack":
      return [...head, 0, ""];
    case "release":
    case "renew":
      return [...head, answer.ms, ""];
    case "retry":
      return [...head, answer.ms, formatAttempts(answer.attempts)];
    case "park":
      return [...head, 0, formatAttempts(answer.attempts)];
    case "bury":
      return [...head, 0, "", ...answer.letter.values];
  }
}

function outcomeOf(outcome: number): PullOutcome {
  return outcome === 1 ? "ok" : outcome === 2 ? "gone" : "stale";
}
