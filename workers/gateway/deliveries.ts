/**
 * Reads this gateway's delivery stream and hands each frame to the sockets it is addressed to. The frames are written as they
 * are; this file knows no chat.
 *
 *   entry = [targets, frame, targets, frame, …]     targets: targets.ts
 *
 * Delivery may repeat frames after a takeover: what was written of a conversation is remembered and dropped. The stream is
 * ours: we create it, let it expire should we die, and trim what we have read. When it was lost, or was trimmed beyond us,
 * every client is told to sync. After a loss we go on under another name: whoever found the old stream gone takes the routes to it
 * away, for as long as it has thousands to take, and must not meet those that we write again.
 */

import type { Clock } from "../../lib/clock.ts";
import type { Log, Metrics } from "../../lib/observability/index.ts";
import { BLOCK_MS, type Keys, type RedisClient, type RedisConnections } from "../../lib/redis/index.ts";
import { createService, type Service } from "../../lib/service.ts";
import type { Sessions } from "./sessions.ts";
import { Targets } from "./targets.ts";

/** Entries per read. An entry holds up to 64 frames, so a read of the largest ones is some 64 MB, of usual ones 1 MB. */
const ENTRIES_PER_READ = 64;
const HEARTBEAT_MS = 3_000;
/** Members of a gateway that died count as offline after this: five heartbeats. */
const EXPIRES_MS = 15_000;
/** Conversations whose last seq is remembered, some 100 bytes each. A forgotten one may repeat a frame, which clients drop. */
const SEQS_MAX = 50_000;
/**
 * When two reads lie farther apart, or the first was full, the stream may have been trimmed beyond our place: looked at first.
 * In less time Redis does not append the 20 000 entries (workers/logic/delivery.ts) that it keeps.
 */
const PAUSE_MS = 100;
const RETRY_MS = 200;
/** Routes written so shortly before Redis went away are written again at ack level disk too, should it not be in force. */
const DOUBT_MS = 5_000;

/** Addresses nobody: an entry that is a place in the stream, and nothing else. */
const NOTHING = "- 0 ";

type Entry = [id: string, fields: string[]];

