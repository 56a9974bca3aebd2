/**
 * The leases of single deliveries, for concurrent groups. Redis' pending list holds them: who has an entry, since when, and
 * how often it was handed out. That count, behind the group's generation (stream-group.ts), is the fencing token: every claim
 * and every seek raises it, and renew and settle are refused when it has moved on.
 */

import { defineScript, type RedisClient } from "../redis/index.ts";
import buryLua from "../redis/lua/mq-bury.lua" with { type: "text" };
import claimLua from "../redis/lua/mq-claim.lua" with { type: "text" };
import dropLua from "../redis/lua/mq-consumers-drop.lua" with { type: "text" };
import disownLua from "../redis/lua/mq-disown.lua" with { type: "text" };
import renewLua from "../redis/lua/mq-renew.lua" with { type: "text" };
import settleLua from "../redis/lua/mq-settle.lua" with { type: "text" };
import { type Attempts, formatAttempts, parseAttempts } from "./attempts.ts";
import type { DeliveryContext, QueueContext } from "./consumer.ts";
import { type DeadLetter, deadLettersMax } from "./dead-letter.ts";
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
  | { readonly kind: "bury"; readonly letter: DeadLetter };

/** `settled` now, `stale`: another holds it, `gone`: settled before. */
export type SettleOutcome = "settled" | "stale" | "gone";
const OUTCOMES: readonly SettleOutcome[] = ["stale", "settled", "gone"];

type ClaimReply = [[entry: string, fields: string[], count: number, record: string][], deleted: number, due: string];

const claimScript = defineScript({
  name: "mqClaim",
  lua: claimLua,
  keys: ["stream", "retries", "attempts", "lease"],
  args: ["group", "member", "leaseMs", "limit"],
  decode: (reply) => {
    const [claims, deleted, due] = reply as ClaimReply;
    return {
      claims: claims.map(
        ([entry, fields, count, record]): Claim => ({
          entry: [entry, fields],
          count,
          attempts: parseAttempts(record),
        }),
      ),
      deleted,
      /** When the next retry is due, ms by Redis TIME. */
      nextDueMs: due === "" ? undefined : Number(due),
    };
  },
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
  keys: ["stream"],
  args: ["group", "member"],
  hasRest: true,
  decode: (reply) => (reply as number[]).map((renewed) => renewed === 1),
});

const disownScript = defineScript({
  name: "mqDisown",
  lua: disownLua,
  keys: ["stream", "retries", "attempts"],
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

/** One delivery in hand. It is the handler's context too. */
export class Hold<D> implements DeliveryContext {
  readonly partition: number;
  renewedAt = performance.now();
  #controller: AbortController | undefined;
  #reason: Error | undefined;

  constructor(
    readonly delivery: Delivery<D>,
    readonly count: number,
    readonly attempts: Attempts,
    readonly generation = 0,
  ) {
    this.partition = delivery.partition;
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

  lose(reason: Error): void {
    this.#reason ??= reason;
    this.#controller?.abort(reason);
  }
}

/** The deliveries of one group, by partition: claim, renew, settle. Every call throws Redis errors. */
export class DeliveryLeases {
  readonly #context: QueueContext;
  readonly #topic: string;
  readonly #group: string;
  readonly #leaseMs: number;
  #generations: number[];

  constructor(context: QueueContext, topic: string, group: string, leaseMs: number) {
    this.#context = context;
    this.#topic = topic;
    this.#group = group;
    this.#leaseMs = leaseMs;
    this.#generations = new Array(context.keys.partitions).fill(0);
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
    return disownScript(this.#commands, {
      ...this.#keys(partition),
      group: this.#streamGroup(partition),
      member: this.#context.member,
      limit,
    });
  }

  /** At most `limit` deliveries to hand out again, with the generation under which they were claimed. */
  async claim(partition: number, limit: number) {
    const generation = this.generation(partition);
    const reply = await claimScript(this.#commands, {
      ...this.#keys(partition),
      group: this.#streamGroup(partition),
      member: this.#context.member,
      leaseMs: this.#leaseMs,
      limit,
    });
    return { ...reply, generation };
  }

  /** All of one generation. */
  settle<D>(partition: number, items: readonly { hold: Hold<D>; settlement: Settlement }[]) {
    return settleScript(this.#commands, {
      ...this.#keys(partition),
      group: this.#streamGroup(partition),
      member: this.#context.member,
      deadMax: deadLettersMax(this.#context),
      restArgs: items.flatMap(({ hold, settlement }) => settleArgs(hold, settlement)),
    });
  }

  /** Resolves per delivery to whether it is still held. */
  renew<D>(partition: number, holds: readonly Hold<D>[]): Promise<readonly boolean[]> {
    return renewScript(this.#commands, {
      stream: this.#keys(partition).stream,
      group: this.#streamGroup(partition),
      member: this.#context.member,
      restArgs: holds.flatMap(({ delivery, count }) => [delivery.entry, count]),
    });
  }

  /** Forgets member names that are idle for long and hold nothing. */
  dropConsumers(partition: number, idleMs: number, limit: number): Promise<number> {
    const { stream } = this.#keys(partition);
    return dropScript(this.#commands, { stream, group: this.#streamGroup(partition), idleMs, limit });
  }

  #streamGroup(partition: number): string {
    return streamGroupOf(this.#group, this.generation(partition));
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

function settleArgs<D>({ delivery, count }: Hold<D>, settlement: Settlement): (string | number)[] {
  const head = [settlement.kind, delivery.entry, count];
  switch (settlement.kind) {
    case "ack":
    case "pass":
      return [...head, 0, ""];
    case "retry":
      return [...head, settlement.waitMs, settlement.record ? formatAttempts(settlement.record) : ""];
    case "bury":
      return [...head, 0, "", ...settlement.letter.values];
  }
}
