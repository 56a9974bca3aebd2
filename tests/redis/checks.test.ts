/** Boot checks and readiness against real servers: what cannot keep a promise is refused with its remedy, at start and later. */

import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AckLevel, readConfig } from "../../lib/config.ts";
import { AppError } from "../../lib/errors.ts";
import { readiness, silentLog } from "../../lib/observability/index.ts";
import {
  ackLevelInForce,
  assertRedisIsSafe,
  checkRedis,
  claimInstallation,
  createKeys,
  createRedisCheck,
  type Finding,
  openRedis,
  type RedisConnections,
} from "../../lib/redis/index.ts";
import { openUnitContext } from "../../workers/context.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore } from "../support/redis.ts";
import { startTestCluster } from "../support/redis-cluster.ts";
import { startTestRedis, type TestRedis } from "../support/redis-server.ts";

/** What a server must have set to be fit for `disk`. */
const SAFE = {
  "maxmemory-policy": "noeviction",
  appendonly: "yes",
  appendfsync: "always",
  "no-appendfsync-on-rewrite": "no",
  "aof-use-rdb-preamble": "yes",
} as const;
type Setting = keyof typeof SAFE;

let server: TestRedis;
let redis: RedisConnections;

beforeAll(async () => {
  server = await startTestRedis({ appendfsync: "always" });
  redis = await openRedis(server.url, "t-checks", silentLog);
});
afterEach(async () => {
  for (const [name, value] of Object.entries(SAFE)) await redis.commands.config("SET", name, value);
});
afterAll(async () => {
  await redis.close();
  await server.stop();
});

/** Not the clocks: they are one, but a reading that takes seconds makes two of it. */
const faultsOf = (findings: readonly Finding[]) => findings.filter(({ ok, name }) => !ok && name !== "clock");

const configOf = (ackLevel: AckLevel = "disk", allowUnsafe = false, redisUrl = server.url) => ({
  ackLevel,
  allowUnsafe,
  redisUrl,
});

test("a server with the right settings is fit, and says at which level", async () => {
  const findings = await assertRedisIsSafe(redis, configOf());
  expect(faultsOf(findings)).toEqual([]);
  expect(await ackLevelInForce(redis, configOf())).toBe("disk");
});

