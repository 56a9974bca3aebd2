/**
 * The campaign on broadcasts: a message to everybody, at a rate, while people chat and extlogic's processes are killed with -9 at random.
 * At the end every direct conversation with the broadcaster is read: each user must have the message once, and the broadcast must say so.
 * What it costs the chat is measured beside it: latencies before and meanwhile.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { directConversationId } from "../../lib/id.ts";
import { BROADCASTER, type Broadcast, createBroadcasts, createUserIndex } from "../../lib/im/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createKeys, type Keys, openRedis, type RedisClient } from "../../lib/redis/index.ts";
import { createSkeinLoad } from "../bench/skein-load.ts";
import { type PrivateSkein, startSkein } from "../harness.ts";
import { inParallel } from "../load/api.ts";
import { type LoadResult, startLoadProcess } from "../load/index.ts";
import { strike } from "./faults.ts";
import { createRandom, type Random } from "./random.ts";

export interface BroadcastCampaignOptions {
  readonly users: number;
  readonly perSecond: number;
  readonly kills: number;
  readonly seed: number;
  /** Keeps the data dir, and says where. */
  readonly keep: boolean;
  /** Pairs of people who chat meanwhile. */
  readonly pairs?: number;
  readonly idleMs?: number;
  readonly print: (line: string) => void;
}

/** What was found that must not be; all 0 in health. */
export interface BroadcastVerdict {
  /** Users who got no message. */
  readonly missing: number;
  /** Messages beyond a user's first. */
  readonly doubled: number;
  /** Messages that nobody sent. */
  readonly strange: number;
  /** What the broadcast says of its recipients, beside what it should. */
  readonly miscounted: number;
}

interface FoundMessage {
  readonly from: string;
  readonly text: string;
}

export interface BroadcastResult {
  readonly seed: number;
  readonly broadcast: Broadcast;
  readonly kills: number;
  readonly seconds: number;
  readonly idle: LoadResult;
  readonly meanwhile: LoadResult;
  readonly verdict: BroadcastVerdict;
  readonly isClean: boolean;
}

/** Two of extlogic, so that one goes on where the other died. */
const ROLES = ["gateway", "logic", "archive", "extlogic=2", "scheduler"];
const PAIRS = 50;
/** Of all pairs together. */
const CHAT_PER_SECOND = 200;
const IDLE_MS = 10_000;
const WARM_MS = 1_000;
/** Of the time that the rate asks for, so that the measured time ends before the broadcast. */
const MEASURED_SHARE = 0.8;
/** Of the users: the last strike comes well before the end. */
const STRUCK_SHARE = 0.9;
/** Nothing may stand still for so long. */
const STALL_MS = 30_000;
const POLL_MS = 100;
const SEED_CHUNK = 5_000;
const LOG_SHOWN = 8_000;
const UNLIMITED = "1000000";
/** As startSkein has it, where nobody says otherwise. */
const PREFIX = "skein";
const PARTITIONS = 16;
const TEXT = "to all of you";

/** Throws, with the end of the Skein's log, when it does not get through. */
export async function runBroadcastCampaign(options: BroadcastCampaignOptions): Promise<BroadcastResult> {
  const { users: count, perSecond, seed, keep, print, pairs = PAIRS, idleMs = IDLE_MS } = options;
  const random = createRandom(seed);
  const dataDir = mkdtempSync(join(tmpdir(), "skein-chaos-broadcast-"));
  print(`broadcast: ${count} users at ${perSecond}/s, seed ${seed}${keep ? `, in ${dataDir}` : ""}`);
  const env = { SKEIN_SEND_RATE: UNLIMITED, SKEIN_SEND_BURST: UNLIMITED };
  const skein = await startSkein({ roles: ROLES, processes: true, dataDir, env });
  const redis = await openRedis(skein.redisUrl, "judge", silentLog);
  const keys = createKeys(PREFIX, PARTITIONS);
  const process = startLoadProcess();
  try {
    const chat = createSkeinLoad(
      { gateways: skein.urls, serviceKey: skein.serviceKey, redis: redis.commands, pids: skein.pids },
      process,
    );
    const lanes = await chat.connectPairs(pairs);
    const measure = (measureMs: number) => chat.run({ lanes, perSecond: CHAT_PER_SECOND, warmMs: WARM_MS, measureMs });
    const users = await seedUsers(redis.commands, keys, count);
    const idle = await measure(idleMs);
    const broadcasts = createBroadcasts(redis.commands, keys, systemClock);
    const { broadcast } = await broadcasts.create({
      ...{ by: BROADCASTER, audience: { all: true }, type: "text", body: { text: TEXT }, perSecond },
    });
    const [meanwhile, ended] = await Promise.all([
      measure((count / perSecond) * 1_000 * MEASURED_SHARE),
      strikeUntilEnd(() => broadcasts.get(broadcast.id), { ...options, random, skein }),
    ]);
    const found = await readConversations(redis.commands, keys, users);
    const verdict = judgeBroadcast(found, { from: BROADCASTER, text: TEXT }, ended);
    const isClean = Object.values(verdict).every((found) => found === 0);
    const seconds = (ended.endedAt! - ended.startedAt!) / 1_000;
    const result = { seed, broadcast: ended, kills: options.kills, seconds, idle, meanwhile, verdict, isClean };
    printResult(result, print);
    return result;
  } catch (error) {
    print(skein.output().slice(-LOG_SHOWN));
    throw error;
  } finally {
    await process.stop();
    await redis.close();
    await skein.stop();
    if (!keep) rmSync(dataDir, { recursive: true, force: true });
  }
}

