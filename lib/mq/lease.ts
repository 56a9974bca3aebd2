/**
 * The lease of one partition: who may read it for an ordered group, up to where it has come, and the commits of both.
 *
 *   free ──acquire──► held ──commit, renew──► held ──release──► free
 *                      │ token refused, or not renewed in time
 *                      └──► lost: the signal aborts, results are dropped; someone acquires with a higher token
 *
 * Commits are serialised: one is under way, and the next carries whatever was finished meanwhile. Each is idempotent, so an
 * unknown outcome is simply committed again.
 */

import { backoffMs } from "../clock.ts";
import { AppError } from "../errors.ts";
import { defineScript, outcomeOf } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import buryLua from "../redis/lua/mq-bury.lua" with { type: "text" };
import changesLua from "../redis/lua/mq-changes.lua" with { type: "text" };
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import delayLua from "../redis/lua/mq-delay.lua" with { type: "text" };
import effectLua from "../redis/lua/mq-effect.lua" with { type: "text" };
import acquireLua from "../redis/lua/mq-lease-acquire.lua" with { type: "text" };
import commitLua from "../redis/lua/mq-lease-commit.lua" with { type: "text" };
import progressLua from "../redis/lua/mq-progress.lua" with { type: "text" };
import sideLua from "../redis/lua/mq-side.lua" with { type: "text" };
import writesLua from "../redis/lua/mq-writes.lua" with { type: "text" };
import { LOSSES_MAX } from "./attempts.ts";
import { Changes, type EndingOf } from "./changes.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import { deadLettersMax } from "./dead-letter.ts";
import { countAppended, type EffectInput, type EffectRefusal, formatEffect, sendEffect } from "./effect.ts";
import { formatOpen, type Progress, parseOpen } from "./progress.ts";
import { sideKeys } from "./side.ts";

/** Failed commits are repeated soon, for the results in hand wait for them. */
const COMMIT_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };
/** A stop waits about 1.5 s for a Redis that is away; then the lease runs out by itself. */
const RELEASE_TRIES_MAX = 5;

export interface Grant {
  readonly token: number;
  readonly progress: Progress;
  readonly losses: number;
  /** The entry that was handed out alone when the lease was last lost, or "". */
  readonly suspect: string;
  /** Holders that vanished with the suspect, alone, in hand. */
  readonly blame: number;
  /** Whose lease ran out, or "" when it was free or our own. */
  readonly previousOwner: string;
  /** The last entry of the partition: no holder before can have had a later one in hand. */
  readonly last: string;
  /** performance.now() before the call: the lease runs at least from here. */
  readonly askedAt: number;
}

type AcquireReply =
  | [
      ...["granted", token: string, checkpoint: string, read: string, open: string],
      ...[losses: number, suspect: string, blame: number, previousOwner: string, last: string],
    ]
  | ["held", owner: string, leftMs: number]
  | ["unregistered"];

const acquireScript = defineScript({
  name: "mqLeaseAcquire",
  lua: acquireLua,
  keys: ["lease", "groups", "stream"],
  args: ["group", "member", "session", "leaseMs"],
  decode: (reply) => reply as AcquireReply,
});

type CommitReply =
  | [0, owner: string]
  | [1, evicted: number, left: string[], appended: number[][]]
  | [2, number: number, why: EffectRefusal];

const commitScript = defineScript({
  name: "mqLeaseCommit",
  lua: [appendLua, dedupeLua, delayLua, writesLua, effectLua, progressLua, buryLua, sideLua, changesLua, commitLua],
  keys: ["lease", "dead", "attempts", "aside", "asideDue", "side", "sideOrder"],
  args: [
    ...(["member", "token", "number", "leaseMs", "checkpoint", "floor", "open", "read"] as const),
    ...(["suspect", "isAlone", "isRelease", "deadMax", "effects"] as const),
  ],
  hasRest: true,
  decode: (reply) => reply as CommitReply,
});

/** Where one group's lease on one partition lies, and on whose behalf. */
export interface LeaseSite {
  readonly context: QueueContext;
  readonly topic: string;
  readonly declaration: Declaration<unknown>;
  readonly partition: number;
  /** Sortable by start; of two processes with one member name the later may take over at once. */
  readonly session: string;
}

