/**
 * What may be concluded from each error that Redis or the way to it can give, each provoked on a real server: `failed` was not
 * executed, `unknown` may have been, `bug` was half executed.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { Redis } from "ioredis";
import { silentLog } from "../../lib/observability/index.ts";
import { defineScript, openRedis, outcomeOf, type RedisConnections, toAppError } from "../../lib/redis/index.ts";
import { eventually } from "../support/eventually.ts";
import { startTestRedis, type TestRedis } from "../support/redis-server.ts";

let server: TestRedis;
let redis: RedisConnections;

beforeAll(async () => {
  server = await startTestRedis();
  redis = await openRedis(server.url, "t-outcome", silentLog);
});
afterAll(async () => {
  await redis.close();
  await server.stop();
});

/** The error that a call ends with; fails when it has none. */
async function errorOf(call: Promise<unknown>): Promise<Error> {
  const outcome = await call.then(
    (value) => ({ value }),
    (error: Error) => ({ error }),
  );
  if ("error" in outcome) return outcome.error;
  throw new Error(`it succeeded with ${JSON.stringify(outcome.value)}`);
}

function expectFailed(error: Error, beginning: string): void {
  expect(error.message.slice(0, beginning.length)).toBe(beginning);
  expect(outcomeOf(error)).toBe("failed");
  expect(toAppError(error)).toMatchObject({ code: "OVERLOADED", retryable: true, retryAfterMs: 500 });
}

function expectUnknown(error: Error): void {
  expect([error.message, outcomeOf(error)]).toEqual([error.message, "unknown"]);
  expect(toAppError(error)).toMatchObject({ code: "UNKNOWN_OUTCOME", retryable: true, retryAfterMs: 500 });
}

function expectBug(error: Error): void {
  expect([error.message, outcomeOf(error)]).toEqual([error.message, "bug"]);
  expect(toAppError(error)).toMatchObject({ code: "INTERNAL", retryable: false });
}

const increment = defineScript({
  name: "tOutcomeIncrement",
  lua: "#!lua\nlocal counter = KEYS[1]\nreturn redis.call('INCR', counter)\n",
  keys: ["counter"],
  args: [],
  decode: Number,
});

describe("failed: the server refused before executing anything", () => {
  test("OOM: a command and a script, when memory is full", async () => {
    await redis.commands.config("SET", "maxmemory", "1");
    try {
      expectFailed(await errorOf(redis.commands.set("t-oom", "1")), "OOM");
      expectFailed(await errorOf(increment(redis.commands, { counter: "t-oom" })), "OOM");
    } finally {
      await redis.commands.config("SET", "maxmemory", "0");
    }
    expect(await redis.commands.exists("t-oom")).toBe(0);
  });

  test("NOREPLICAS: fewer replicas than the server asks for", async () => {
    await redis.commands.config("SET", "min-replicas-to-write", "1");
    try {
      expectFailed(await errorOf(increment(redis.commands, { counter: "t-noreplicas" })), "NOREPLICAS");
    } finally {
      await redis.commands.config("SET", "min-replicas-to-write", "0");
    }
  });

  test("NOPERM: a user who may not", async () => {
    await redis.commands.acl("SETUSER", "reader", "on", ">secret", "~*", "+@read", "+info", "+client");
    const limited = await openRedis(server.url.replace("//", "//reader:secret@"), "t-outcome-reader", silentLog);
    try {
      expectFailed(await errorOf(limited.commands.set("t-noperm", "1")), "NOPERM");
    } finally {
      await limited.close();
    }
  });

  test("NOSCRIPT: it is healed, and alone it means that nothing ran", async () => {
    await increment(redis.commands, { counter: "t-noscript" });
    await redis.commands.script("FLUSH");
    expect(await increment(redis.commands, { counter: "t-noscript" })).toBe(2);
    expectFailed(await errorOf(redis.commands.evalsha("0".repeat(40), 0)), "NOSCRIPT");
    await redis.commands.del("t-noscript");
  });

  test("NOGROUP: the group is gone", async () => {
    const read = redis.commands.xreadgroup("GROUP", "g", "m", "STREAMS", "t-nogroup", ">");
    expectFailed(await errorOf(read), "NOGROUP");
  });

  test("UNBLOCKED: an operator ended a blocked read", async () => {
    const reader = redis.blocking("t-outcome-blocked");
    try {
      const id = await reader.client("ID");
      const read = errorOf(reader.blpop("t-unblocked", 5));
      await eventually(async () => expect(await redis.commands.client("UNBLOCK", id, "ERROR")).toBe(1));
      expectFailed(await read, "UNBLOCKED");
    } finally {
      reader.disconnect();
    }
  });

  test("BUSY: a script runs too long; killed before it wrote, it is unknown to its caller", async () => {
    await redis.commands.config("SET", "busy-reply-threshold", "10");
    const endless = redis.blocking("t-outcome-endless");
    try {
      const killed = errorOf(endless.eval("while true do end", 0));
      await eventually(async () => expectFailed(await errorOf(redis.commands.get("t-busy")), "BUSY"));
      await redis.commands.script("KILL");
      expectUnknown(await killed);
    } finally {
      endless.disconnect();
      await redis.commands.config("SET", "busy-reply-threshold", "5000");
    }
  });

  test("MISCONF: the disk takes no snapshot", async () => {
    const own = await startTestRedis({ args: ["--save", "900", "1"] });
    const connections = await openRedis(own.url, "t-outcome-misconf", silentLog);
    try {
      rmSync(own.directory, { recursive: true });
      await connections.commands.bgsave();
      await eventually(async () => expectFailed(await errorOf(connections.commands.set("t-misconf", "1")), "MISCONF"));
    } finally {
      await connections.close();
      await own.stop();
    }
  });

  test("READONLY and MASTERDOWN: a replica, with its master and without", async () => {
    const master = await startTestRedis();
    const replica = await startTestRedis({ args: ["--replicaof", "127.0.0.1", String(master.port)] });
    const client = new Redis(replica.port, "127.0.0.1", { enableReadyCheck: false });
    try {
      await eventually(async () => expectFailed(await errorOf(client.set("t-readonly", "1")), "READONLY"));
      await client.config("SET", "replica-serve-stale-data", "no");
      await master.stop();
      await eventually(async () => expectFailed(await errorOf(client.get("t-readonly")), "MASTERDOWN"));
    } finally {
      client.disconnect();
      await replica.stop();
      await master.stop();
    }
  });

  test("LOADING: the server reads its file after a restart", async () => {
    const own = await startTestRedis({
      appendfsync: "everysec",
      args: ["--key-load-delay", "200"],
    });
    const client = new Redis(own.port, "127.0.0.1", {
      enableReadyCheck: false,
      maxRetriesPerRequest: null,
      retryStrategy: () => 10,
    });
    client.on("error", () => undefined);
    try {
      // It answers every 1 024 commands that it has loaded: 200 µs each, some 200 ms apart, for 6 s or less if told.
      await client.eval("for i = 1, 30000 do redis.call('SET', 'k' .. i, i) end", 0);
      own.kill("SIGTERM");
      const restarted = own.restart();
      await eventually(async () => expectFailed(await errorOf(client.get("k1")), "LOADING"));
      await client.config("SET", "key-load-delay", "0");
      await restarted;
    } finally {
      client.disconnect();
      await own.stop();
    }
  });

  test("CLUSTERDOWN and CROSSSLOT: a slot that nobody serves, keys of two slots", async () => {
    const own = await startTestRedis({ args: ["--cluster-enabled", "yes"] });
    const client = new Redis(own.port, "127.0.0.1");
    try {
      expectFailed(await errorOf(client.set("a", "1")), "CLUSTERDOWN");
      await client.call("CLUSTER", "ADDSLOTSRANGE", 0, 16_383);
      expectFailed(await errorOf(client.mset("a", "1", "b", "2")), "CROSSSLOT");
    } finally {
      client.disconnect();
      await own.stop();
    }
  });
});

