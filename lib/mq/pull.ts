/**
 * Consuming from outside: receive, ack, nack, renew, each by itself, for services that are not members of the group's process. All
 * that a delivery needs lies in Redis and in its token, so calls of one client may go to any process with the same secret, and
 * a process that dies takes nothing with it but the calls under way.
 *
 *   receive ──► in hand, until its lease ends ──ack──► gone
 *                 │ ├──retry──► again after its wait, one attempt more · after `maxAttempts` a dead letter
 *                 │ ├──release──► again at once or after a wait, no attempt counted
 *                 │ └──reject──► dead letter
 *                 └─ lease ends ──► again at once, one attempt more; three times without an answer: alone, then a dead letter
 *
 * Services and members in process share a group: what one holds the other is not given.
 */

import { AppError } from "../errors.ts";
import { ID_PATTERN } from "../id.ts";
import { toAppError } from "../redis/index.ts";
import { LEASE_MS_MAX, LEASE_MS_MIN, type QueueContext } from "./consumer.ts";
import type { Message } from "./message.ts";
import { ConcurrentOutlet } from "./pull-concurrent.ts";
import type { Look, Where } from "./pull-line.ts";
import { PullLines } from "./pull-lines.ts";
import { OrderedOutlet } from "./pull-ordered.ts";
import type { Handed, Outlet, PullGroup, PullOutcome } from "./pull-outlet.ts";
import { runRound } from "./pull-round.ts";
import { PullShare } from "./pull-share.ts";
import { type PullRef, PullTokens } from "./pull-token.ts";
import type { AnyTopic, Topic } from "./topic.ts";

/** protocol.md. */
const RECEIVE_MAX = 100;
const WAIT_MS_MAX = 20_000;
/** Tokens of one call: some receives together. */
const TOKENS_MAX = 1_000;
/** As long as the longest lease. */
const RETRY_AFTER_MS_MAX = LEASE_MS_MAX;
/** Dead letters keep as much of an error. */
const REASON_LENGTH_MAX = 1_000;
/** Ordered groups that this process remembers its partitions of. */
const SHARES_MAX = 1_000;
export interface ReceiveOptions {
  /** 1..100; default 1. */
  readonly max?: number;
  /** 0..20 000; default 0. How long to wait for a first delivery. */
  readonly waitMs?: number;
  /** 1..64 of [A-Za-z0-9_.-]. A receive that is repeated under the same id within the lease is given the same deliveries again. */
  readonly attemptId?: string;
  /** Aborts when the caller is gone: what it would have been given goes back at no cost. */
  readonly signal?: AbortSignal;
}

export interface PulledDelivery<D> {
  readonly message: Message<D>;
  readonly attempt: number;
  readonly token: string;
  /** Unix ms by Redis TIME. */
  readonly leaseUntil: number;
}

/** `retry` counts an attempt, `release` does not, `reject` makes it a dead letter. */
export type NackKind = "retry" | "release" | "reject";

export interface NackOptions {
  readonly kind: NackKind;
  /** Of retry and release: 0..12 h; default the group's wait, and at once. */
  readonly retryAfterMs?: number;
  /** At most 1 000 characters, kept in the history. */
  readonly reason?: string;
}

/** `lease_lost`: it is another's by now, or the token is none of this group's. Nothing was changed then. */
export interface TokenResult {
  readonly token: string;
  readonly result: "ok" | "lease_lost";
}

export interface RenewResult extends TokenResult {
  readonly leaseUntil?: number;
}

export interface Pull {
  /**
   * Deliveries for the caller, held until their leases end; none when there were none within `waitMs`, or while the group is paused.
   * Throws INVALID, CONFLICT when the group has another mode, OVERLOADED.
   */
  receive<D>(topic: Topic<D>, group: PullGroup, options?: ReceiveOptions): Promise<PulledDelivery<D>[]>;
  /** Again is `ok`, for it is acked. Results in the order of the tokens. Throws INVALID for more than 1 000, and Redis' errors as AppError. */
  ack<D>(topic: Topic<D>, group: PullGroup, tokens: readonly string[]): Promise<TokenResult[]>;
  nack<D>(topic: Topic<D>, group: PullGroup, token: string, options: NackOptions): Promise<TokenResult>;
  /** The leases then end `leaseMs` from now, 1 s..12 h. */
  renew<D>(topic: Topic<D>, group: PullGroup, tokens: readonly string[], leaseMs: number): Promise<RenewResult[]>;
  /** Ends what waits, with nothing, and closes the connections. */
  dispose(): Promise<void>;
}