/** Asks for the lease: granted, held by another, or the group is not registered (any more). Throws Redis errors. */
export async function acquireLease(site: LeaseSite): Promise<Grant | "held" | "unregistered"> {
  const { context, topic, declaration, partition, session } = site;
  const { keys, redis, member } = context;
  const askedAt = performance.now();
  const reply = await acquireScript(redis.commands, {
    lease: keys.lease(topic, partition, declaration.group),
    groups: keys.groups(topic, partition),
    stream: keys.topic(topic, partition),
    group: declaration.group,
    member,
    session,
    leaseMs: declaration.leaseMs,
  });
  if (reply[0] !== "granted") return reply[0];
  const [, token, checkpoint, read, open, losses, suspect, blame, previousOwner, last] = reply;
  return {
    token: Number(token),
    progress: { checkpoint, read: Number(read), open: parseOpen(open) },
    losses,
    suspect,
    blame,
    previousOwner,
    last,
    askedAt,
  };
}

export interface CommitFollower {
  /** What the holder has finished: asked at every commit. */
  readonly progress: () => Progress;
  /** A commit has succeeded; `left`: keys of which nothing stands aside any more. */
  readonly onCommitted?: (left: readonly string[]) => void;
}

export class PartitionLease {
  readonly token: number;
  readonly grant: Grant;
  readonly #site: LeaseSite;
  readonly #controller = new AbortController();
  /** What the next commits record beside the progress. */
  readonly changes = new Changes();
  readonly #onLost: () => void;
  #follower: CommitFollower;
  #number = 0;
  #suspect: string;
  /** The suspect is with a handler: should this holder vanish now, it is to blame. */
  #isAlone = false;
  #deadline: number;
  #renewedAt: number;
  #isLost = false;
  #isReleased = false;
  #committing: Promise<void> | undefined;
  #failures = 0;

  constructor(site: LeaseSite, grant: Grant, onLost: () => void) {
    this.#site = site;
    this.grant = grant;
    this.token = grant.token;
    this.#suspect = grant.suspect;
    this.#follower = { progress: () => grant.progress };
    this.#renewedAt = grant.askedAt;
    this.#deadline = grant.askedAt + site.declaration.leaseMs;
    this.#onLost = onLost;
  }

  /** Aborts when the lease is lost, or by abandon(). */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** From now on commits say what `follower` says. */
  follow(follower: CommitFollower): void {
    this.#follower = follower;
  }

  /** Whether work may be handed out. Finds out by itself when the lease was not renewed in time. */
  isHeld(): boolean {
    if (this.#isLost || this.#isReleased) return false;
    if (performance.now() < this.#deadline) return true;
    this.#lose("it was not renewed in time");
    return false;
  }

  /** Whether so many leases were lost over the first entries that each must be tried alone. */
  get isSuspicious(): boolean {
    return this.grant.losses >= LOSSES_MAX || this.grant.suspect !== "";
  }

  /** Whether this entry killed so many holders while it was alone in hand that it must not be handed out again as if nothing were. */
  isPoison(entry: string): boolean {
    const { suspect, blame } = this.grant;
    return entry === suspect && blame >= LOSSES_MAX;
  }

  /** Whether the last commit failed: take no more work, for its results could not be kept. */
  get isFailing(): boolean {
    return this.#failures > 0;
  }

  get isCommitting(): boolean {
    return this.#committing !== undefined;
  }

  /** Records which entry is now handed out alone, "" for none; should holders go on dying of it, it is buried. */
  async mark(entry: string): Promise<void> {
    this.#suspect = entry;
    this.#isAlone = entry !== "";
    await this.flush();
  }

  /**
   * Finishes an entry with an effect, in one commit. Throws AppError: as formatEffect and sendEffect do, and LEASE_LOST when no commit
   * can say any more that it was done; whoever holds the partition then decides.
   */
  async end(input: EffectInput, of: EndingOf): Promise<void> {
    const { context, declaration, partition } = this.#site;
    const effect = formatEffect(context, partition, input, declaration.publishing);
    const [, appended] = await sendEffect(context, partition, effect, () => {
      if (!this.isHeld()) throw new AppError("LEASE_LOST", `partition ${partition} is not held any more`);
      const reply = this.changes.end(effect, of);
      void this.flush();
      return reply;
    });
    countAppended(context, effect, appended);
  }

  isRenewalDue(): boolean {
    return performance.now() - this.#renewedAt > this.#site.declaration.leaseMs / 3;
  }

  /** Commits what is finished until it is durable, the lease is lost, or `signal` aborts. Never rejects. */
  async flush(signal?: AbortSignal): Promise<void> {
    // One that is under way may have been sent before the latest results.
    await this.#committing;
    while (!(await this.commit()) && this.isHeld() && !signal?.aborted) {
      await this.#site.context.clock.sleep(backoffMs(this.#failures, COMMIT_BACKOFF), signal);
    }
  }

  /** Commits what is finished, or joins the commit that is under way. Resolves to whether it succeeded; never rejects. */
  async commit(): Promise<boolean> {
    this.#committing ??= this.#sendAll().finally(() => {
      this.#committing = undefined;
    });
    await this.#committing;
    return this.#failures === 0;
  }

