/** A throw-away redis-server in a temporary folder, for the preload and for tests that kill, pause or restart theirs. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "../../lib/free-port.ts";

export interface TestRedis {
  readonly url: string;
  readonly port: number;
  readonly directory: string;
  /** The process; a new one after restart(). */
  pid(): number;
  kill(signal: NodeJS.Signals): void;
  /** Starts it again on the same port and data after a kill. */
  restart(): Promise<void>;
  keysOutside(prefix: string): Promise<string[]>;
  stop(): Promise<void>;
}

export interface TestRedisOptions {
  /** `always` for tests of durability. Default: off. */
  readonly appendfsync?: "always" | "everysec";
  /** Further command-line arguments, e.g. cluster-enabled. */
  readonly args?: readonly string[];
}

/** Ports that may be taken, one after the other. */
const TRIES_MAX = 5;

export async function startTestRedis(options: TestRedisOptions = {}): Promise<TestRedis> {
  const directory = mkdtempSync(join(tmpdir(), "skein-test-redis-"));
  const binary = Bun.which("redis-server") ?? Bun.which("valkey-server");
  if (!binary) throw new Error("redis-server is not installed: run `bun run test`, which sets it up");
  const persistence = options.appendfsync
    ? ["--appendonly", "yes", "--appendfsync", options.appendfsync]
    : ["--appendonly", "no"];
  const settings = [
    ...["--bind", "127.0.0.1", "--dir", directory, "--save", "", "--hz", "100", "--maxmemory-policy", "noeviction"],
    ...["--enable-debug-command", "local", ...persistence, ...(options.args ?? [])],
  ];
  let port = freePort();
  const spawn = () =>
    Bun.spawn([binary, "--port", String(port), ...settings], { stdout: "ignore", stderr: "ignore", stdin: "ignore" });
  let child = spawn();
  // Its port, or that of a cluster's bus above it, may have been taken meanwhile: it has ended then, and who answers is not ours.
  for (let tries = 1; (await answers(port, child)) !== "ours"; tries++) {
    if (tries === TRIES_MAX) throw new Error(`redis-server does not start: ${settings.join(" ")}`);
    child.kill("SIGKILL");
    port = freePort();
    child = spawn();
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    directory,
    pid: () => child.pid,
    kill: (signal) => child.kill(signal),
    async restart() {
      await child.exited;
      child = spawn();
      if ((await answers(port, child)) !== "ours")
        throw new Error(`the port ${port} was taken while redis-server was away`);
    },
    async keysOutside(prefix) {
      const client = new Redis(port, "127.0.0.1");
      const found = await client.keys("*");
      client.disconnect();
      return found.filter((key) => !key.startsWith(prefix));
    },
    async stop() {
      child.kill("SIGCONT");
      child.kill("SIGKILL");
      await child.exited;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Whose the server is that answers there, once one does or ours has ended. */
async function answers(port: number, ours: Bun.Subprocess): Promise<"ours" | "another's" | "nobody's"> {
  // One that loads its file estimates that this takes long, and is asked again after 10 s.
  const patience = { maxLoadingRetryTime: 50, maxRetriesPerRequest: null };
  const client = new Redis(port, "127.0.0.1", { retryStrategy: () => 20, ...patience });
  client.on("error", () => undefined);
  const info = client.info("server").catch(() => "");
  const first = await Promise.race([info, ours.exited]);
  client.disconnect();
  if (typeof first === "number") return "nobody's";
  return Number(/^process_id:(\d+)/m.exec(first)?.[1]) === ours.pid ? "ours" : "another's";
}