/** `secret`: the same in all processes that serve the same clients; at least 32 bytes. Default: one of this process's own. */
export function createPull(
  context: QueueContext,
  secret: Uint8Array = crypto.getRandomValues(new Uint8Array(32)),
): Pull {
  return new PullService(context, new PullTokens(secret));
}

class PullService implements Pull {
  readonly #context: QueueContext;
  readonly #tokens: PullTokens;
  readonly #lines: PullLines;
  readonly #shares = new Map<string, PullShare>();

  constructor(context: QueueContext, tokens: PullTokens) {
    this.#context = context;
    this.#tokens = tokens;
    this.#lines = new PullLines(context);
  }

  async receive<D>(
    topic: Topic<D>,
    group: PullGroup,
    { max = 1, waitMs = 0, attemptId, signal }: ReceiveOptions = {},
  ): Promise<PulledDelivery<D>[]> {
    check(isWhole(max, 1, RECEIVE_MAX), "max", `must be a whole number from 1 to ${RECEIVE_MAX}`);
    check(isWhole(waitMs, 0, WAIT_MS_MAX), "waitMs", `must be a whole number from 0 to ${WAIT_MS_MAX}`);
    check(attemptId === undefined || ID_PATTERN.test(attemptId), "attemptId", "must be 1..64 of [A-Za-z0-9_.-]");
    const outlet = this.#outletOf(topic, group);
    try {
      const before = attemptId === undefined ? undefined : await this.#recall(outlet, topic, group, attemptId);
      if (before) return before;
      const handed = await this.#find(outlet, topic.name, group, max, waitMs, signal);
      if (handed.length === 0) {
        // Or all there was went meanwhile to the same attempt, asked for twice.
        return (attemptId !== undefined && (await this.#recall(outlet, topic, group, attemptId))) || [];
      }
      if (signal?.aborted) {
        await this.#giveBack(outlet, topic.name, group, handed);
        return [];
      }
      this.#context.metrics.delivered.inc({ topic: topic.name, group: group.group }, handed.length);
      const pulled = handed.map((one) => this.#show(topic, group, one));
      if (attemptId === undefined || (await this.#remember(topic.name, group, attemptId, pulled))) return pulled;
      // The same attempt was answered meanwhile: this caller asked twice.
      await this.#giveBack(outlet, topic.name, group, handed);
      return (await this.#recall(outlet, topic, group, attemptId)) ?? [];
    } catch (error) {
      throw toAppError(error);
    }
  }

  async ack<D>(topic: Topic<D>, group: PullGroup, tokens: readonly string[]): Promise<TokenResult[]> {
    const outlet = this.#outletOf(topic, group);
    // The next message of a key waits for the ack of the one before.
    const isNews = group.mode === "ordered";
    const outcomes = await this.#byPartition(topic.name, group, tokens, isNews, (refs) => outlet.ack(refs));
    const acked = outcomes.filter((outcome) => outcome === "ok").length;
    this.#context.metrics.acked.inc({ topic: topic.name, group: group.group }, acked);
    this.#countLost(topic.name, group, outcomes);
    return tokens.map((token, i) => ({ token, result: resultOf(outcomes[i], true) }));
  }

  async nack<D>(topic: Topic<D>, group: PullGroup, token: string, options: NackOptions): Promise<TokenResult> {
    const { kind, retryAfterMs, reason } = options;
    const isWait = retryAfterMs === undefined || isWhole(retryAfterMs, 0, RETRY_AFTER_MS_MAX);
    check(isWait, "retryAfterMs", `must be a whole number from 0 to ${RETRY_AFTER_MS_MAX}`);
    const text = reason ?? (kind === "reject" ? "rejected" : "nacked");
    check(text.length <= REASON_LENGTH_MAX, "reason", `must be at most ${REASON_LENGTH_MAX} characters`);
    const outlet = this.#outletOf(topic, group);
    const outcomes = await this.#byPartition(topic.name, group, [token], true, async (refs) => {
      if (kind === "release") return outlet.release(refs, retryAfterMs ?? 0);
      return [await outlet.fail(refs[0]!, { error: text, waitMs: retryAfterMs, isHopeless: kind === "reject" })];
    });
    this.#countLost(topic.name, group, outcomes);
    return { token, result: resultOf(outcomes[0], false) };
  }

  async renew<D>(
    topic: Topic<D>,
    group: PullGroup,
    tokens: readonly string[],
    leaseMs: number,
  ): Promise<RenewResult[]> {
    const range = `must be a whole number from ${LEASE_MS_MIN} to ${LEASE_MS_MAX}`;
    check(isWhole(leaseMs, LEASE_MS_MIN, LEASE_MS_MAX), "leaseMs", range);
    const outlet = this.#outletOf(topic, group);
    const ends = await this.#byPartition(topic.name, group, tokens, false, (refs) => outlet.renew(refs, leaseMs));
    return tokens.map((token, i) => {
      const leaseUntil = ends[i];
      return leaseUntil ? { token, result: "ok", leaseUntil } : { token, result: "lease_lost" };
    });
  }

  dispose(): Promise<void> {
    return this.#lines.dispose();
  }

  #outletOf<D>(topic: Topic<D>, group: PullGroup): Outlet<D> {
    if (group.mode === "concurrent") return new ConcurrentOutlet(this.#context, topic, group);
    if (group.mode === "ordered") return new OrderedOutlet(this.#context, topic, group, this.#shareOf(topic, group));
    throw new AppError("INVALID", `group ${group.group} is ${group.mode}: it cannot be pulled from`);
  }

  #shareOf({ name }: AnyTopic, { group }: PullGroup): PullShare {
    const share = this.#shares.get(`${name}/${group}`) ?? new PullShare(this.#context, name, group);
    // The longest unused goes first: with its next use it only looks anew.
    this.#shares.delete(`${name}/${group}`);
    this.#shares.set(`${name}/${group}`, share);
    if (this.#shares.size > SHARES_MAX) this.#shares.delete(this.#shares.keys().next().value!);
    return share;
  }

  async #find<D>(
    outlet: Outlet<D>,
    topic: string,
    group: PullGroup,
    max: number,
    waitMs: number,
    signal: AbortSignal | undefined,
  ): Promise<readonly Handed<D>[]> {
    const look = (where: Where) => this.#look(outlet, topic, group, max, where);
    const { found } = await look(undefined);
    if (found || waitMs === 0) return found ?? [];
    outlet.mayRegister = false;
    return (await this.#lines.wait({ topic, group: group.group, waitMs, signal, look })) ?? [];
  }

  async #look<D>(
    outlet: Outlet<D>,
    topic: string,
    group: PullGroup,
    max: number,
    where: Where,
  ): Promise<Look<readonly Handed<D>[]>> {
    const { redis, keys, log } = this.#context;
    const paused = await redis.commands.hexists(keys.groupControl(topic, group.group), "paused");
    if (paused === 1) return { found: undefined, nextDueMs: undefined };
    const open = await outlet.open();
    const asked = where === undefined ? open : open.filter((partition) => where.has(partition));
    // Begins with another partition each time: the first ones must not be all that is ever asked.
    const first = Math.floor(Math.random() * asked.length);
    const { handed, more, nextDueMs } = await runRound(
      outlet,
      [...asked.slice(first), ...asked.slice(0, first)],
      max,
      log,
    );
    if (more.length > 0) this.#lines.nudge(topic, group.group, more);
    const suspect = handed.find(({ isSuspect }) => isSuspect);
    if (suspect && handed.length > 1) {
      const others = handed.filter((one) => one !== suspect);
      await this.#giveBack(outlet, topic, group, others);
      return { found: [suspect], nextDueMs };
    }
    return { found: handed.length === 0 ? undefined : handed, nextDueMs };
  }

  /** At no cost. Never rejects: what cannot be given back now comes back when its lease ends. */
  async #giveBack<D>(outlet: Outlet<D>, topic: string, group: PullGroup, handed: readonly Handed<D>[]): Promise<void> {
    const byPartition = Map.groupBy(handed.map(refOf), ({ partition }) => partition);
    try {
      await Promise.all([...byPartition.values()].map((refs) => outlet.release(refs, 0)));
    } catch (error) {
      this.#context.log.debug({ topic, group: group.group, error }, "deliveries could not be given back");
    }
    this.#lines.nudge(topic, group.group, [...byPartition.keys()]);
  }

  #show<D>(topic: Topic<D>, { group }: PullGroup, handed: Handed<D>): PulledDelivery<D> {
    const { delivery, leaseUntil } = handed;
    const token = this.#tokens.seal(topic.name, group, refOf(handed));
    return { message: delivery, attempt: delivery.attempt, token, leaseUntil };
  }

  /** Resolves to whether this was the first answer to the attempt. Entries are not kept a second time. */
  async #remember<D>(
    topic: string,
    { group, leaseMs }: PullGroup,
    attemptId: string,
    pulled: readonly PulledDelivery<D>[],
  ): Promise<boolean> {
    const { redis, keys } = this.#context;
    const text = JSON.stringify(pulled.map(({ attempt, token, leaseUntil }) => [attempt, token, leaseUntil]));
    return (await redis.commands.set(keys.received(topic, group, attemptId), text, "PX", leaseMs, "NX")) === "OK";
  }

  /** What the attempt was given before, as far as it is there yet; undefined when it is new. */
  async #recall<D>(
    outlet: Outlet<D>,
    topic: Topic<D>,
    { group }: PullGroup,
    attemptId: string,
  ): Promise<PulledDelivery<D>[] | undefined> {
    const { redis, keys } = this.#context;
    const text = await redis.commands.get(keys.received(topic.name, group, attemptId));
    if (text === null) return undefined;
    const kept = JSON.parse(text) as [attempt: number, token: string, leaseUntil: number][];
    const pulled = await Promise.all(
      kept.map(async ([attempt, token, leaseUntil]) => {
        const ref = this.#tokens.open(topic.name, group, token);
        const delivery = ref && (await outlet.find(ref));
        if (!delivery) return undefined;
        delivery.attempt = attempt;
        return { message: delivery, attempt, token, leaseUntil };
      }),
    );
    return pulled.filter((one) => one !== undefined);
  }