test.each([
  ["maxmemory-policy", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction"],
  ["appendonly", "no", "CONFIG SET appendonly yes"],
  ["appendfsync", "everysec", "CONFIG SET appendfsync always"],
  ["appendfsync", "no", "CONFIG SET appendfsync always"],
  ["no-appendfsync-on-rewrite", "yes", "CONFIG SET no-appendfsync-on-rewrite no"],
  ["aof-use-rdb-preamble", "no", "CONFIG SET aof-use-rdb-preamble yes"],
] as [Setting, string, string][])("%s %s is refused at level disk, with its remedy", async (name, value, remedy) => {
  await redis.commands.config("SET", name, value);
  const error = await refusal(configOf());
  expect(error.code).toBe("INVALID");
  expect(error.message).toContain(`${name}: ${value}. ${remedy}`);
});

test("all faults are named at once, and the operator may start anyway", async () => {
  await redis.commands.config("SET", "appendonly", "no");
  await redis.commands.config("SET", "maxmemory-policy", "volatile-ttl");
  const { message } = await refusal(configOf());
  expect(message).toContain("SKEIN_ALLOW_UNSAFE=1");
  expect(message).toContain("appendonly: no");
  expect(message).toContain("maxmemory-policy: volatile-ttl");
  const findings = await assertRedisIsSafe(redis, configOf("disk", true));
  expect(faultsOf(findings).map(({ name }) => name)).toEqual(["maxmemory-policy", "appendonly"]);
});

test.each([
  ["everysec", "yes", "memory"],
  ["always", "yes", "disk"],
  ["always", "no", "none"],
])("with appendfsync %s and appendonly %s the level in force is %s, whatever was asked", async (fsync, aof, level) => {
  await redis.commands.config("SET", "appendfsync", fsync);
  await redis.commands.config("SET", "appendonly", aof);
  await checkRedis(redis, configOf());
  expect(await ackLevelInForce(redis, configOf("disk", true))).toBe(level as AckLevel);
});

test("level memory is content with everysec, and does not claim more than was asked for", async () => {
  await redis.commands.config("SET", "appendfsync", "everysec");
  await assertRedisIsSafe(redis, configOf("memory"));
  await redis.commands.config("SET", "appendfsync", "always");
  await assertRedisIsSafe(redis, configOf("memory"));
  expect(await ackLevelInForce(redis, configOf("memory"))).toBe("memory");
});

test("level replicated:1 waits for its replica, and is in force once it has caught up", async () => {
  const config = configOf("replicated:1");
  const error = await refusal(config);
  expect(error.message).toContain("replicas: 0");
  expect(error.retryable).toBe(true);
  expect(await ackLevelInForce(redis, config)).toBe("disk");
  await redis.commands.config("SET", "repl-diskless-sync-delay", "0");
  const replica = await startTestRedis({ args: ["--replicaof", "127.0.0.1", String(server.port)] });
  try {
    await eventually(() => assertRedisIsSafe(redis, config));
    expect(await ackLevelInForce(redis, config)).toBe("replicated:1");
  } finally {
    await replica.stop();
  }
});

test("where CONFIG is forbidden, what cannot be verified is a warning and promises nothing", async () => {
  await redis.commands.acl("SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config");
  const url = server.url.replace("redis://", "redis://app:secret@");
  const limited = await openRedis(url, "t-checks-limited", silentLog);
  try {
    const config = configOf("disk", false, url);
    const findings = await assertRedisIsSafe(limited, config);
    const unverified = faultsOf(findings);
    expect(unverified.map(({ name }) => name)).toEqual([
      "appendfsync",
      "no-appendfsync-on-rewrite",
      "aof-use-rdb-preamble",
    ]);
    for (const { severity, found } of unverified) {
      expect(severity).toBe("warn");
      expect(found).toContain("cannot be verified");
    }
    expect(await ackLevelInForce(limited, config)).toBe("memory");
  } finally {
    await limited.close();
  }
});

test("an open bind without a password is a warning", async () => {
  // "-": Redis goes on without an address that this machine does not have.
  const open = await startTestRedis({ appendfsync: "always", args: ["--bind", "127.0.0.1", "-203.0.113.9"] });
  const connections = await openRedis(open.url, "t-checks-open", silentLog);
  try {
    const findings = await assertRedisIsSafe(connections, configOf("disk", false, open.url));
    expect(faultsOf(findings)).toMatchObject([{ name: "access", severity: "warn" }]);
  } finally {
    await connections.close();
    await open.stop();
  }
});

test("a server older than 7.0 is refused", async () => {
  await using old = pretendVersion(server.port, "6.2.15");
  const connections = await openRedis(old.url, "t-checks-old", silentLog);
  try {
    expect((await refusal(configOf(), connections)).message).toContain("version: 6.2.15. Use Redis or Valkey 7.0");
  } finally {
    await connections.close();
  }
});

test("on a Cluster every master is judged, and a fault names its node", async () => {
  await using cluster = await startTestCluster();
  const connections = await openRedis(cluster.url, "t-checks-cluster", silentLog);
  try {
    const { message } = await refusal(configOf("memory", false, cluster.url), connections);
    for (const { port } of cluster.servers) expect(message).toContain(`no on 127.0.0.1:${port}`);
  } finally {
    await connections.close();
  }
});

test("readiness turns red when a setting is changed while running, and green again", async () => {
  const check = createRedisCheck(redis, configOf(), 0);
  // Red for another reason is a check that took more than 2 s, as on a busy machine.
  const becomes = (state: object) => eventually(async () => expect(await readiness([check])).toMatchObject(state));
  await becomes({ ready: true, checks: { redis: { facts: { ackLevel: "disk", topology: "single" } } } });
  await redis.commands.config("SET", "appendfsync", "everysec");
  await becomes({ ready: false, checks: { redis: { reason: "appendfsync: everysec" } } });
  await redis.commands.config("SET", "appendfsync", "always");
  await becomes({ ready: true });
});

test("readiness asked a hundred times reads the settings once", async () => {
  await checkRedis(redis, configOf());
  const check = createRedisCheck(redis, configOf());
  const before = await infoCalls();
  await Promise.all(Array.from({ length: 100 }, () => readiness([check])));
  // infoCalls itself is one.
  expect((await infoCalls()) - before).toBe(1);
});

test("readiness is red at once while Redis is away, and green when it is back", async () => {
  const own = await startTestRedis({ appendfsync: "always" });
  const connections = await openRedis(own.url, "t-checks-away", silentLog);
  try {
    const check = createRedisCheck(connections, configOf("disk", false, own.url));
    await eventually(async () => expect((await readiness([check])).ready).toBe(true));
    own.kill("SIGKILL");
    await eventually(async () => expect((await readiness([check])).ready).toBe(false));
    await own.restart();
    await eventually(async () => expect((await readiness([check])).ready).toBe(true));
  } finally {
    await connections.close();
    await own.stop();
  }
});

test("the number of partitions is fixed by the first start; another is refused with both numbers", async () => {
  await using store = await openTestStore("installation", { partitions: 4 });
  expect(await claimInstallation(store.redis, store.keys, 1_000)).toBe(true);
  expect(await claimInstallation(store.redis, store.keys, 2_000)).toBe(false);
  expect(await store.redis.commands.hgetall(store.keys.installation())).toEqual({ partitions: "4", created: "1000" });
  const other = createKeys(store.prefix, 8);
  await expect(claimInstallation(store.redis, other, 3_000)).rejects.toThrow(
    "SKEIN_PARTITIONS is 8, and this installation was made with 4",
  );
});

test("a unit does not start on a server that cannot keep the promises, nor with other partitions", async () => {
  await using store = await openTestStore("unit");
  const directory = mkdtempSync(join(tmpdir(), "skein-test-unit-"));
  const open = (more: Record<string, string>) => {
    const env = { SKEIN_REDIS_URL: store.url, SKEIN_PREFIX: store.prefix, SKEIN_DATA_DIR: directory };
    return openUnitContext(readConfig({ ...env, SKEIN_LOG_LEVEL: "error", ...more }), "t.unit");
  };
  try {
    await expect(open({})).rejects.toThrow("appendonly: no");
    const allowed = { SKEIN_ALLOW_UNSAFE: "1", SKEIN_LOG_LEVEL: "error" };
    const unit = await open({ ...allowed, SKEIN_PARTITIONS: "4" });
    await unit.close();
    await expect(open({ ...allowed, SKEIN_PARTITIONS: "8" })).rejects.toThrow("made with 4");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

async function refusal(config: ReturnType<typeof configOf>, connections = redis): Promise<AppError> {
  const error: unknown = await assertRedisIsSafe(connections, config).then(
    () => new Error("it was not refused"),
    (reason: unknown) => reason,
  );
  if (error instanceof AppError) return error;
  throw error;
}

async function infoCalls(): Promise<number> {
  const stats = await redis.commands.info("commandstats");
  return Number(/cmdstat_info:calls=(\d+)/.exec(stats)?.[1] ?? 0);
}

/** A door to the server on `port` behind which its version reads `version`, which must be as long as the real one. */
function pretendVersion(port: number, version: string): AsyncDisposable & { readonly url: string } {
  const pairs = new Map<Bun.Socket, Promise<Bun.Socket>>();
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(client) {
        const upstream = Bun.connect({
          hostname: "127.0.0.1",
          port,
          socket: {
            data(_, chunk) {
              const text = chunk.toString("latin1").replace(/redis_version:[\d.]+/, `redis_version:${version}`);
              client.write(Buffer.from(text, "latin1"));
            },
          },
        });
        pairs.set(client, upstream);
      },
      async data(client, chunk) {
        const copy = Buffer.from(chunk);
        (await pairs.get(client))?.write(copy);
      },
    },
  });
  return {
    url: `redis://127.0.0.1:${listener.port}`,
    async [Symbol.asyncDispose]() {
      for (const upstream of pairs.values()) (await upstream).terminate();
      listener.stop(true);
    },
  };
}
