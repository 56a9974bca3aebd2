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

import { closeSync, mkdirSync, openSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { backoffMs } from "../clock.ts";
import type { AckLevel } from "../config.ts";
import { AppError } from "../errors.ts";
import type { Log } from "../observability/index.ts";

/** `hz 10`, the default, makes delayed work up to 100 ms late (BLOCK time-outs are rounded to a tick); 100 costs 1 % of a core idle. */
const HZ = 100;
/** Loading the file takes some 1 s per GB; a server that is not up after this is reported with the end of its log. */
const READY_WITHIN_MS = 120_000;
const READY_LOOK_MS = 10;
/** A left-over is asked to shut down and given this long to write its file. */
const SHUTDOWN_WITHIN_MS = 10_000;
/** Starts in a row that did not last RESTART_RESET_MS before the supervisor is told to give up. */
const RESTARTS_MAX = 10;
const RESTART_RESET_MS = 10_000;
const RESTART_BACKOFF = { firstMs: 10, maxMs: 2_000, jitter: 0 };
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
  /** It died too often; why. */
  readonly onGone: (error: AppError) => void;
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
  writeConfig(join(folder, "redis.conf"), { ...options, folder, socket, port, logFile });

  let guard: Guard | undefined;
  let isStopping = false;

  async function launch(): Promise<void> {
    await shutDownLeftOver(socket, password, log);
    rotate(logFile);
    guard = await startGuard(findServer(), join(folder, "redis.conf"));
    await whenReady(socket, password, guard, logFile);
    options.onStart(guard.pid);
  }

  async function keepRunning(): Promise<void> {
    for (let failures = 0; !isStopping; ) {
      const startedMs = performance.now();
      await guard?.exited;
      if (isStopping) return;
      failures = performance.now() - startedMs > RESTART_RESET_MS ? 1 : failures + 1;
      if (failures > RESTARTS_MAX) {
        options.onGone(new AppError("INTERNAL", `Redis ended ${RESTARTS_MAX} times in a row:\n${lastLines(logFile)}`));
        return;
      }
      log.warn({ failures }, "redis ended and is started again");
      await Bun.sleep(backoffMs(failures, RESTART_BACKOFF));
      try {
        await launch();
      } catch (error) {
        log.error({ error }, "redis did not start");
      }
    }
  }

  await launch();
  void keepRunning();
  return {
    url: `redis+unix://:${encodeURIComponent(password)}@localhost${socket}`,
    port,
    pid: () => guard!.pid,
    async stop() {
      isStopping = true;
      guard!.end();
      await Promise.race([guard!.exited, Bun.sleep(SHUTDOWN_WITHIN_MS)]);
      rmSync(socketDir, { recursive: true, force: true });
    },
  };
}

interface Guard {
  readonly pid: number;
  readonly exited: Promise<unknown>;
  end(): void;
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
  return { pid, exited: child.exited, end: () => void child.stdin.end() };
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
    ["save", '""'],
    ["maxmemory-policy", "noeviction"],
    ["hz", HZ],
    ["enable-debug-command", "local"],
    ["set-proc-title", "yes"],
  ];
  writeFileSync(path, settings.map((setting) => setting.join(" ")).join("\n"), { mode: 0o600 });
}

/** A Redis of ours that outlived its supervisor and guard: shut down, its file written. */
async function shutDownLeftOver(socket: string, password: string, log: Log): Promise<void> {
  const client = new Redis({
    path: socket,
    password,
    lazyConnect: true,
    retryStrategy: () => null,
    connectTimeout: 2_000,
    enableReadyCheck: false,
  });
  client.on("error", () => undefined);
  try {
    await client.connect();
  } catch {
    // Nobody listens: the usual case.
    client.disconnect();
    return;
  }
  log.warn({}, "a redis of an earlier start is still running and is shut down");
  await client.shutdown("NOSAVE").catch(() => undefined);
  client.disconnect();
  const deadline = performance.now() + SHUTDOWN_WITHIN_MS;
  while (await answers(socket, password)) {
    if (performance.now() > deadline)
      throw new AppError("CONFLICT", "a redis of an earlier start runs on this data dir and does not end");
    await Bun.sleep(READY_LOOK_MS);
  }
}

async function answers(socket: string, password: string): Promise<boolean> {
  const client = new Redis({
    path: socket,
    password,
    lazyConnect: true,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
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
    if (hasExited || performance.now() > deadline)
      throw new AppError("INVALID", `Redis did not come up:\n${lastLines(logFile)}`);
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

/** A port that was free a moment ago. */
function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = listener;
  listener.stop(true);
  return port;
}
