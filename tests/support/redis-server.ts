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

export async function startTestRedis(options: TestRedisOptions = {}): Promise<TestRedis> {
  const directory = mkdtempSync(join(tmpdir(), "skein-test-redis-"));
  const port = freePort();
  const binary = Bun.which("redis-server") ?? Bun.which("valkey-server");
  if (!binary) throw new Error("redis-server is not installed: run `bun run test`, which sets it up");
  const persistence = options.appendfsync
    ? ["--appendonly", "yes", "--appendfsync", options.appendfsync]
    : ["--appendonly", "no"];
  const command = [
    ...[binary, "--port", String(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--hz", "100"],
    ...["--maxmemory-policy", "noeviction", "--enable-debug-command", "local", ...persistence, ...(options.args ?? [])],
  ];
  const spawn = () => Bun.spawn(command, { stdout: "ignore", stderr: "ignore", stdin: "ignore" });
  let child = spawn();
  await answers(port);
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    directory,
    pid: () => child.pid,
    kill: (signal) => child.kill(signal),
    async restart() {
      await child.exited;
      child = spawn();
      await answers(port);
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

async function answers(port: number): Promise<void> {
  const client = new Redis(port, "127.0.0.1", { retryStrategy: () => 20, maxRetriesPerRequest: null });
  client.on("error", () => undefined);
  await client.ping();
  client.disconnect();
}
