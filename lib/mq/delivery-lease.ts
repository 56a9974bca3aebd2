/**
 * The leases of single deliveries, for concurrent groups. Redis' pending list holds them: who has an entry, since when, and
 * how often it was handed out. That count is the fencing token: every claim raises it, and renew and settle are refused when
 * it has moved on.
 */

import { defineScript, type RedisClient } from "../redis/index.ts";
import ackLua from "../redis/lua/mq-ack.lua" with { type: "text" };
import buryLua from "../redis/lua/mq-bury.lua" with { type: "text" };
import claimLua from "../redis/lua/mq-claim.lua" with { type: "text" };
import dropLua from "../redis/lua/mq-consumers-drop.lua" with { type: "text" };
import disownLua from "../redis/lua/mq-disown.lua" with { type: "text" };
import renewLua from "../redis/lua/mq-renew.lua" with { type: "text" };
import settleLua from "../redis/lua/mq-settle.lua" with { type: "text" };
import type { DeliveryContext, QueueContext } from "./consumer.ts";
import { type DeadLetter, deadLettersMax } from "./dead-letter.ts";
import type { AttemptNote, Delivery, StreamEntry } from "./message.ts";

/** What a group remembers of an entry that failed or was lost. */
export interface Attempts {
  readonly failed: number;
  /** Leases that ran out without an answer. */
  readonly losses: number;
  readonly firstFailureMs: number;
  readonly history: readonly AttemptNote[];
}

export interface Claim {
  readonly entry: StreamEntry;
  readonly token: number;
  readonly attempts: Attempts;
}

/** What becomes of a delivery. `record`: the attempts to remember, or undefined to leave them as they are. */
export type Settlement =
  | { readonly kind: "ack" }
  | { readonly kind: "retry"; readonly waitMs: number; readonly record?: Attempts }
  | { readonly kind: "bury"; readonly letter: DeadLetter };

type NonAck = Exclude<Settlement, { kind: "ack" }>;

/** `settled` now, `stale`: another holds it, `gone`: settled before. */
export type SettleOutcome = "settled" | "stale" | "gone";
const OUTCOMES: readonly SettleOutcome[] = ["stale", "settled", "gone"];

type ClaimReply = [[entry: string, fields: string[], token: number, record: string][], deleted: number, due: string];

const claimScript = defineScript({
  name: "mqClaim",
  lua: claimLua,
  keys: ["stream", "retries", "attempts", "lease"],
  args: ["group", "member", "leaseMs", "limit"],
  decode: (reply) => {
    const [claims, deleted, due] = reply as ClaimReply;
    return {
      claims: claims.map(
        ([entry, fields, token, record]): Claim => ({
          entry: [entry, fields],
          token,
          attempts: parseAttempts(record),
        }),
      ),
      deleted,
      /** When the next retry is due, ms by Redis TIME. */
      nextDueMs: due === "" ? undefined : Number(due),
    };
  },
});

const ackScript = defineScript({
  name: "mqAck",
  lua: ackLua,
  keys: ["stream", "attempts"],
  args: ["group", "member", "token"],
  hasRest: true,
  decode: (reply): SettleOutcome | readonly SettleOutcome[] =>
    reply === "" ? "settled" : (reply as number[]).map((outcome) => OUTCOMES[outcome]!),
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
    readonly token: number,
    readonly attempts: Attempts,
  ) {
    this.partition = delivery.partition;
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

  constructor(context: QueueContext, topic: string, group: string, leaseMs: number) {
    this.#context = context;
    this.#topic = topic;
    this.#group = group;
    this.#leaseMs = leaseMs;
  }

  /** Gives back what this member held in its last life. Resolves to how many; as many as `limit`: there may be more. */
  disown(partition: number, limit: number): Promise<number> {
    return disownScript(this.#commands, {
      ...this.#keys(partition),
      group: this.#group,
      member: this.#context.member,
      limit,
    });
  }

  /** At most `limit` deliveries to hand out again. */
  claim(partition: number, limit: number) {
    return claimScript(this.#commands, {
      ...this.#keys(partition),
      group: this.#group,
      member: this.#context.member,
      leaseMs: this.#leaseMs,
      limit,
    });
  }

  /** Acks deliveries of one token, in the partition's order. Resolves per delivery to its outcome, or to the one of all. */
  ack<D>(partition: number, holds: readonly Hold<D>[]): Promise<SettleOutcome | readonly SettleOutcome[]> {
    const { stream, attempts } = this.#keys(partition);
    return ackScript(this.#commands, {
      stream,
      attempts,
      group: this.#group,
      member: this.#context.member,
      token: holds[0]!.token,
      restArgs: holds.map(({ delivery }) => delivery.entry),
    });
  }

  /** Puts deliveries off or buries them. */
  settle<D>(partition: number, items: readonly { hold: Hold<D>; settlement: NonAck }[]) {
    return settleScript(this.#commands, {
      ...this.#keys(partition),
      group: this.#group,
      member: this.#context.member,
      deadMax: deadLettersMax(this.#context),
      restArgs: items.flatMap(({ hold, settlement }) => settleArgs(hold, settlement)),
    });
  }

  /** Resolves per delivery to whether it is still held. */
  renew<D>(partition: number, holds: readonly Hold<D>[]): Promise<readonly boolean[]> {
    return renewScript(this.#commands, {
      stream: this.#keys(partition).stream,
      group: this.#group,
      member: this.#context.member,
      restArgs: holds.flatMap(({ delivery, token }) => [delivery.entry, token]),
    });
  }

  /** Forgets member names that are idle for long and hold nothing. */
  dropConsumers(partition: number, idleMs: number, limit: number): Promise<number> {
    return dropScript(this.#commands, { stream: this.#keys(partition).stream, group: this.#group, idleMs, limit });
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

function settleArgs<D>({ delivery, token }: Hold<D>, settlement: NonAck): (string | number)[] {
  const head = [settlement.kind, delivery.entry, token];
  switch (settlement.kind) {
    case "retry":
      return [...head, settlement.waitMs, settlement.record ? formatAttempts(settlement.record) : ""];
    case "bury":
      return [...head, 0, "", ...settlement.letter.values];
  }
}

function formatAttempts({ failed, losses, firstFailureMs, history }: Attempts): string {
  return `${failed} ${losses} ${firstFailureMs} ${JSON.stringify(history)}`;
}

export const NO_ATTEMPTS: Attempts = { failed: 0, losses: 0, firstFailureMs: 0, history: [] };

function parseAttempts(text: string): Attempts {
  const match = /^(\d+) (\d+) (\d+) (.*)$/s.exec(text);
  if (!match) return NO_ATTEMPTS;
  const history = match[4] === "" ? [] : (JSON.parse(match[4]!) as AttemptNote[]);
  return { failed: Number(match[1]), losses: Number(match[2]), firstFailureMs: Number(match[3]), history };
}
