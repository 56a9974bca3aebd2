/** The Skein that is measured: private, every role in a process of its own, two gateways; the users' send limits out of the way. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../lib/observability/index.ts";
import { openRedis } from "../../lib/redis/index.ts";
import { startSkein } from "../harness.ts";
import type { Target } from "./skein-load.ts";
import { startCpuWatch, totalSeconds } from "./usage.ts";

const ROLES = ["gateway=2", "logic", "archive", "scheduler", "orders", "trades", "ads"];
/** The limits are checked as ever; a bench user is worth a thousand people. */
const UNLIMITED = "1000000";
/** The servers rest when all of them together use less than this share of a core over a sample: timers and heartbeats. */
const QUIET_SHARE = 0.15;
const QUIET_SAMPLE_MS = 500;
const QUIET_MAX_MS = 120_000;

export interface RunningTarget extends Target {
  /** Where the profiles of its processes are after `stop`, when they were asked for. */
  readonly profileFolder: string | undefined;
  /** Waits until the servers rest: no group has a backlog then. Resolves with the seconds it took. */
  quiet(): Promise<number>;
  stop(): Promise<void>;
}

export async function startTarget(ackLevel: "memory" | "disk", isProfiling: boolean): Promise<RunningTarget> {
  const profileFolder = isProfiling ? mkdtempSync(join(tmpdir(), "skein-profile-")) : undefined;
  const skein = await startSkein({
    roles: ROLES,
    processes: true,
    env: {
      SKEIN_ACK_LEVEL: ackLevel,
      SKEIN_SEND_RATE: UNLIMITED,
      SKEIN_SEND_BURST: UNLIMITED,
      ...(profileFolder === undefined ? {} : { BUN_OPTIONS: `--cpu-prof --cpu-prof-dir=${profileFolder}` }),
    },
  });
  const store = await openRedis(skein.redisUrl, "bench", silentLog);
  return {
    redis: store.commands,
    gateways: skein.urls,
    serviceKey: skein.serviceKey,
    profileFolder,
    pids: skein.pids,
    async quiet() {
      const startedMs = performance.now();
      for (;;) {
        const read = startCpuWatch(skein.pids());
        await Bun.sleep(QUIET_SAMPLE_MS);
        const used = Object.values(read()).reduce((sum, cpu) => sum + totalSeconds(cpu), 0);
        const elapsedMs = performance.now() - startedMs;
        if (used < QUIET_SHARE * (QUIET_SAMPLE_MS / 1_000)) return Math.max(0, elapsedMs - QUIET_SAMPLE_MS) / 1_000;
        if (elapsedMs > QUIET_MAX_MS) throw new Error(`the servers were still busy ${QUIET_MAX_MS} ms after the load`);
      }
    },
    async stop() {
      await store.close();
      await skein.stop();
    },
  };
}
