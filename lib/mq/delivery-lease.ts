/**
 * The leases of single deliveries, for concurrent groups. Redis' pending list holds them: who has an entry, since when, and
 * how often it was handed out. That count, behind the group's generation (stream-group.ts), is the fencing token: every claim
 * and every seek raises it, and renew and settle are refused when it has moved on.
 */

import { defineScript, type RedisClient } from "../redis/index.ts";
import ackLua from "../redis/lua/mq-ack.lua" with { type: "text" };
import ackWithLua from "../redis/lua/mq-ack-with.lua" with { type: "text" };
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import buryLua from "../redis/lua/mq-bury.lua" with { type: "text" };
import claimLua from "../redis/lua/mq-claim.lua" with { type: "text" };
import dropLua from "../redis/lua/mq-consumers-drop.lua" with { type: "text" };
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import delayLua from "../redis/lua/mq-delay.lua" with { type: "text" };
import disownLua from "../redis/lua/mq-disown.lua" with { type: "text" };
import effectLua from "../redis/lua/mq-effect.lua" with { type: "text" };
import lostLua from "../redis/lua/mq-lost.lua" with { type: "text" };
import receiveLua from "../redis/lua/mq-receive.lua" with { type: "text" };
import redeliverLua from "../redis/lua/mq-redeliver.lua" with { type: "text" };
import renewLua from "../redis/lua/mq-renew.lua" with { type: "text" };
import settleLua from "../redis/lua/mq-settle.lua" with { type: "text" };
import writesLua from "../redis/lua/mq-writes.lua" with { type: "text" };
import { type Attempts, formatAttempts, parseAttempts } from "./attempts.ts";
import type { DeliveryContext, QueueContext } from "./consumer.ts";
import { type DeadLetter, deadLettersMax } from "./dead-letter.ts";
import type { Effect, EffectInput, EffectRefusal } from "./effect.ts";
import type { Delivery, StreamEntry } from "./message.ts";
import { registrationsOf, streamGroupOf } from "./stream-group.ts";

export interface Claim {
  readonly entry: StreamEntry;
  /** How often it was handed out, this time included. */
  readonly count: number;
  readonly attempts: Attempts;
}

/** No entry is handed out so often, so a token of a later generation is always higher. */
const COUNT_LIMIT = 2 ** 30;

/** What becomes of a delivery; `pass` acks it unseen. `record`: the attempts to remember, or undefined to leave them as they are. */
export type Settlement =
  | { readonly kind: "ack" }
  | { readonly kind: "pass" }
  | { readonly kind: "retry"; readonly waitMs: number; readonly record?: Attempts }
  | { readonly kind: "bury"; readonly letter: DeadLetter }
  /** Stays in hand; the record says that it is alone there. */
  | { readonly kind: "alone"; readonly record: Attempts };

/** `settled` now, `stale`: another holds it, `gone`: settled before. */
export type SettleOutcome = "settled" | "stale" | "gone";
const OUTCOMES: readonly SettleOutcome[] = ["stale", "settled", "gone"];

type ClaimReply = [entry: string, fields: string[], count: number, record: string][];

function claimsOf(reply: ClaimReply): Claim[] {
  return reply.map(([entry, fields, count, record]) => ({
    entry: [entry, fields],
    count,
    attempts: parseAttempts(record),
  }));
}

const claimScript = defineScript({
  name: "mqClaim",
  lua: [lostLua, redeliverLua, claimLua],
  keys: ["stream", "retries", "attempts", "lease"],
  args: ["group", "member", "leaseMs", "limit"],
  decode: (reply) => {
    const [claims, deleted, due] = reply as [ClaimReply, deleted: number, due: string];
    // When the next retry is due, ms by Redis TIME.
    return { claims: claimsOf(claims), deleted, nextDueMs: due === "" ? undefined : Number(due) };
  },
});

type ReceiveReply = [] | [generation: string, ClaimReply, deleted: number, until: string, due: string];

const receiveScript = defineScript({
  name: "mqReceive",
  lua: [lostLua, redeliverLua, receiveLua],
  keys: ["stream", "groups", "retries", "attempts", "lease"],
  args: ["group", "leaseMs", "limit", "bytesMax"],
  decode: (reply) => {
    const given = reply as ReceiveReply;
    if (given.length === 0) return undefined;
    const [generation, claims, deleted, until, due] = given;
    return {
      generation: Number(generation),
      claims: claimsOf(claims),
      deleted,
      leaseUntil: Number(until),
      nextDueMs: due === "" ? undefined : Number(due),
    };
  },
});

const ackScript = defineScript({
  name: "mqAck",
  lua: ackLua,
  keys: ["stream", "attempts", "lease"],
  args: ["group", "member", "handed", "knownClaims"],
  hasRest: true,
  decode(reply) {
    const [claims, outcomes] = reply as [claims: string, outcomes?: number[]];
    return { claims, outcomes: outcomes ? outcomes.map((outcome) => OUTCOMES[outcome]!) : ("settled" as const) };
  },
});