  /** Commits the last results and frees the partition for others. When Redis is away the lease is left to run out. */
  async release(signal?: AbortSignal): Promise<void> {
    if (this.changes.load(this.#follower.progress()).hasMore) await this.flush(signal);
    await this.#committing;
    for (let tries = 1; this.isHeld(); tries++) {
      await this.#send(true);
      if (this.#failures === 0 || tries === RELEASE_TRIES_MAX || signal?.aborted) break;
      await this.#site.context.clock.sleep(backoffMs(tries, COMMIT_BACKOFF), signal);
    }
    this.#isReleased = true;
  }

  /** Leaves the work to the lease's end: the process stops hard. */
  abandon(): void {
    this.#isReleased = true;
    this.#end(new AppError("OVERLOADED", "the process is stopping"));
  }

  #end(error: AppError): void {
    this.#controller.abort(error);
    this.changes.abandon(error);
  }

  async #sendAll(): Promise<void> {
    while ((await this.#send(false)) && this.#failures === 0) {
      // There is more to record than one commit carries.
    }
  }

  /** Resolves to whether there is more that a further commit could carry. */
  async #send(isRelease: boolean): Promise<boolean> {
    if (!this.isHeld()) return false;
    const { context, topic, declaration, partition } = this.#site;
    const { keys, redis, member, log } = context;
    const { group } = declaration;
    const progress = this.#follower.progress();
    const load = this.changes.load(progress);
    const sentAt = performance.now();
    this.#number += 1;
    try {
      const reply = await commitScript(redis.commands, {
        ...sideKeys(keys, topic, partition, group),
        lease: keys.lease(topic, partition, group),
        dead: keys.deadLetters(topic, partition, group),
        attempts: keys.attempts(topic, partition, group),
        member,
        token: this.token,
        number: this.#number,
        leaseMs: declaration.leaseMs,
        checkpoint: progress.checkpoint,
        floor: load.open[0] ?? progress.checkpoint,
        open: formatOpen(load.open),
        read: progress.read,
        suspect: this.#suspect,
        isAlone: this.#isAlone ? 1 : 0,
        isRelease: isRelease ? 1 : 0,
        deadMax: deadLettersMax(context),
        effects: load.endings.length,
        restKeys: load.keys,
        restArgs: load.args,
      });
      this.#failures = 0;
      if (reply[0] === 0) {
        const [, owner] = reply;
        // The answer to an earlier release was lost.
        if (isRelease && owner === "") this.#isReleased = true;
        this.#lose(owner === "" ? "nobody holds it any more" : `${owner} holds it`);
        return false;
      }
      if (reply[0] === 2) {
        this.changes.refused(load.endings[reply[1] - 1]!, reply[2]);
        return true;
      }
      const [, evicted, left, appended] = reply;
      this.#renewedAt = sentAt;
      this.#deadline = sentAt + declaration.leaseMs;
      this.#count(this.changes.carried(load, appended), evicted);
      this.#follower.onCommitted?.(left);
      return load.hasMore;
    } catch (error) {
      this.#failures += 1;
      const isBug = outcomeOf(error) === "bug";
      const level = isBug ? "error" : this.#failures === 1 ? "warn" : "debug";
      log[level]({ topic, group, partition, error }, "commit of a partition failed, it will be repeated");
      return false;
    }
  }

  #count(buried: number, evicted: number): void {
    const { context, topic, declaration } = this.#site;
    const labels = { topic, group: declaration.group };
    if (buried > 0) context.metrics.buried.inc(labels, buried);
    if (evicted > 0) context.metrics.deadLettersEvicted.inc(labels, evicted);
  }

  #lose(reason: string): void {
    if (this.#isLost || this.#isReleased) return;
    this.#isLost = true;
    const { context, topic, declaration, partition } = this.#site;
    context.metrics.leasesLost.inc({ topic, group: declaration.group });
    context.log.warn({ topic, group: declaration.group, partition, token: this.token, reason }, "partition lease lost");
    this.#end(new AppError("LEASE_LOST", `partition ${partition} of ${topic} for ${declaration.group}: ${reason}`));
    this.#onLost();
  }
}
