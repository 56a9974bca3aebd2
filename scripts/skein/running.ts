/** The Skein that runs on the data dir of the settings: what its supervisor wrote there (lib/data-dir.ts), and the service key. */

import { systemClock } from "../../lib/clock.ts";
import { type Config, readConfig } from "../../lib/config.ts";
import { type Run, readRun } from "../../lib/data-dir.ts";
import { imTopics } from "../../lib/im/index.ts";
import { imRelay, openQueue, type Queue } from "../../lib/mq/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { loadSecrets } from "../../lib/secrets.ts";

export interface RunningSkein extends Run {
  readonly config: Config;
  readonly serviceKey: string;
}

/** What a person did wrong or has yet to do: printed as one line, without a stack. */
export class Failure extends Error {
  override readonly name = "Failure";
}

/** Throws Failure when no Skein runs on the data dir, or it is still starting. */
export function findRunning(config: Config = readConfig()): RunningSkein {
  const run = readRun(config.dataDir);
  if (!run || !isAlive(run.pid)) {
    throw new Failure(
      `Skein is not running on ${config.dataDir}: start it with \`bun run workers\` in another terminal`,
    );
  }
  if (!run.ready) throw new Failure(`Skein is starting on ${config.dataDir}: try again in a moment`);
  return { ...run, config, serviceKey: loadSecrets(config).serviceKey };
}

export interface RunningQueue extends AsyncDisposable {
  readonly queue: Queue;
}

/** The queue of the running Skein, over a connection of its own. Throws Failure as findRunning. */
export async function openRunningQueue(): Promise<RunningQueue> {
  const { config, redisUrl } = findRunning();
  const member = `skein.${process.pid}`;
  const redis = await openRedis(redisUrl, member, silentLog);
  const keys = createKeys(config.prefix, config.partitions);
  const context = { redis, keys, clock: systemClock, log: silentLog, metrics: createMetrics(), member };
  return { queue: openQueue({ ...context, topics: [...imTopics, imRelay] }), [Symbol.asyncDispose]: redis.close };
}

/** The WebSocket address of a gateway given by its http(s) URL. */
export function socketUrl(url: string): string {
  return `${url.replace(/^http/, "ws").replace(/\/$/, "")}/v1/ws`;
}

/** After a kill -9 the supervisor's file stays: whether the process that it names is there. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // Alive, but of another user.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
