/**
 * Starts Skein and keeps it running: the embedded Redis (unless SKEIN_REDIS_URL names one), then the units, each a child process
 * with one or more roles. A unit that dies is started again with back-off; a role that cannot start at all ends Skein with the
 * reason. Ctrl-C or SIGTERM: gateways drain first, then the rest, Redis last.
 *
 *   supervisor ─┬─ redis (behind its guard)
 *               ├─ unit   archive logic orders trades ads gateway        default: one unit
 *               └─ unit   gateway (second instance) …                    --processes: one per role and instance
 */

import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { readConfig } from "../lib/config.ts";
import {
  lockDataDir,
  type Run,
  readRun,
  removeRun,
  removeSocketFolder,
  socketFolder,
  writeRun,
} from "../lib/data-dir.ts";
import { AppError } from "../lib/errors.ts";
import { createLog } from "../lib/observability/index.ts";
import { startEmbeddedRedis } from "../lib/redis/embedded.ts";
import { loadSecrets } from "../lib/secrets.ts";
import { SHUTDOWN_MS } from "../lib/service.ts";
import { readArguments, USAGE } from "./supervisor/arguments.ts";
import { createOutput } from "./supervisor/output.ts";
import { planUnits } from "./supervisor/plan.ts";
import { superviseUnit, type Unit } from "./supervisor/unit.ts";
import { welcome } from "./supervisor/welcome.ts";

/** A second Ctrl-C ends everything at once; the terminal and `bun run` may deliver the first one twice. */
const SECOND_SIGNAL_AFTER_MS = 500;
/** All units together: they drain for SHUTDOWN_MS at most, and what is still there then is stuck. */
const STOP_WITHIN_MS = SHUTDOWN_MS + 3_000;

async function main(): Promise<void> {
  const args = readArguments(process.argv.slice(2));
  if (args === "help") {
    console.log(USAGE);
    return;
  }
  const config = readConfig();
  // Over a Redis of someone else's several supervisors may share the data dir's secrets; the first one's run.json stays.
  const lock = config.redisUrl === undefined ? lockDataDir(config.dataDir) : undefined;
  const isOwnRun = lock !== undefined || !isRunning(config.dataDir);
  const isFirstStart = config.redisUrl === undefined && !existsSync(join(config.dataDir, "redis"));
  const secrets = loadSecrets(config);
  const log = createLog({ role: "supervisor" }, config.logLevel);
  const output = createOutput();
  const pids: Record<string, number> = {};
  const units: Unit[] = [];
  let run: Run = { pid: process.pid, url: "", urls: [], redisUrl: config.redisUrl ?? "", pids, ready: false };
  const record = (changed: Partial<Run> = {}) => {
    run = { ...run, ...changed };
    if (isOwnRun) writeRun(config.dataDir, run);
  };

  let stopping: Promise<void> | undefined;
  let redis: Awaited<ReturnType<typeof startEmbeddedRedis>> | undefined;
  const stop = (code: number): Promise<void> => {
    stopping ??= (async () => {
      const late = setTimeout(() => {
        log.error({}, "units did not end in time and are killed");
        for (const unit of units) unit.kill();
      }, STOP_WITHIN_MS);
      // Who calls stops before who is called, so that nothing in hand loses its answer.
      const tiers = [...new Set(units.map((unit) => unit.tier))].sort((a, b) => b - a);
      for (const tier of tiers)
        await Promise.all(units.filter((unit) => unit.tier === tier).map((unit) => unit.stop()));
      clearTimeout(late);
      await redis?.stop();
      if (isOwnRun) removeRun(config.dataDir);
      removeSocketFolder(config.dataDir);
      lock?.release();
      process.exit(code);
    })();
    return stopping;
  };
  const giveUp = (error: unknown) => {
    log.error({ reason: error instanceof Error ? error.message : String(error) }, "skein ends");
    output.say(`Skein ends: ${error instanceof Error ? error.message : String(error)}`);
    void stop(1);
  };
  onSignals(
    () => void stop(0),
    () => {
      for (const unit of units) unit.kill();
      void redis?.stop();
    },
  );

  record();
  try {
    if (config.redisUrl === undefined) {
      redis = await startEmbeddedRedis({
        dataDir: config.dataDir,
        socketDir: socketFolder(config.dataDir),
        password: secrets.redisPassword,
        ackLevel: config.ackLevel,
        log,
        onStart: (pid) => {
          pids.redis = pid;
          record();
        },
        onGone: giveUp,
      });
    }
    const redisUrl = redis?.url ?? config.redisUrl!;
    const plan = planUnits(
      args,
      config,
      `${hostname()
        .replaceAll(/[^A-Za-z0-9-]/g, "-")
        .slice(0, 20)}.${process.pid}`,
    );
    record({ redisUrl });
    for (const planned of plan) {
      const unit = superviseUnit(planned, {
        redisUrl,
        log,
        output,
        onStart: (pid) => {
          pids[planned.name] = pid;
          record();
        },
        onGone: giveUp,
      });
      units.push(unit);
    }
    await Promise.all(units.map((unit) => unit.ready));
    if (stopping) return;
    const urls = plan.flatMap((planned) => (planned.url === undefined ? [] : [planned.url]));
    record({ url: urls[0] ?? "", urls });
    const { serviceKey } = secrets;
    await welcome({ config, urls, plan, output, serviceKey, redisPort: redis?.port, isFirstStart });
    record({ ready: true });
  } catch (error) {
    giveUp(error);
  }
}

function onSignals(soft: () => void, hard: () => void): void {
  let firstMs: number | undefined;
  const onSignal = () => {
    if (firstMs === undefined) {
      firstMs = performance.now();
      soft();
    } else if (performance.now() - firstMs > SECOND_SIGNAL_AFTER_MS) {
      hard();
    }
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, onSignal);
  // `bun run workers` that started us (setup.ts) was killed: nobody is left to stop us.
  process.on("disconnect", soft);
}

function isRunning(dataDir: string): boolean {
  const pid = readRun(dataDir)?.pid;
  try {
    return pid !== undefined && process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

try {
  await main();
} catch (error) {
  // Faults of settings, arguments and the data dir: one clear line, no stack.
  if (!(error instanceof AppError)) throw error;
  console.error(error.message);
  process.exit(1);
}