export interface DeliveriesParts {
  readonly node: string;
  readonly redis: RedisConnections;
  readonly keys: Keys;
  readonly sessions: Sessions;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

export interface Deliveries extends Service {
  /** Rejects when the stream was not renewed lately: what is sent to this gateway's users may not arrive. */
  check(): Promise<{ readonly renewedMsAgo: number }>;
}

export function createDeliveries({ node, redis, keys, sessions, clock, log, metrics }: DeliveriesParts): Deliveries {
  /** Under this name delivery finds us. */
  let ours = node;
  let stream = keys.gateway(node);
  let losses = 0;
  let refreshing: Promise<void> | undefined;
  const stopping = new AbortController();
  const targets = new Targets();
  let lastSeqs = new Map<string, number>();
  /** How often Redis went away or came back, and as of which time of them `lastSeqs` holds. */
  let doubts = 0;
  let settledDoubts = 0;
  let position = "";
  /** Whether the entry at our place is one for sockets: it goes with the heartbeat after the one that puts another behind it. */
  let hasFrame = false;
  let renewedAt = 0;
  let reader: RedisClient;
  let running: Promise<unknown> = Promise.resolve();

  // Its place in the stream

  /**
   * Creates the stream with one entry, so that there is a place to read from that cannot be missed. It is ours when that is
   * answered: were it so before, the next heartbeat would find it in order, and nobody would move to it.
   */
  async function create(name: string): Promise<void> {
    const key = keys.gateway(name);
    const replies = await redis.commands.multi().xadd(key, "*", NOTHING, "").pexpire(key, EXPIRES_MS).exec();
    const [error, first] = replies?.[0] ?? [];
    if (error || typeof first !== "string") throw error ?? new Error("the delivery stream was not created");
    ours = name;
    stream = key;
    position = first;
    lastSeqs = new Map();
    renewedAt = clock.now();
    sessions.subscriptions.clear();
  }

  async function renew(): Promise<void> {
    const exists = await redis.commands.pexpire(stream, EXPIRES_MS);
    if (exists === 1) {
      renewedAt = clock.now();
      // To the entry: what was written is to be kept nowhere, and an idle stream is never longer than a node.
      await redis.commands.xtrim(stream, "MINID", position);
      // Not one that has expired since: without it delivery takes our routes away, and we are to find that out.
      if (hasFrame) await redis.commands.xadd(stream, "NOMKSTREAM", "*", NOTHING, "");
      return;
    }
    losses += 1;
    const name = `${node}.${losses}`;
    log.warn({ node: name }, "the delivery stream was lost; connections are attached again");
    await create(name);
    sessions.moveTo(name);
  }

  /** Beside the heartbeat: with thousands of routes to write on a busy machine it takes longer than the stream lives without one. */
  function refresh(): void {
    refreshing ??= sessions
      .refreshRoutes()
      .catch((error: unknown) => log.debug({ error }, "routes not refreshed"))
      .finally(() => {
        refreshing = undefined;
      });
  }

  async function beat(): Promise<void> {
    while (!stopping.signal.aborted) {
      await clock.sleep(HEARTBEAT_MS, stopping.signal);
      if (stopping.signal.aborted) return;
      try {
        await renew();
        refresh();
      } catch (error) {
        log.debug({ error }, "heartbeat failed");
      }
    }
    await refreshing;
  }

  /**
   * Redis goes away, or is back. What it had not written down it may have forgotten: routes, frames that we have not read, and
   * entries whose seqs come again then.
   */
  function doubt(): void {
    doubts += 1;
    sessions.doubtRoutes(sessions.isDurable ? clock.now() - DOUBT_MS : 0);
  }

  /**
   * Before frames are written that were read after a doubt: delivery repeats what it could not check off when Redis went away, and
   * that is dropped, but not what has taken the seq of something forgotten. Redis writes down in order, so while it holds the entry
   * that we read last it has forgotten nothing that came before. Of a Cluster's other masters that says nothing.
   */
  async function settleDoubt(): Promise<void> {
    const asOf = doubts;
    const [kept] = redis.topology === "cluster" ? [] : await redis.commands.xrange(stream, position, position);
    if (kept === undefined) lastSeqs = new Map();
    settledDoubts = asOf;
  }

  /** Whether entries behind our place were trimmed before we read them. */
  async function wasOverrun(): Promise<boolean> {
    const [first] = await redis.commands.xrange(stream, "-", "+", "COUNT", 1);
    return first !== undefined && isAfter(first[0], position);
  }

  // Reading

  async function read(): Promise<void> {
    let issuedMs = performance.now();
    let wasFull = false;
    while (!stopping.signal.aborted) {
      try {
        if ((wasFull || performance.now() - issuedMs > PAUSE_MS) && (await wasOverrun())) {
          metrics.resyncs.inc({ reason: "overrun" });
          log.warn({ node }, "the delivery stream was trimmed beyond our place");
          await create(ours);
          sessions.resyncAll("overrun");
          // Their routes stand, but not what was said of channels in what was trimmed.
          sessions.doubtRoutes(0);
        }
        issuedMs = performance.now();
        const from = position;
        const found = await reader.xread("COUNT", ENTRIES_PER_READ, "BLOCK", BLOCK_MS, "STREAMS", stream, from);
        const entries = (found?.[0]?.[1] ?? []) as Entry[];
        wasFull = entries.length === ENTRIES_PER_READ;
        if (entries.length > 0 && settledDoubts < doubts) await settleDoubt();
        // The stream was created anew meanwhile: what this read found lies before its first entry.
        if (from !== position) continue;
        for (const [id, fields] of entries) {
          position = id;
          hasFrame = fields[0] !== NOTHING;
          for (let i = 0; i < fields.length; i += 2) write(fields[i]!, fields[i + 1]!);
        }
      } catch (error) {
        if (stopping.signal.aborted) return;
        log.debug({ error }, "delivery stream not read");
        await clock.sleep(RETRY_MS, stopping.signal);
      }
    }
  }

  function write(text: string, frame: string): void {
    targets.read(text);
    const { conversation, seq, kind, numbers, except } = targets;
    if (kind === "watchers") {
      if (targets.turn < 0) sessions.unwatch(numbers, conversation);
      else sessions.deliverToWatchers(conversation, frame);
      return;
    }
    // Whether they hear the channel does not hang on whether this frame came before.
    if (targets.turn !== 0) sessions.changeSubscribers(numbers, conversation, seq, targets.turn > 0);
    if (seq > 0 && !isNew(conversation, seq)) return;
    if (kind === "list") {
      for (const number of numbers) if (number !== except) sessions.deliver(number, frame);
    } else if (kind === "channel") sessions.deliverToChannel(conversation, frame, except);
    else if (kind === "all") sessions.deliverToAll(frame);
    else sessions.kick(numbers, frame);
  }

  function isNew(conversation: string, seq: number): boolean {
    const last = lastSeqs.get(conversation);
    if (last !== undefined && seq <= last) return false;
    if (last === undefined && lastSeqs.size >= SEQS_MAX) lastSeqs.delete(lastSeqs.keys().next().value!);
    lastSeqs.set(conversation, seq);
    return true;
  }

  const service = createService(
    "deliveries",
    async () => {
      await create(node);
      reader = redis.blocking("deliveries");
      let isLost = false;
      reader.on("close", () => {
        if (!isLost) doubt();
        isLost = true;
      });
      reader.on("ready", () => {
        if (isLost) doubt();
        isLost = false;
      });
      running = Promise.all([read(), beat()]);
    },
    async () => {
      stopping.abort();
      reader.disconnect();
      await running;
      try {
        await redis.commands.del(stream);
      } catch (error) {
        log.debug({ error }, "the delivery stream stays until it expires");
      }
    },
  );
  return {
    ...service,
    async check() {
      const renewedMsAgo = clock.now() - renewedAt;
      if (renewedMsAgo > EXPIRES_MS) throw new Error(`not renewed for ${renewedMsAgo} ms`);
      return { renewedMsAgo };
    },
  };
}

/** Order of two stream ids `<ms>-<n>`. */
function isAfter(a: string, b: string): boolean {
  const [aMs, aN] = a.split("-").map(Number);
  const [bMs, bN] = b.split("-").map(Number);
  return aMs! > bMs! || (aMs === bMs && aN! > bN!);
}
