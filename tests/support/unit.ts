/** One real unit process (workers/unit.ts) over a test store, for tests that kill it. */

import { rmSync } from "node:fs";
import { socketFolder } from "../../lib/data-dir.ts";
import type { TestStore } from "./redis.ts";

export interface TestUnit extends AsyncDisposable {
  readonly pid: number;
  /** kill -9. Resolves when it is gone. */
  kill(): Promise<void>;
  /** SIGTERM. Resolves to its exit code. */
  stop(): Promise<number>;
}

interface UnitGround extends Pick<TestStore, "url" | "prefix" | "partitions"> {
  /** Modules to run before anything else of it. */
  readonly preload?: string;
  readonly instance?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Starts the roles under one instance name, and resolves when the unit reports itself ready. */
export async function startUnit(
  { url, prefix, partitions, preload, instance = "test.unit", env }: UnitGround,
  dataDir: string,
  ...roles: string[]
): Promise<TestUnit> {
  let report: (message: unknown) => void = () => undefined;
  const reported = new Promise<unknown>((resolve) => {
    report = resolve;
  });
  const options = preload === undefined ? [] : ["--preload", preload];
  const child = Bun.spawn(["bun", ...options, "workers/unit.ts", "--instance", instance, ...roles], {
    env: {
      PATH: `${process.env.PATH}`,
      SKEIN_REDIS_URL: url,
      SKEIN_PREFIX: prefix,
      SKEIN_PARTITIONS: String(partitions),
      SKEIN_DATA_DIR: dataDir,
      SKEIN_ACK_LEVEL: "memory",
      SKEIN_ALLOW_UNSAFE: "1",
      SKEIN_LOG_LEVEL: "error",
      ...env,
    },
    ipc: (message) => report(message),
    // Its log says that the test Redis keeps nothing, which is known; why a start failed comes by IPC.
    stdout: "ignore",
    stderr: "inherit",
  });
  const first = await Promise.race([reported, child.exited]);
  if ((first as { type?: string }).type !== "ready") {
    child.kill("SIGKILL");
    throw new Error(`the unit of ${roles} did not become ready: ${JSON.stringify(first)}`);
  }
  const end = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    return child.exited;
  };
  return {
    pid: child.pid,
    async kill() {
      await end("SIGKILL");
    },
    stop: () => end("SIGTERM"),
    async [Symbol.asyncDispose]() {
      await end("SIGKILL");
      rmSync(socketFolder(dataDir), { recursive: true, force: true });
    },
  };
}
