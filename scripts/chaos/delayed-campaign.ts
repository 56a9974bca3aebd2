/**
 * The campaign on delayed messages: publishers keep messages that are due within seconds, cancel some and move others, while
 * schedulers are killed with -9 at random, Redis once, and one scheduler's clock is an hour ahead all the time. When all that is due
 * has come, the topic is judged against what the publishers were told.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { childEnvironment } from "../../lib/config.ts";
import { connectQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis, type RedisClient } from "../../lib/redis/index.ts";
import { type PrivateSkein, startSkein } from "../harness.ts";
import {
  type DelayedLine,
  delayedNumbers,
  PUBLISHERS,
  type PublisherEvent,
  type PublisherOrder,
} from "./delayed-plan.ts";
import { type DelayedJudgement, type FoundEntry, judgeDelayed } from "./delayed-verdict.ts";
import { readEvidence } from "./evidence.ts";
import { strike, type Victim } from "./faults.ts";
import { createRandom, type Random } from "./random.ts";

export interface DelayedCampaignOptions {
  /** Messages to publish. */
  readonly count: number;
  readonly seed: number;
  /** Keeps the data dir and the evidence, and says where. */
  readonly keep: boolean;
  /** By all publishers together. */
  readonly perSecond?: number;
  /** Messages are due within so long. */
  readonly spreadMs?: number;
  readonly print: (line: string) => void;
}

export interface DelayedResult extends DelayedJudgement {
  readonly seed: number;
  readonly kills: number;
  readonly seconds: number;
  readonly isClean: boolean;
}

const PER_SECOND = 400;
const SPREAD_MS = 15_000;
const STRIKE_MS = [300, 1_500] as const;
/** Nothing may wait so long behind its time: then what is missing is missing. */
const STALL_MS = 30_000;
/** After a strike nothing may need a human. */
const RECOVERY_MS = 30_000;
const POLL_MS = 100;
const PAGE = 1_000;
/** Characters of the log that are printed when a campaign does not get through. */
const LOG_SHOWN = 8_000;
/** As startSkein and connectQueue have it, where nobody says otherwise. */
const PREFIX = "skein";
const PARTITIONS = 16;

/** Throws, with the end of the Skein's log, when it does not get through: nothing may need a human. */
export async function runDelayedCampaign(options: DelayedCampaignOptions): Promise<DelayedResult> {
  const { count, seed, keep, print, perSecond = PER_SECOND, spreadMs = SPREAD_MS } = options;
  const startedMs = performance.now();
  const random = createRandom(seed);
  const folder = mkdtempSync(join(tmpdir(), "skein-chaos-delayed-"));
  print(`delayed: ${count} messages, seed ${seed}${keep ? `, in ${folder}` : ""}`);
  const dataDir = join(folder, "data");
  const skein = await startSkein({ roles: ["scheduler=2"], processes: true, dataDir });
  const ahead = keepAhead(skein);
  const publishers = startPublishers(skein, folder, random, { count, perSecond, spreadMs });
  const redis = await openRedis(skein.redisUrl, "judge", silentLog);
  try {
    const kills = await strikeUntil(publishers.finished, {
      random,
      processes: () => [...victimsOf(skein), ahead.victim()],
      mayKillRedis: () => publishers.published() > count / 2,
      sent: () => countEntries(redis.commands),
    });
    print(`published: ${publishers.published()}; ${kills} schedulers killed, Redis once`);
    await untilEmpty(skein.redisUrl);
    const evidence = publishers.evidencePaths.flatMap((path) => readEvidence<DelayedLine>(path));
    const judgement = judgeDelayed(evidence, await readEntries(redis.commands));
    const isClean = Object.values(judgement.verdict).every((found) => found === 0) && judgement.figures.kept === count;
    const seconds = (performance.now() - startedMs) / 1_000;
    const result = { ...judgement, seed, kills, seconds, isClean };
    printResult(result, print);
    return result;
  } catch (error) {
    print(skein.output().slice(-LOG_SHOWN));
    throw error;
  } finally {
    publishers.kill();
    await redis.close();
    await ahead.stop();
    await skein.stop();
    if (!keep) rmSync(folder, { recursive: true, force: true });
  }
}

function victimsOf(skein: PrivateSkein): Victim[] {
  return Object.entries(skein.pids()).map(([name, pid]) => ({ name, pid }));
}

interface Strikes {
  readonly random: Random;
  readonly processes: () => Victim[];
  readonly mayKillRedis: () => boolean;
  /** Messages in the topic. Throws while Redis is away. */
  readonly sent: () => Promise<number>;
}

/**
 * One strike after the other until nothing more is published, one of them at Redis, the next when messages come again. Resolves to the
 * schedulers killed. Throws when no message comes for RECOVERY_MS after a strike.
 */
async function strikeUntil(finished: Promise<void>, { random, processes, mayKillRedis, sent }: Strikes) {
  let isFinished = false;
  const end = finished.finally(() => {
    isFinished = true;
  });
  let kills = 0;
  let isRedisKilled = false;
  while (!isFinished || !isRedisKilled) {
    await Promise.race([end, Bun.sleep(random.between(...STRIKE_MS))]);
    const campaign = !isRedisKilled && mayKillRedis() ? "redis-kill" : "worker-kill";
    const what = await strike(campaign, { random, processes, leaseMs: 0 });
    if (campaign === "redis-kill") isRedisKilled = true;
    else kills += 1;
    const struckMs = performance.now();
    const before = await sent().catch(() => 0);
    while (!isFinished && (await sent().catch(() => 0)) <= before) {
      if (performance.now() - struckMs > RECOVERY_MS) throw new Error(`no message came for ${RECOVERY_MS} ms: ${what}`);
      await Bun.sleep(POLL_MS);
    }
  }
  await end;
  return kills;
}