test("failed: nobody listens, so nothing was sent", async () => {
  const own = await startTestRedis();
  const connections = await openRedis(own.url, "t-outcome-refused", silentLog);
  try {
    own.kill("SIGKILL");
    await eventually(async () => {
      expectFailed(await errorOf(connections.commands.set("t-refused", "1")), "Stream isn't writeable");
    });
  } finally {
    await connections.close();
    await own.stop();
  }
});

describe("unknown: the command was under way", () => {
  test("the server died with it", async () => {
    const own = await startTestRedis();
    const connections = await openRedis(own.url, "t-outcome-died", silentLog);
    try {
      // Stopped, it has the command in its socket and will never say what became of it.
      own.kill("SIGSTOP");
      const set = errorOf(connections.commands.set("t-died", "1"));
      const scripted = errorOf(increment(connections.commands, { counter: "t-died" }));
      await Bun.sleep(0);
      own.kill("SIGKILL");
      expectUnknown(await set);
      expectUnknown(await scripted);
    } finally {
      await connections.close();
      await own.stop();
    }
  });

  test("the server cut the connection", async () => {
    const id = await redis.commands.client("ID");
    const killer = new Redis(server.port, "127.0.0.1");
    try {
      await killer.ping();
      // Stopped, it finds both when it wakes, the kill first: the write waits in a socket that is cut by then.
      server.kill("SIGSTOP");
      const killed = killer.call("CLIENT", "KILL", "ID", id);
      await Bun.sleep(50);
      const set = errorOf(redis.commands.set("t-cut", "1"));
      await Bun.sleep(50);
      server.kill("SIGCONT");
      await killed;
      expectUnknown(await set);
    } finally {
      server.kill("SIGCONT");
      killer.disconnect();
    }
    await eventually(() => redis.commands.del("t-cut"));
  });

  test("no answer came in time", async () => {
    const own = await startTestRedis();
    const connections = await openRedis(own.url, "t-outcome-timeout", silentLog);
    try {
      own.kill("SIGSTOP");
      expectUnknown(await errorOf(connections.commands.set("t-timeout", "1")));
    } finally {
      await connections.close();
      await own.stop();
    }
  });
});

test("bug: a script broke off after its first write, which stands", async () => {
  const half = defineScript({
    name: "tOutcomeHalf",
    lua: "#!lua\nlocal counter = KEYS[1]\nredis.call('INCR', counter)\nreturn redis.call('LPUSH', counter, 'x')\n",
    keys: ["counter"],
    args: [],
    decode: Number,
  });
  const error = await errorOf(half(redis.commands, { counter: "t-half" }));
  expect(error.message).toStartWith("WRONGTYPE");
  expectBug(error);
  expect(await redis.commands.get("t-half")).toBe("1");
  await redis.commands.del("t-half");
});
