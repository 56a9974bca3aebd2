/**
 * Skein's own Redis: a child process on a loopback port and a unix socket, with a generated password, its data in the data dir,
 * every write in the append-only file. Restarted at once when it dies.
 *
 *   supervisor ──pipe──► guard (sh, own session) ──► redis-server
 *
 * The guard keeps Redis out of the terminal's process group, so that Ctrl-C drains the workers first; and when the supervisor is
 * gone, however it went, the pipe ends and the guard stops Redis. Should both have been killed, the next start finds the
 * left-over on the socket and shuts it down before it starts its own: two servers never share the file.
 */

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { backoffMs } from "../clock.ts";
import type { AckLevel } from "../config.ts";
import { AppError } from "../errors.ts";
import { freePort } from "../free-port.ts";
import type { Log } from "../observability/index.ts";

/** `hz 10`, the default, makes delayed work up to 100 ms late (BLOCK time-outs are rounded to a tick); 100 costs 1 % of a core idle. */
const HZ = 100;
/** Loading the file takes some 1 s per GB; a server that is not up after this is reported with the end of its log. */
const READY_WITHIN_MS = 120_000;
const READY_LOOK_MS = 10;
/** A look that hangs is given up for the next one. */
const ANSWER_WITHIN_MS = 1_000;
/** What a busy chat asks of Redis beyond its defaults. The bench measures the commit under the same settings. */
export const TUNING: readonly (readonly [name: string, value: string])[] = [
  // A rewrite of the file forks and writes the whole data set, on a core that the workers could use. By default it begins at
  // 64 MB, a few seconds of load; 256 MB load in 0.3 s.
  ["auto-aof-rewrite-min-size", "256mb"],
  // Compressing chat takes most of a rewrite's time, and saves what the next second's appends take.
  ["rdbcompression", "no"],
  // Bytes of a stream's node. At the default of 4 096 a node holds some 13 messages, and every 13th append allocates one:
  // 10 % of the commits per second.
  ["stream-node-max-bytes", "16384"],
];
/** A left-over is asked to shut down and given this long to write its file. */
const SHUTDOWN_WITHIN_MS = 10_000;
/** A server that lasted this long is started again at once when it ends; one that did not, after a back-off. */
const LASTED_MS = 1_000;
const RESTART_BACKOFF = { firstMs: 10, maxMs: 2_000, jitter: 0 };
/** No start has lasted for so long: given up. Time enough to free a full disk, under which Redis ends at every write. */
const GIVE_UP_MS = 120_000;
/** Of the server, in its folder: by it the next start finds a left-over. */
const PID_FILE = "redis.pid";
/** The log is started anew when it has grown beyond this. */
const LOG_BYTES_MAX = 4 * 1024 * 1024;

/** Starts the server, prints its pid, and stops it when standard input ends. */
const GUARD = `exec 3<&0; "$@" <&- & p=$!; echo $p; (cat <&3 >/dev/null; kill -TERM $p 2>/dev/null) & w=$!; wait $p; c=$?; kill $w 2>/dev/null; exit $c`;

export interface EmbeddedRedisOptions {
  readonly dataDir: string;
  readonly socketDir: string;
  readonly password: string;
  readonly ackLevel: AckLevel;
  readonly log: Log;
  /** A new server process took over; its pid. */
  readonly onStart: (pid: number) => void;
  /** No start has lasted for `giveUpMs` (default GIVE_UP_MS); why. */
  readonly onGone: (error: AppError) => void;
  readonly giveUpMs?: number;
}

export interface EmbeddedRedis {
  /** For the units: by the unix socket. */
  readonly url: string;
  /** For people with redis-cli. */
  readonly port: number;
  pid(): number;
  /** Ends it after a last write of its file. */
  stop(): Promise<void>;
}

/** Starts and keeps it running. Throws AppError INVALID when there is no server to start or it does not come up. */
export async function startEmbeddedRedis(options: EmbeddedRedisOptions): Promise<EmbeddedRedis> {
  const { socketDir, password, log } = options;
  const folder = join(options.dataDir, "redis");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  mkdirSync(socketDir, { recursive: true, mode: 0o700 });
  const socket = join(socketDir, "redis.sock");
  const port = freePort();
  const logFile = join(folder, "redis.log");
  const configFile = join(folder, "redis.conf");
  writeConfig(configFile, { ...options, folder, socket, port, logFile });

  let guard: Guard | undefined;
  let isStopping = false;

  async function launch(): Promise<void> {
    await endLeftOver(folder, configFile, log);
    rotate(logFile);
    guard = await startGuard(findServer(), configFile);
    if (isStopping) guard.end();
    await whenReady(socket, password, guard, logFile);
    options.onStart(guard.pid);
  }

  async function keepRunning(): Promise<void> {
    const { giveUpMs = GIVE_UP_MS } = options;
    let startedMs = performance.now();
    let failingSinceMs = startedMs;
    for (let failures = 0; ; ) {
      await guard?.exited;
      if (isStopping) return;
      const nowMs = performance.now();
      if (nowMs - startedMs >= LASTED_MS) [failures, failingSinceMs] = [0, nowMs];
      if (nowMs - failingSinceMs > giveUpMs) {
        options.onGone(
          new AppError(
            "INTERNAL",
            `Redis ended ${failures} times in a row, the last time with:\n${lastLines(logFile)}`,
          ),
        );
        return;
      }
      log.warn({ failures }, "redis ended and is started again");
      if (failures > 0) await Bun.sleep(backoffMs(failures, RESTART_BACKOFF));
      failures += 1;
      if (isStopping) return;
      try {
        await launch();
      } catch (error) {
        if (!isStopping) log.error({ error }, "redis did not start");
      }
      startedMs = performance.now();
    }
  }

  await launch();
  const finished = keepRunning();
  return {
    url: `redis+unix://:${encodeURIComponent(password)}@localhost${socket}`,
    port,
    pid: () => guard!.pid,
    async stop() {
      isStopping = true;
      guard!.end();
      const timer = setTimeout(() => guard!.kill(), SHUTDOWN_WITHIN_MS);
      await finished;
      clearTimeout(timer);
      rmSync(socketDir, { recursive: true, force: true });
    },
  };
}

