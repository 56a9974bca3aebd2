/**
 * A private Skein for tests, chaos and bench: a real supervisor with its own data dir, ports, secrets and Redis, as
 * `bun run workers` starts it once set-up is done, and nothing of the caller's settings. Gone with its folder after `stop()`.
 *
 *   const skein = await startSkein({ roles: ["gateway=2", "logic", "archive"], processes: true });
 *   await fetch(`${skein.urls[1]}/readyz`);
 *   process.kill(skein.pids().logic!, "SIGKILL");
 *   await skein.stop();
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { childEnvironment } from "../lib/config.ts";
import { readRun } from "../lib/data-dir.ts";

export interface SkeinOptions {
  /** As on the command line of `workers`, e.g. `gateway=2`. Default: every role. */
  readonly roles?: readonly string[];
  /** A process for each role. */
  readonly processes?: boolean;
  /** Settings (SKEIN_…) and other variables of its environment, over ours without our SKEIN_ ones. */
  readonly env?: Readonly<Record<string, string>>;
  /** Its data. Default: a new temporary folder, removed by `stop()`. A given one is kept. */
  readonly dataDir?: string;
  /** Keeps the temporary folder after `stop()`. */
  readonly keep?: boolean;
  /** Default READY_WITHIN_MS. */
  readonly readyWithinMs?: number;
}

export interface PrivateSkein extends AsyncDisposable {
  /** http://host:port of the first gateway, and of each in order. */
  readonly url: string;
  readonly urls: readonly string[];
  /** All scopes. */
  readonly serviceKey: string;
  readonly dataDir: string;
  readonly redisUrl: string;
  /** Of the supervisor. */
  readonly pid: number;
  /**
   * Unit -> pid at this moment: `redis`; `all` for the unit that roles share; a role's name where it has its own, further
   * instances as `gateway.2`. While a process is being restarted it is listed with its old pid.
   */
  pids(): Readonly<Record<string, number>>;
  /** Signals a unit or `redis`. Throws when there is none of that name. */
  kill(name: string, signal: NodeJS.Signals): void;
  /** Resolves when every gateway answers /readyz with 200. Rejects with what is red. */
  untilReady(withinMs?: number): Promise<void>;
  /** The end of what it printed, bounded. */
  output(): string;
  /** Resolves with the supervisor's exit code, whoever ended it. */
  readonly exited: Promise<number>;
  /** Soft stop, then hard; removes its folder. Safe to call twice. */
  stop(): Promise<void>;
}

/** A cold start takes some 1.5 s on two cores; many of them at once take their time. */
const READY_WITHIN_MS = 60_000;
/** The supervisor drains for 10 s at most. */
const STOP_WITHIN_MS = 20_000;
/** What is kept of its output: enough for the logs around a failure. */
const OUTPUT_CHARACTERS_MAX = 200_000;
const POLL_MS = 20;
const PROBE_TIMEOUT_MS = 3_000;

/** Starts it and waits until it is ready. Rejects with the end of its output when it exits or does not get ready in time. */
export async function startSkein(options: SkeinOptions = {}): Promise<PrivateSkein> {
  const { readyWithinMs = READY_WITHIN_MS } = options;
  const isTemporary = options.dataDir === undefined;
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), "skein-private-"));
  const child = spawnSupervisor(options, dataDir);
  const ended = { code: undefined as number | undefined };
  const exited = child.process.exited.then((code) => {
    ended.code = code;
    return code;
  });
  const stopOnExit = () => child.process.kill("SIGTERM");
  process.once("exit", stopOnExit);

  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= (async () => {
      child.process.kill("SIGTERM");
      const timer = setTimeout(() => child.process.kill("SIGKILL"), STOP_WITHIN_MS);
      await exited;
      clearTimeout(timer);
      process.off("exit", stopOnExit);
      if (isTemporary && !options.keep) rmSync(dataDir, { recursive: true, force: true });
    })();
    return stopping;
  };

  const ourRun = () => {
    const run = readRun(dataDir);
    return run?.pid === child.process.pid ? run : undefined;
  };
  const untilReady = async (withinMs = readyWithinMs) => {
    const deadline = performance.now() + withinMs;
    let reason = "it has not said where it listens";
    for (;;) {
      if (ended.code !== undefined) throw failure(`exited with code ${ended.code}`, child.output());
      const run = ourRun();
      if (run?.ready) {
        const red = await Promise.all(run.urls.map(probe));
        reason = red.filter((line) => line !== undefined).join("; ");
        if (reason === "") return;
      }
      if (performance.now() > deadline) throw failure(`was not ready within ${withinMs} ms: ${reason}`, child.output());
      await Bun.sleep(POLL_MS);
    }
  };

  try {
    await untilReady();
  } catch (error) {
    await stop();
    throw error;
  }
  const run = ourRun()!;
  return {
    url: run.url,
    urls: run.urls,
    serviceKey: readFileSync(join(dataDir, "secrets", "service-key"), "utf8"),
    dataDir,
    redisUrl: run.redisUrl,
    pid: run.pid,
    pids: () => ourRun()?.pids ?? {},
    kill(name, signal) {
      const pid = ourRun()?.pids[name];
      if (pid === undefined) throw new Error(`there is no process ${name}: ${Object.keys(ourRun()?.pids ?? {})}`);
      process.kill(pid, signal);
    },
    untilReady,
    output: child.output,
    exited,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

function spawnSupervisor({ roles = [], processes = false, env = {} }: SkeinOptions, dataDir: string) {
  const script = join(import.meta.dir, "supervisor.ts");
  const supervisor = Bun.spawn([process.execPath, script, ...roles, ...(processes ? ["--processes"] : [])], {
    cwd: join(import.meta.dir, ".."),
    env: childEnvironment({ SKEIN_DATA_DIR: dataDir, SKEIN_PORT: "0", SKEIN_LOG_LEVEL: "warn", ...env }, "none"),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    // Closes when this process is killed, and then the supervisor stops.
    ipc: () => undefined,
  });
  let text = "";
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      text = (text + decoder.decode(chunk, { stream: true })).slice(-OUTPUT_CHARACTERS_MAX);
    }
  };
  void collect(supervisor.stdout);
  void collect(supervisor.stderr);
  return { process: supervisor, output: () => text };
}

/** Undefined when green, else what is red. */
async function probe(url: string): Promise<string | undefined> {
  try {
    const response = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
    const text = await response.text();
    return response.ok ? undefined : `${url}/readyz: ${text}`;
  } catch (error) {
    return `${url}/readyz: ${(error as Error).message}`;
  }
}

function failure(what: string, output: string): Error {
  return new Error(`the private Skein ${what}\n${output.slice(-4_000)}`);
}