/** A scheduler beside the Skein's own whose clock is an hour ahead; started again when it was killed. */
function keepAhead(skein: PrivateSkein) {
  let isStopping = false;
  const start = () =>
    Bun.spawn(
      [
        ...[process.execPath, "--preload", new URL("./hour-ahead.ts", import.meta.url).pathname],
        ...[new URL("../../workers/unit.ts", import.meta.url).pathname, "--instance", "chaos.ahead", "scheduler"],
      ],
      {
        env: childEnvironment({ SKEIN_REDIS_URL: skein.redisUrl, SKEIN_DATA_DIR: skein.dataDir }, "none"),
        ...{ stdin: "ignore", stdout: "ignore", stderr: "ignore" },
        ipc: () => undefined,
      },
    );
  let child = start();
  const keeping = (async () => {
    while (!isStopping) {
      await child.exited;
      if (!isStopping) child = start();
    }
  })();
  return {
    victim: (): Victim => ({ name: "ahead", pid: child.pid }),
    async stop() {
      isStopping = true;
      child.kill("SIGKILL");
      await keeping;
    },
  };
}

function startPublishers(
  { redisUrl }: PrivateSkein,
  folder: string,
  random: Random,
  { count, perSecond, spreadMs }: { count: number; perSecond: number; spreadMs: number },
) {
  let published = 0;
  const share = Math.ceil(count / PUBLISHERS);
  const running = Array.from({ length: PUBLISHERS }, (_, i) => {
    const finished = Promise.withResolvers<void>();
    const order: PublisherOrder = {
      ...{ name: `publisher-${i}`, redisUrl, evidencePath: join(folder, `publisher-${i}.jsonl`) },
      ...{ seed: random.between(0, 2 ** 31 - 1), from: i * share + 1, to: Math.min(count, (i + 1) * share) },
      ...{ perSecond: perSecond / PUBLISHERS, spreadMs },
    };
    const child = Bun.spawn([process.execPath, new URL("./delayed-process.ts", import.meta.url).pathname], {
      ...{ stdin: "ignore", stdout: "inherit", stderr: "inherit" },
      ipc(event: PublisherEvent) {
        if (event.type === "finished") finished.resolve();
        else published += event.count;
      },
      onExit: (_, code) => finished.reject(new Error(`${order.name} ended with ${code} before it had finished`)),
    });
    child.send(order);
    return { child, order, finished: finished.promise };
  });
  return {
    published: () => published,
    evidencePaths: running.map(({ order }) => order.evidencePath),
    finished: Promise.all(running.map(({ finished }) => finished)).then(() => undefined),
    kill() {
      for (const { child } of running) child.kill("SIGKILL");
    },
  };
}

/** Returns also when it stalls: the verdict then says what is missing. */
async function untilEmpty(url: string): Promise<void> {
  await using queue = await connectQueue({ url, member: "judge" });
  for (let quietMs = performance.now(), last = ""; performance.now() - quietMs < STALL_MS; ) {
    const { messages } = await queue.delayed.list({ limit: 1 });
    const [next] = messages;
    if (!next) return;
    // What is not due yet is no stall.
    if (next.id !== last || next.deliverAt > Date.now()) [quietMs, last] = [performance.now(), next.id];
    await Bun.sleep(POLL_MS);
  }
}

/** The partitions of the topic. */
function streams(): string[] {
  const keys = createKeys(PREFIX, PARTITIONS);
  return Array.from({ length: PARTITIONS }, (_, partition) => keys.topic(delayedNumbers.name, partition));
}

async function countEntries(commands: RedisClient): Promise<number> {
  const lengths = await Promise.all(streams().map((stream) => commands.xlen(stream)));
  return lengths.reduce((sum, length) => sum + length, 0);
}

/** The topic as Redis holds it. */
async function readEntries(commands: RedisClient): Promise<FoundEntry[]> {
  const entries: FoundEntry[] = [];
  for (const stream of streams()) {
    for (let from = "-"; ; ) {
      const page = await commands.xrange(stream, from, "+", "COUNT", PAGE);
      for (const [entry, [, data]] of page) {
        entries.push({ n: (JSON.parse(data!) as { n: number }).n, ms: Number(entry.split("-")[0]) });
      }
      if (page.length < PAGE) break;
      from = `(${page.at(-1)![0]}`;
    }
  }
  return entries;
}

function printResult({ figures, verdict, examples, seconds }: DelayedResult, print: (line: string) => void): void {
  const { kept, sent, cancelled, moved, lateMs } = figures;
  print(`outcomes: ${kept} kept: ${sent} sent, ${cancelled} cancelled; ${moved} were moved`);
  print(`lateness: ${lateMs.p50} ms at the median, ${lateMs.p99} ms at p99, ${lateMs.max} ms at most`);
  print(
    `verdict:  ${Object.entries(verdict)
      .map(([kind, found]) => `${kind} ${found}`)
      .join(", ")}`,
  );
  for (const example of examples) print(`          ${example}`);
  print(`time:     ${seconds.toFixed(1)} s`);
}