  /**
   * Answers by partition, in the order of the tokens; undefined for a token that is none of this group's. `isNews`: they may leave
   * something for who waits.
   */
  async #byPartition<R>(
    topic: string,
    { group }: PullGroup,
    tokens: readonly string[],
    isNews: boolean,
    act: (refs: readonly PullRef[]) => Promise<readonly R[]>,
  ): Promise<(R | undefined)[]> {
    check(tokens.length <= TOKENS_MAX, "tokens", `has ${tokens.length}; the limit is ${TOKENS_MAX}`);
    const { partitions } = this.#context.keys;
    const results = new Array<R | undefined>(tokens.length).fill(undefined);
    const refs = tokens.flatMap((token, at) => {
      const ref = this.#tokens.open(topic, group, token);
      return ref && ref.partition < partitions ? [{ at, ref }] : [];
    });
    const byPartition = Map.groupBy(refs, ({ ref }) => ref.partition);
    try {
      await Promise.all(
        [...byPartition.values()].map(async (items) => {
          const replies = await act(items.map(({ ref }) => ref));
          for (const [i, { at }] of items.entries()) results[at] = replies[i];
        }),
      );
    } catch (error) {
      throw toAppError(error);
    }
    if (isNews) this.#lines.nudge(topic, group, [...byPartition.keys()]);
    return results;
  }

  #countLost(topic: string, { group }: PullGroup, outcomes: readonly (PullOutcome | undefined)[]): void {
    const lost = outcomes.filter((outcome) => outcome === "stale").length;
    if (lost > 0) this.#context.metrics.leasesLost.inc({ topic, group }, lost);
  }
}

function refOf<D>({ delivery, fence }: Handed<D>): PullRef {
  const { partition, entry, key } = delivery;
  return { partition, entry, fence, key };
}

function resultOf(outcome: PullOutcome | undefined, isAck: boolean): TokenResult["result"] {
  return outcome === "ok" || (isAck && outcome === "gone") ? "ok" : "lease_lost";
}

function check(isValid: boolean, path: string, message: string): void {
  if (!isValid) throw new AppError("INVALID", `${path} ${message}`, { issues: [{ path, message }] });
}

function isWhole(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}
