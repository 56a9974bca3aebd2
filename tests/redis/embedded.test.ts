import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { silentLog } from "../../lib/observability/index.ts";
import { type EmbeddedRedis, type EmbeddedRedisOptions, startEmbeddedRedis } from "../../lib/redis/embedded.ts";
import { checkRedis, openRedis, type RedisConnections } from "../../lib/redis/index.ts";
import { eventually } from "../support/eventually.ts";
import { childrenOf, isAlive, parentOf, sessionOf } from "../support/processes.ts";

const PASSWORD = "of-a-test";

/** A data dir and the folder of its socket, removed at the end with whatever runs there. */
function makeHome() {
  const dataDir = mkdtempSync(join(tmpdir(), "skein-test-embedded-"));
  const socketDir = mkdtempSync(join(tmpdir(), "skein-test-socket-"));
  const servers: EmbeddedRedis[] = [];
  return {
    dataDir,
    socketDir,
    async start(options: Partial<EmbeddedRedisOptions> = {}): Promise<EmbeddedRedis> {
      const redis = await startEmbeddedRedis({
        dataDir,
        socketDir,
        password: PASSWORD,
        ackLevel: "disk",
        log: silentLog,
        onStart: () => undefined,
        onGone: () => undefined,
        ...options,
      });
      servers.push(redis);
      return redis;
    },
    async [Symbol.asyncDispose]() {
      for (const server of servers) await server.stop();
      rmSync(dataDir, { recursive: true, force: true });
      rmSync(socketDir, { recursive: true, force: true });
    },
  };
}

async function using<T>(redis: EmbeddedRedis, work: (connections: RedisConnections) => Promise<T>): Promise<T> {
  const connections = await openRedis(redis.url, "t-embedded", silentLog);
  try {
    return await work(connections);
  } finally {
    await connections.close();
  }
}
const set = (redis: EmbeddedRedis, value: string) => using(redis, ({ commands }) => commands.set("t-key", value));
const get = (redis: EmbeddedRedis) => using(redis, ({ commands }) => commands.get("t-key"));

/** Starts the owner as a process of its own and resolves with both pids. */
async function spawnOwner({ dataDir, socketDir }: { dataDir: string; socketDir: string }) {
  const script = join(import.meta.dir, "embedded-process.ts");
  const owner = Bun.spawn([process.execPath, script, dataDir, socketDir], { stdout: "pipe", stderr: "inherit" });
  const { value } = await owner.stdout.getReader().read();
  return { owner, redisPid: Number(new TextDecoder().decode(value)) };
}

/** Kills the owner and everything that would end its Redis, so that Redis alone is left. */
async function killWithGuard(owner: Bun.Subprocess, redisPid: number): Promise<void> {
  const guard = parentOf(redisPid);
  const others = [owner.pid, guard, ...childrenOf(guard).flatMap((pid) => [pid, ...childrenOf(pid)])];
  // Who dies last would do his work on the death of the others: the owner, too, ends a Redis whose guard is gone.
  for (const signal of ["SIGSTOP", "SIGKILL"] as const) {
    for (const pid of others) if (pid !== redisPid) process.kill(pid, signal);
  }
  await owner.exited;
}

test("data survives a restart", async () => {
  await using home = makeHome();
  const first = await home.start();
  await set(first, "kept");
  await first.stop();
  expect(isAlive(first.pid())).toBe(false);
  expect(await get(await home.start())).toBe("kept");
});

test("it keeps every promise of its level, by its own boot checks", async () => {
  await using home = makeHome();
  const disk = await home.start();
  const level = (ackLevel: "disk" | "memory") => ({ ackLevel, redisUrl: disk.url, allowUnsafe: false });
  const findings = await using(disk, (connections) => checkRedis(connections, level("disk")));
  // Whose reading takes seconds on a busy machine sees two clocks.
  expect(findings.filter(({ ok, name }) => !ok && name !== "clock")).toEqual([]);
  expect(findings.find(({ name }) => name === "appendfsync")?.found).toBe("always");
  await disk.stop();
  const memory = await home.start({ ackLevel: "memory" });
  const weaker = await using(memory, (connections) => checkRedis(connections, level("memory")));
  expect(weaker.find(({ name }) => name === "appendfsync")).toMatchObject({ ok: true, found: "everysec" });
});

