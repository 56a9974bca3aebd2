/**
 * One supervised child process.
 *
 *   starting ──ready──► running ──died──► waiting (back-off) ──► starting …
 *      │ failed for good, or STARTS_MAX times before it was ever ready
 *      └──────────────► gone: the supervisor ends
 */

import { setPriority } from "node:os";
import { backoffMs } from "../../lib/clock.ts";
import { childEnvironment } from "../../lib/config.ts";
import type { Log } from "../../lib/observability/index.ts";
import type { UnitReport } from "../../workers/unit.ts";
import type { Output } from "./output.ts";
import type { PlannedUnit } from "./plan.ts";

/** Soon at first, for users wait; 5 s when it keeps dying, so that its log can be read. */
const RESTART_BACKOFF = { firstMs: 100, maxMs: 5_000, jitter: 0.1 };
/** So long ready, and the next death is the first again. */
const HEALTHY_AFTER_MS = 10_000;
/**
 * A unit that has never been ready is tried so often, over some 3 s: after a kill -9 of an earlier supervisor its gateway needs a
 * moment to leave the port.
 */
const STARTS_MAX = 6;

export interface Unit {
  readonly tier: number;
  /** Resolves when the unit was ready for the first time. */
  readonly ready: Promise<void>;
  /** Soft; resolves when it has ended. */
  stop(): Promise<void>;
  /** Ends it at once. */
  kill(): void;
}

interface UnitParts {
  readonly redisUrl: string;
  readonly log: Log;
  readonly output: Output;
  readonly onStart: (pid: number) => void;
  /** It cannot be started; why. */
  readonly onGone: (error: Error) => void;
}

/**
 * Of a unit of heavy work, its starts included: it takes the cores that nobody else wants, and a tenth of one that others want. Two
 * cores, a broadcast at 300/s, extlogic killed three times: people's deliveries had a p99 of 2.6 times the idle one, so 2.0.
 */
const HEAVY_NICENESS = 10;

const UNIT = new URL("../../workers/unit.ts", import.meta.url).pathname;

export function superviseUnit(planned: PlannedUnit, { redisUrl, log, output, onStart, onGone }: UnitParts): Unit {
  const first = Promise.withResolvers<void>();
  let child: Bun.Subprocess | undefined;
  let isStopping = false;
  let wasReady = false;
  const stopping = Promise.withResolvers<void>();

  /** Runs the process once. Resolves when it has ended, with what it said of itself. */
  async function runOnce(): Promise<{
    readyMs: number | undefined;
    failure: Extract<UnitReport, { type: "failed" }> | undefined;
  }> {
    let readySince: number | undefined;
    let failure: Extract<UnitReport, { type: "failed" }> | undefined;
    const started = Bun.spawn([process.execPath, UNIT, "--instance", planned.instance, ...planned.roles], {
      env: childEnvironment({ ...planned.environment, SKEIN_REDIS_URL: redisUrl }),
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      ipc(report: UnitReport) {
        if (report.type === "failed") failure = report;
        else {
          readySince = performance.now();
          wasReady = true;
          first.resolve();
        }
      },
    });
    child = started;
    if (planned.isHeavy) yieldToOthers(started.pid);
    onStart(started.pid);
    await Promise.all([
      output.follow(planned.name, started.stdout),
      output.follow(planned.name, started.stderr),
      started.exited,
    ]);
    return { readyMs: readySince === undefined ? undefined : performance.now() - readySince, failure };
  }

  async function keepRunning(): Promise<void> {
    for (let failures = 0; !isStopping; ) {
      const { readyMs, failure } = await runOnce();
      if (isStopping) return;
      failures = readyMs !== undefined && readyMs > HEALTHY_AFTER_MS ? 1 : failures + 1;
      if (!wasReady && (failure?.isFinal || failures >= STARTS_MAX)) {
        const reason = failure?.reason ?? `it ended with ${child?.signalCode ?? `code ${child?.exitCode}`}`;
        onGone(new Error(`${planned.name} cannot start: ${reason}`));
        return;
      }
      const waitMs = backoffMs(failures, RESTART_BACKOFF);
      const ended = child?.signalCode ?? `code ${child?.exitCode}`;
      log.warn({ unit: planned.name, ended, failures, waitMs }, "a unit died and is started again");
      await Promise.race([Bun.sleep(waitMs), stopping.promise]);
    }
  }

  const finished = keepRunning();
  return {
    tier: planned.tier,
    ready: first.promise,
    async stop() {
      isStopping = true;
      stopping.resolve();
      child?.kill("SIGTERM");
      await finished;
    },
    kill() {
      isStopping = true;
      stopping.resolve();
      child?.kill("SIGKILL");
    },
  };
}

/** Right after its start: threads that it makes inherit it. */
function yieldToOthers(pid: number): void {
  try {
    setPriority(pid, HEAVY_NICENESS);
  } catch {
    // It has ended already.
  }
}
