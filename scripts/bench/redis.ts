/** A private redis-server of a bench: loopback, a temporary folder, the fsync policy under measurement. Gone with the process. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "../../lib/free-port.ts";
import type { RedisClient } from "../../lib/redis/index.ts";

export type Fsync = "everysec" | "always";

export interface BenchRedis {
  readonly port: number;
  readonly url: string;
  readonly pid: number;
  readonly client: Redis;
  stop(): Promise<void>;
}

const START_MS = 5_000;

export interface BenchRedisOptions {
  /** Settings over the server's defaults. */
  readonly settings?: readonly (readonly [name: string, value: string])[];
}

/** Starts redis-server (or valkey-server) with AOF. Throws when neither is installed or it does not answer in time. */
export async function startBenchRedis(fsync: Fsync, { settings = [] }: BenchRedisOptions = {}): Promise<BenchRedis> {
  const binary = Bun.which("redis-server") ?? Bun.which("valkey-server");
  if (!binary) throw new Error("redis-server is not installed");
  const folder = mkdtempSync(join(tmpdir(), "skein-bench-redis-"));
  const port = freePort();
  const child = Bun.spawn(
    [
      ...[binary, "--port", String(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--hz", "100"],
      ...["--appendonly", "yes", "--appendfsync", fsync, "--maxmemory-policy", "noeviction"],
      ...settings.flatMap(([name, value]) => [`--${name}`, value]),
    ],
    { stdin: "ignore", stdout: "ignore", stderr: "inherit" },
  );
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  const client = new Redis(port, "127.0.0.1", { retryStrategy: () => 20, maxRetriesPerRequest: null });
  client.on("error", () => undefined);
  const answered = await Promise.race([client.ping(), Bun.sleep(START_MS)]);
  if (answered !== "PONG") throw new Error(`redis-server did not answer within ${START_MS} ms`);
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    pid: child.pid,
    client,
    async stop() {
      client.disconnect();
      process.off("exit", kill);
      kill();
      await child.exited;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A number out of a section of INFO. */
export async function infoNumber(client: RedisClient, section: string, field: string): Promise<number> {
  const found = new RegExp(`^${field}:(\\d+)`, "m").exec(await client.info(section));
  return found ? Number(found[1]) : Number.NaN;
}

export interface CommandUse {
  readonly name: string;
  readonly calls: number;
  /** In the command itself; what a script calls is counted with the script and again by its own name. */
  readonly micros: number;
}

/** What Redis executed since its statistics were reset, the dearest first. */
export async function commandUses(client: RedisClient): Promise<CommandUse[]> {
  const lines = (await client.info("commandstats")).matchAll(/^cmdstat_([^:]+):calls=(\d+),usec=(\d+)/gm);
  return Array.from(lines, ([, name, calls, micros]) => ({
    name: name!,
    calls: Number(calls),
    micros: Number(micros),
  })).sort((a, b) => b.micros - a.micros);
}