test("only its user gets in: loopback, a password, private files", async () => {
  await using home = makeHome();
  const redis = await home.start();
  const bind = await using(redis, ({ commands }) => commands.config("GET", "bind"));
  expect(bind).toEqual(["bind", "127.0.0.1"]);
  const stranger = new Redis(redis.port, "127.0.0.1", { retryStrategy: () => null, maxRetriesPerRequest: 0 });
  stranger.on("error", () => undefined);
  expect(stranger.get("t-key")).rejects.toThrow("NOAUTH");
  stranger.disconnect();
  expect(statSync(home.socketDir).mode & 0o077).toBe(0);
  expect(statSync(join(home.socketDir, "redis.sock")).mode & 0o077).toBe(0);
  expect(statSync(join(home.dataDir, "redis")).mode & 0o077).toBe(0);
  expect(readFileSync(`/proc/${redis.pid()}/cmdline`, "latin1")).not.toContain(PASSWORD);
});

test("it runs in a session of its own, out of the terminal's reach", async () => {
  await using home = makeHome();
  const redis = await home.start();
  expect(sessionOf(redis.pid())).not.toBe(sessionOf(process.pid));
});

test("killed with -9 it is back at once: same port, same socket, nothing acknowledged is lost", async () => {
  await using home = makeHome();
  const pids: number[] = [];
  const redis = await home.start({ onStart: (pid) => pids.push(pid) });
  await using(redis, async ({ commands }) => {
    for (let round = 1; round <= 3; round++) {
      await commands.set("t-key", `round ${round}`);
      const struckMs = performance.now();
      process.kill(redis.pid(), "SIGKILL");
      // The same connections find it again.
      await eventually(async () => expect(await commands.get("t-key")).toBe(`round ${round}`));
      expect(performance.now() - struckMs).toBeLessThan(10_000);
      // Its owner may come to see it later than we do.
      await eventually(() => expect(pids).toHaveLength(round + 1));
    }
  });
  expect(new Set(pids).size).toBe(4);
  expect(pids.at(-1)).toBe(redis.pid());
});

test("it ends with its owner, however that went", async () => {
  await using home = makeHome();
  const { owner, redisPid } = await spawnOwner(home);
  expect(isAlive(redisPid)).toBe(true);
  owner.kill("SIGKILL");
  await eventually(() => expect(isAlive(redisPid)).toBe(false));
});

test("a left-over whose guard was killed, too, is shut down by the next start, with its data", async () => {
  await using home = makeHome();
  const { owner, redisPid } = await spawnOwner(home);
  await set({ url: `redis+unix://:${PASSWORD}@localhost${home.socketDir}/redis.sock` } as EmbeddedRedis, "left over");
  await killWithGuard(owner, redisPid);
  expect(isAlive(redisPid)).toBe(true);
  const redis = await home.start();
  expect(isAlive(redisPid)).toBe(false);
  expect(await get(redis)).toBe("left over");
});

test("a left-over that does not answer is killed by the next start", async () => {
  await using home = makeHome();
  const { owner, redisPid } = await spawnOwner(home);
  process.kill(redisPid, "SIGSTOP");
  await killWithGuard(owner, redisPid);
  const redis = await home.start();
  expect(isAlive(redisPid)).toBe(false);
  expect(await get(redis)).toBe(null);
});

test("a server that cannot come up is given up after a bound, with the end of its log", async () => {
  await using home = makeHome();
  const gone = Promise.withResolvers<Error>();
  const redis = await home.start({ onGone: gone.resolve, giveUpMs: 1_000 });
  await set(redis, "kept");
  const manifest = join(home.dataDir, "redis", "appendonlydir", "appendonly.aof.manifest");
  writeFileSync(manifest, "not a manifest\n");
  process.kill(redis.pid(), "SIGKILL");
  expect((await gone.promise).message).toContain("manifest");
});

test("its log is a file of bounded size", async () => {
  await using home = makeHome();
  const first = await home.start();
  await first.stop();
  const log = join(home.dataDir, "redis", "redis.log");
  writeFileSync(log, "x".repeat(5 * 1024 * 1024));
  await home.start();
  expect(statSync(log).size).toBeLessThan(1024 * 1024);
  expect(readFileSync(log, "utf8")).toContain("Ready to accept connections");
});