const ackWithScript = defineScript({
  name: "mqAckWith",
  lua: [appendLua, dedupeLua, delayLua, writesLua, effectLua, ackWithLua],
  keys: ["stream", "attempts"],
  args: ["group", "member", "count"],
  hasRest: true,
  decode: (reply) => reply as EffectRefusal | ["settled", appended: number[]] | ["stale"] | ["gone"],
});

const settleScript = defineScript({
  name: "mqSettle",
  lua: [buryLua, settleLua],
  keys: ["stream", "retries", "attempts", "dead"],
  args: ["group", "member", "deadMax"],
  hasRest: true,
  decode: (reply) => {
    const [outcomes, evicted] = reply as [number[], number];
    return { outcomes: outcomes.map((outcome) => OUTCOMES[outcome]!), evicted };
  },
});

const renewScript = defineScript({
  name: "mqRenew",
  lua: renewLua,
  keys: ["stream", "retries"],
  args: ["group", "member", "leaseMs"],
  hasRest: true,
  decode: (reply) => reply as number[],
});

const disownScript = defineScript({
  name: "mqDisown",
  lua: [lostLua, redeliverLua, disownLua],
  keys: ["stream", "retries", "attempts", "lease"],
  args: ["group", "member", "limit"],
  decode: Number,
});

const dropScript = defineScript({
  name: "mqConsumersDrop",
  lua: dropLua,
  keys: ["stream"],
  args: ["group", "idleMs", "limit"],
  decode: Number,
});

/** What settle and renew are fenced by: which entry, and which of its hand-outs. */
export interface Fence {
  readonly entry: string;
  readonly count: number;
}

/** Acks deliveries of one batch with an effect. */
export type Committer<D> = (holds: readonly Hold<D>[], effect: EffectInput) => Promise<void>;

/** One delivery in hand. It is the handler's context too. */
export class Hold<D> implements DeliveryContext, Fence {
  readonly partition: number;
  readonly entry: string;
  renewedAt = performance.now();
  /** Its consume transaction, from the moment when it is asked for. */
  transaction: Promise<void> | undefined;
  /** It is acked, by its transaction. */
  isCommitted = false;
  /** Who can commit it; set when it is handed out. */
  committer: Committer<D> | undefined;
  #controller: AbortController | undefined;
  #reason: Error | undefined;

  constructor(
    readonly delivery: Delivery<D>,
    readonly count: number,
    readonly attempts: Attempts,
    readonly generation = 0,
    /** What was known of the partition's claims before it was read; "" for what was claimed itself. */
    readonly knownClaims = "",
  ) {
    this.partition = delivery.partition;
    this.entry = delivery.entry;
  }

  get token(): number {
    return this.generation * COUNT_LIMIT + this.count;
  }

  get isLost(): boolean {
    return this.#reason !== undefined;
  }

  /** Made when a handler asks for it: most do not. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#reason) this.#controller.abort(this.#reason);
    return this.#controller.signal;
  }

  /** Made when a handler asks for it, for it may take it off its context. */
  get commit(): (effect?: EffectInput) => Promise<void> {
    return (effect = {}) => this.committer!([this], effect);
  }

  lose(reason: Error): void {
    this.#reason ??= reason;
    this.#controller?.abort(reason);
  }
}

/** The deliveries of one group, by partition: claim, receive, renew, settle, on behalf of one member. Every call throws Redis errors. */
export class DeliveryLeases {
  readonly #context: QueueContext;
  readonly #topic: string;
  readonly #group: string;
  readonly #leaseMs: number;
  readonly #member: string;
  #generations: number[];
  /** By partition, as last heard: how often members have lost deliveries there. */
  readonly #claims: string[];

  constructor(context: QueueContext, topic: string, group: string, leaseMs: number, member = context.member) {
    this.#context = context;
    this.#topic = topic;
    this.#group = group;
    this.#leaseMs = leaseMs;
    this.#member = member;
    this.#generations = new Array(context.keys.partitions).fill(0);
    this.#claims = new Array(context.keys.partitions).fill("");
  }

  generation(partition: number): number {
    return this.#generations[partition]!;
  }

