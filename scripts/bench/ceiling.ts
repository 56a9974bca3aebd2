/**
 * The ceiling of our own commit: lib/im's script on a Redis of its own, driven by several processes so that
 * Redis is the bottleneck. Run at 1, 16 and 64 sends per script.
 */

import { systemClock } from "../../lib/clock.ts";
import { createChat, LIMITS } from "../../lib/im/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { TUNING } from "../../lib/redis/embedded.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import type { DriverEvent, DriverOrder } from "./commit-driver.ts";
import { type Fsync, infoNumber, startBenchRedis } from "./redis.ts";
import { startCpuWatch, totalSeconds } from "./usage.ts";

/** What sends go to: groups, each of so many members. */
interface Crowd {
  readonly conversations: number;
  readonly members: number;
}

const PAIRS: Crowd = { conversations: 1_000, members: 2 };
const PARTITIONS = 16;
const PREFIX = "bench";
const TEXT_BYTES = 100;
const SENDER = "u1";
/** Two keep one Redis busy on two cores; a third would take its core away. */
const DRIVERS = 2;
const WARM_MS = 700;
/** Conversations created at once. */
const CREATING = 50;

export interface Ceiling {
  readonly window: number;
  readonly fsync: Fsync;
  readonly perSecond: number;
  /** CPU time of Redis per send, and how busy it was: below 0.9 the drivers were the bottleneck and the figure is a lower bound. */
  readonly redisMicros: number;
  readonly redisBusy: number;
  /** used_memory_dataset per send. */
  readonly bytesPerSend: number;
  readonly aofBytesPerSend: number;
}

/** Commits per second at `window` sends per script. */
export async function measureCeiling(fsync: Fsync, window: number, measureMs: number, crowd = PAIRS): Promise<Ceiling> {
  const redis = await startBenchRedis(fsync, { settings: TUNING });
  try {
    const conversations = await seed(redis.url, crowd);
    const memoryBefore = await infoNumber(redis.client, "memory", "used_memory_dataset");
    const aofBefore = await infoNumber(redis.client, "persistence", "aof_current_size");
    let watch: ReturnType<typeof startCpuWatch> | undefined;
    let used = Number.NaN;
    const results = await Promise.all(
      Array.from({ length: DRIVERS }, (_, index) =>
        runDriver(
          {
            url: redis.url,
            prefix: PREFIX,
            partitions: PARTITIONS,
            name: `driver${index}`,
            conversations,
            sender: SENDER,
            // The drivers' scripts do not merge: each makes its own batches.
            window,
            textBytes: TEXT_BYTES,
            warmMs: WARM_MS,
            measureMs,
          },
          (phase) => {
            if (phase === "measuring") watch ??= startCpuWatch({ redis: redis.pid });
            else if (Number.isNaN(used)) used = totalSeconds(watch!().redis!);
          },
        ),
      ),
    );
    const failed = results.find((result) => result.failed !== undefined)?.failed;
    if (failed !== undefined) throw new Error(`the commit driver failed: ${failed}`);
    const committed = results.reduce((sum, result) => sum + result.committed, 0);
    const seconds = Math.max(...results.map((result) => result.seconds));
    const sends = results.reduce((sum, result) => sum + result.committedInAll, 0);
    const memory = (await infoNumber(redis.client, "memory", "used_memory_dataset")) - memoryBefore;
    const aof = (await infoNumber(redis.client, "persistence", "aof_current_size")) - aofBefore;
    return {
      window,
      fsync,
      perSecond: Math.round(committed / seconds),
      redisMicros: (used * 1e6) / committed,
      redisBusy: used / seconds,
      bytesPerSend: memory / sends,
      aofBytesPerSend: aof / sends,
    };
  } finally {
    await redis.stop();
  }
}

/** Creates the conversations as logic does, and returns their ids. */
async function seed(url: string, crowd: Crowd): Promise<string[]> {
  const redis = await openRedis(url, "seed", silentLog);
  const keys = createKeys(PREFIX, PARTITIONS);
  const { conversations } = createChat({
    ...{ redis: redis.commands, keys, clock: systemClock, metrics: createMetrics(), replicas: 0, recallMs: 0 },
    makeRoom: async () => undefined,
    readArchive: async () => [],
  });
  const ids = Array.from({ length: crowd.conversations }, (_, i) => `conversation-${i}`);
  const users = Array.from({ length: crowd.members - 1 }, (_, i) => `u${i + 2}`);
  const seedOne = async (id: string) => {
    await conversations.create(SENDER, { id, type: "group", members: users.slice(0, LIMITS.membersPerRequest) });
    for (let from = LIMITS.membersPerRequest; from < users.length; from += LIMITS.membersPerRequest) {
      await conversations.add(SENDER, id, users.slice(from, from + LIMITS.membersPerRequest));
    }
  };
  for (let i = 0; i < ids.length; i += CREATING) await Promise.all(ids.slice(i, i + CREATING).map(seedOne));
  await redis.close();
  return ids;
}

function runDriver(
  order: DriverOrder,
  onPhase: (phase: "measuring" | "measured") => void,
): Promise<Extract<DriverEvent, { type: "done" }>> {
  return new Promise((resolve, reject) => {
    const child = Bun.spawn([process.execPath, new URL("./commit-driver.ts", import.meta.url).pathname], {
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      ipc(event: DriverEvent) {
        if (event.type === "done") resolve(event);
        else onPhase(event.type);
      },
      onExit: () => reject(new Error("the commit driver ended early")),
    });
    child.send(order);
  });
}