interface Guard {
  readonly pid: number;
  readonly exited: Promise<unknown>;
  /** Stops the server, its file written. */
  end(): void;
  /** For one that hangs. */
  kill(): void;
}

async function startGuard(server: string, config: string): Promise<Guard> {
  const child = Bun.spawn(["sh", "-c", GUARD, "skein-redis", server, config], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "ignore",
    detached: true,
  });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  const pid = Number.parseInt(new TextDecoder().decode(value), 10);
  const kill = () => {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      // It ended in this moment.
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  };
  return { pid, exited: child.exited, end: () => void child.stdin.end(), kill };
}

function findServer(): string {
  const found = Bun.which("redis-server") ?? Bun.which("valkey-server");
  if (found) return found;
  throw new AppError(
    "INVALID",
    "there is neither redis-server nor valkey-server on PATH; install one, or set SKEIN_REDIS_URL",
  );
}

function writeConfig(
  path: string,
  {
    folder,
    socket,
    port,
    logFile,
    password,
    ackLevel,
  }: EmbeddedRedisOptions & { folder: string; socket: string; port: number; logFile: string },
): void {
  const settings = [
    ["bind", "127.0.0.1"],
    ["port", port],
    ["unixsocket", socket],
    ["unixsocketperm", 700],
    ["requirepass", password],
    ["dir", folder],
    ["logfile", logFile],
    ["appendonly", "yes"],
    ["appendfsync", ackLevel === "memory" ? "everysec" : "always"],
    ["no-appendfsync-on-rewrite", "no"],
    ["aof-use-rdb-preamble", "yes"],
    ...TUNING,
    ["save", ""],
    ["maxmemory-policy", "noeviction"],
    ["hz", HZ],
    ["enable-debug-command", "local"],
    ["pidfile", join(folder, PID_FILE)],
    ["proc-title-template", "{title} {listen-addr} {config-file}"],
  ];
  writeFileSync(path, settings.map(([name, value]) => `${name} ${quote(value!)}`).join("\n"), { mode: 0o600 });
}

/** As redis.conf reads a value: a path may hold spaces and quotes. */
function quote(value: string | number): string {
  return `"${String(value).replace(/["\\]/g, "\\$&")}"`;
}

/** A Redis of ours that outlived its supervisor and guard: shut down, its file written; killed when it does not react. */
async function endLeftOver(folder: string, configFile: string, log: Log): Promise<void> {
  const pid = leftOver(join(folder, PID_FILE), configFile);
  if (pid === undefined) return;
  log.warn({ leftOver: pid }, "a redis of an earlier start is still running and is shut down");
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    process.kill(pid, signal);
    const deadline = performance.now() + SHUTDOWN_WITHIN_MS;
    while (performance.now() < deadline) {
      if (leftOver(join(folder, PID_FILE), configFile) === undefined) return;
      await Bun.sleep(READY_LOOK_MS);
    }
  }
  throw new AppError("CONFLICT", `a redis of an earlier start (pid ${pid}) runs on this data dir and does not end`);
}

/** The pid in the file, when that process is our server: pids are used again, titles with our path are not. */
function leftOver(pidFile: string, configFile: string): number | undefined {
  if (!existsSync(pidFile)) return undefined;
  const pid = Number.parseInt(readFileSync(pidFile, "utf8"), 10);
  return Number.isInteger(pid) && commandOf(pid).includes(configFile) ? pid : undefined;
}

function commandOf(pid: number): string {
  if (process.platform !== "linux") return Bun.spawnSync(["ps", "-o", "command=", "-p", String(pid)]).stdout.toString();
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch (error) {
    // Gone since, or never there.
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return "";
    throw error;
  }
}

async function answers(socket: string, password: string): Promise<boolean> {
  const client = new Redis({
    path: socket,
    password,
    lazyConnect: true,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    connectTimeout: ANSWER_WITHIN_MS,
    commandTimeout: ANSWER_WITHIN_MS,
    enableReadyCheck: false,
  });
  client.on("error", () => undefined);
  try {
    await client.connect();
    return (await client.ping()) === "PONG";
  } catch {
    return false;
  } finally {
    client.disconnect();
  }
}

async function whenReady(socket: string, password: string, guard: Guard, logFile: string): Promise<void> {
  let hasExited = false;
  void guard.exited.then(() => {
    hasExited = true;
  });
  const deadline = performance.now() + READY_WITHIN_MS;
  while (!(await answers(socket, password))) {
    if (hasExited || performance.now() > deadline) {
      if (!hasExited) guard.kill();
      throw new AppError("INVALID", `Redis did not come up:\n${lastLines(logFile)}`);
    }
    await Bun.sleep(READY_LOOK_MS);
  }
}

function rotate(logFile: string): void {
  closeSync(openSync(logFile, "a", 0o600));
  if (statSync(logFile).size > LOG_BYTES_MAX) truncateSync(logFile);
}

function lastLines(logFile: string): string {
  return readFileSync(logFile, "utf8").trimEnd().split("\n").slice(-5).join("\n");
}