  /** Looks which generation the group has now. Resolves to the partitions where it is another than before. */
  async learn(): Promise<ReadonlySet<number>> {
    const registrations = await registrationsOf(this.#context, this.#topic, this.#group);
    const changed = new Set<number>();
    for (const [partition, registration] of registrations.entries()) {
      if (!registration || registration.generation === this.#generations[partition]) continue;
      this.#generations[partition] = registration.generation;
      changed.add(partition);
    }
    return changed;
  }

  /** Gives back what this member held in its last life. Resolves to how many; as many as `limit`: there may be more. */
  disown(partition: number, limit: number): Promise<number> {
    return disownScript(this.#commands, { ...this.#keys(partition), ...this.#names(partition), limit });
  }

  /** At most `limit` deliveries to hand out again, with the generation under which they were claimed. */
  async claim(partition: number, limit: number) {
    const generation = this.generation(partition);
    const names = this.#names(partition, generation);
    const reply = await claimScript(this.#commands, {
      ...this.#keys(partition),
      ...names,
      leaseMs: this.#leaseMs,
      limit,
    });
    return { ...reply, generation };
  }

  /** To be asked before a read is sent, and to be given to the holds that come of it. */
  knownClaims(partition: number): string {
    return this.#claims[partition]!;
  }

  /** Acks deliveries of one generation and count, in the partition's order. Resolves to the outcome of each, or of all. */
  async ack<D>(partition: number, holds: readonly Hold<D>[]): Promise<SettleOutcome | readonly SettleOutcome[]> {
    const { stream, attempts, lease } = this.#keys(partition);
    const [{ count, knownClaims }] = holds as [Hold<D>];
    const { claims, outcomes } = await ackScript(this.#commands, {
      ...{ stream, attempts, lease },
      ...this.#names(partition),
      handed: count,
      knownClaims: holds.every((hold) => hold.knownClaims === knownClaims) ? knownClaims : "",
      restArgs: holds.map(({ entry }) => entry),
    });
    this.#claims[partition] = claims;
    return outcomes;
  }

  /** Acks deliveries of one partition and generation together with an effect, all or nothing. */
  ackWith<D>(holds: readonly Hold<D>[], effect: Effect) {
    const { partition, generation } = holds[0]!;
    const { stream, attempts } = this.#keys(partition);
    return ackWithScript(this.#commands, {
      stream,
      attempts,
      ...this.#names(partition, generation),
      count: holds.length,
      restKeys: effect.keys,
      restArgs: [...holds.flatMap(({ entry, count }) => [entry, count]), ...effect.args],
    });
  }

  /** At most `limit` deliveries for a service outside, due and new ones, of whatever generation the group is; undefined when it is not registered. */
  receive(partition: number, limit: number, bytesMax: number) {
    return receiveScript(this.#commands, {
      ...this.#keys(partition),
      groups: this.#context.keys.groups(this.#topic, partition),
      group: this.#group,
      leaseMs: this.#leaseMs,
      limit,
      bytesMax,
    });
  }

  /** All of one generation. */
  settle(
    partition: number,
    items: readonly { hold: Fence; settlement: Settlement }[],
    generation = this.generation(partition),
  ) {
    return settleScript(this.#commands, {
      ...this.#keys(partition),
      ...this.#names(partition, generation),
      deadMax: deadLettersMax(this.#context),
      restArgs: items.flatMap(({ hold, settlement }) => settleArgs(hold, settlement)),
    });
  }

  /** All of one generation. Resolves per delivery to the end of its lease, ms by Redis TIME; 0: it is not held any more. */
  renew(
    partition: number,
    holds: readonly Fence[],
    generation = this.generation(partition),
  ): Promise<readonly number[]> {
    return renewScript(this.#commands, {
      ...this.#keys(partition),
      ...this.#names(partition, generation),
      leaseMs: this.#leaseMs,
      restArgs: holds.flatMap(({ entry, count }) => [entry, count]),
    });
  }

  /** Forgets member names that are idle for long and hold nothing. */
  dropConsumers(partition: number, idleMs: number, limit: number): Promise<number> {
    return dropScript(this.#commands, { ...this.#keys(partition), ...this.#names(partition), idleMs, limit });
  }

  #names(partition: number, generation = this.generation(partition)) {
    return { group: streamGroupOf(this.#group, generation), member: this.#member };
  }

  get #commands(): RedisClient {
    return this.#context.redis.commands;
  }

  #keys(partition: number) {
    const { keys } = this.#context;
    return {
      stream: keys.topic(this.#topic, partition),
      retries: keys.retries(this.#topic, partition, this.#group),
      attempts: keys.attempts(this.#topic, partition, this.#group),
      lease: keys.lease(this.#topic, partition, this.#group),
      dead: keys.deadLetters(this.#topic, partition, this.#group),
    };
  }
}

function settleArgs({ entry, count }: Fence, settlement: Settlement): (string | number)[] {
  const head = [settlement.kind, entry, count];
  switch (settlement.kind) {
    case "ack":
    case "pass":
      return [...head, 0, ""];
    case "retry":
      return [...head, settlement.waitMs, settlement.record ? formatAttempts(settlement.record) : ""];
    case "bury":
      return [...head, 0, "", ...settlement.letter.values];
    case "alone":
      return [...head, 0, formatAttempts(settlement.record)];
  }
}