/** Users of whom nothing is known but that they were there once. Resolves to all that are known then: those who chat as well. */
async function seedUsers(commands: RedisClient, keys: Keys, count: number): Promise<string[]> {
  const index = createUserIndex(commands, keys);
  for (let from = 1; from <= count; from += SEED_CHUNK) {
    const numbers = Array.from({ length: Math.min(SEED_CHUNK, count - from + 1) }, (_, i) => from + i);
    await index.note(new Map(numbers.map((n) => [`user-${n}`, n])));
  }
  const partitions = Array.from({ length: keys.partitions }, (_, partition) => keys.users(partition));
  return (await Promise.all(partitions.map((known) => commands.zrange(known, "0", "-1")))).flat();
}

interface Strikes {
  readonly users: number;
  readonly kills: number;
  readonly random: Random;
  readonly skein: PrivateSkein;
}

/** Kills extlogics at places spread over its way, until it has ended. Throws when it stands still. */
async function strikeUntilEnd(
  look: () => Promise<Broadcast>,
  { users, kills, random, skein }: Strikes,
): Promise<Broadcast> {
  const places = Array.from({ length: kills }, (_, i) => ((i + random.next()) / kills) * users * STRUCK_SHARE);
  const processes = () =>
    Object.entries(skein.pids())
      .filter(([name]) => name.startsWith("extlogic"))
      .map(([name, pid]) => ({ name, pid }));
  let movedMs = performance.now();
  for (let total = -1; ; ) {
    const broadcast = await look();
    if (broadcast.total >= (places[0] ?? Number.POSITIVE_INFINITY)) {
      places.shift();
      await strike("worker-kill", { random, processes, leaseMs: 0 });
    }
    if (broadcast.state === "done" && places.length === 0) return broadcast;
    if (broadcast.total !== total) [total, movedMs] = [broadcast.total, performance.now()];
    if (performance.now() - movedMs > STALL_MS) throw new Error(`it stands still: ${JSON.stringify(broadcast)}`);
    await Bun.sleep(POLL_MS);
  }
}

/** What lies in the direct conversation of each user with the broadcaster. */
async function readConversations(
  commands: RedisClient,
  keys: Keys,
  users: readonly string[],
): Promise<FoundMessage[][]> {
  return inParallel(users, async (user) => {
    const conversation = await directConversationId(BROADCASTER, user);
    const rows = await commands.xrange(keys.log(conversation), "-", "+");
    return rows.map(([, [, record]]) => {
      const { from, body } = JSON.parse(record!) as { from: string; body: { text: string } };
      return { from, text: body.text };
    });
  });
}

/** `found`: per user who is to have it. */
export function judgeBroadcast(
  found: readonly (readonly FoundMessage[])[],
  wanted: FoundMessage,
  { total, sent, refused }: Pick<Broadcast, "total" | "sent" | "refused">,
): BroadcastVerdict {
  const isWanted = ({ from, text }: FoundMessage) => from === wanted.from && text === wanted.text;
  const counts = found.map((messages) => messages.filter(isWanted).length);
  const sum = counts.reduce((all, count) => all + count, 0);
  return {
    missing: counts.filter((count) => count === 0).length,
    doubled: counts.reduce((all, count) => all + Math.max(0, count - 1), 0),
    strange: found.flat().length - sum,
    miscounted: Math.abs(total - found.length) + Math.abs(sent - found.length) + Object.keys(refused).length,
  };
}

function printResult(result: BroadcastResult, print: (line: string) => void): void {
  const { idle, meanwhile, broadcast, seconds, kills, verdict } = result;
  const latencies = ({ ackMs, deliveryMs }: LoadResult) =>
    `ack p50 ${ackMs.p50.toFixed(2)} p99 ${ackMs.p99.toFixed(2)} ms, delivery p50 ${deliveryMs.p50.toFixed(2)} p99 ${deliveryMs.p99.toFixed(2)} ms, of ${ackMs.count}`;
  const ratio = (of: "ackMs" | "deliveryMs") => (meanwhile[of].p99 / idle[of].p99).toFixed(2);
  print(`idle:      ${latencies(idle)}`);
  print(`meanwhile: ${latencies(meanwhile)}`);
  print(`ratio:     p99 of acks ${ratio("ackMs")}, of deliveries ${ratio("deliveryMs")} (goal: at most 2)`);
  print(
    `broadcast: ${broadcast.sent} of ${broadcast.total} sent in ${seconds.toFixed(1)} s, ${kills} extlogics killed`,
  );
  print(
    `verdict:   ${Object.entries(verdict)
      .map(([kind, found]) => `${kind} ${found}`)
      .join(", ")}`,
  );
}
