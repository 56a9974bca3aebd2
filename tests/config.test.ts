/** The settings: defaults, limits, and that every fault is told at once. */

import { describe, expect, test } from "bun:test";
import { isAbsolute, resolve } from "node:path";
import { childEnvironment, readConfig } from "../lib/config.ts";
import { AppError, type Issue } from "../lib/errors.ts";

function issuesOf(env: Record<string, string>): readonly Issue[] {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof AppError && error.code === "INVALID") return error.issues ?? [];
    throw error;
  }
  return [];
}

test("an empty environment gives the documented defaults", () => {
  expect(readConfig({})).toMatchObject({
    port: 7_400,
    host: "127.0.0.1",
    redisUrl: undefined,
    dataDir: resolve(".skein"),
    archiveUrl: `sqlite://${resolve(".skein")}/archive.db`,
    partitions: 16,
    prefix: "skein",
    ackLevel: "disk",
    origins: [],
    logLevel: "info",
    sendRate: 30,
    sendBurst: 60,
    allowUnsafe: false,
    rpcHost: "",
  });
});

test("APNs is set up whole or not at all", () => {
  const whole = {
    ...{ SKEIN_APNS_KEY_FILE: "/keys/k.p8", SKEIN_APNS_KEY_ID: "KEY", SKEIN_APNS_TEAM_ID: "TEAM" },
    SKEIN_APNS_TOPIC: "com.example.chat",
  };
  const { SKEIN_APNS_TOPIC: _, ...partial } = whole;
  expect(readConfig(whole).apns).toMatchObject({ topic: "com.example.chat", origin: "https://api.push.apple.com" });
  expect(readConfig({}).apns).toBeUndefined();
  expect(issuesOf(partial).map(({ path }) => path)).toEqual(["SKEIN_APNS_TOPIC"]);
});

test("the contact for push services is one that they can write to", () => {
  for (const contact of ["ops@example.com", "https://[", "http://example.com"]) {
    expect(issuesOf({ SKEIN_PUSH_CONTACT: contact }).map(({ path }) => path)).toEqual(["SKEIN_PUSH_CONTACT"]);
  }
  expect(issuesOf({ SKEIN_PUSH_CONTACT: "mailto:ops@example.com" })).toEqual([]);
});

test("what is not ours is left alone", () => {
  expect(issuesOf({ PATH: "/bin", HOME: "/root", MY_SKEIN_PORT: "x" })).toEqual([]);
});

test("the settings cannot be changed afterwards", () => {
  const config = readConfig({}) as { port: number };
  expect(() => {
    config.port = 1;
  }).toThrow(TypeError);
});

test("all faults are told at once, each by its name", () => {
  const issues = issuesOf({
    SKEIN_PORT: "70000",
    SKEIN_PARTITIONS: "0",
    SKEIN_ACK_LEVEL: "durable",
    SKEIN_JWT_SECRET: "short",
    SKEIN_REDIS_ULR: "redis://localhost",
  });
  expect(issues).toEqual([
    { path: "SKEIN_REDIS_ULR", message: "is not a setting; did you mean SKEIN_REDIS_URL?" },
    { path: "SKEIN_PORT", message: "must be at most 65535" },
    { path: "SKEIN_JWT_SECRET", message: "must be at least 32 bytes" },
    { path: "SKEIN_PARTITIONS", message: "must be at least 1" },
    { path: "SKEIN_ACK_LEVEL", message: "must be memory, disk or replicated:<1..9>" },
  ]);
});

test.each([
  ["SKEIN_PROT", "SKEIN_PORT"],
  ["SKEIN_PARTITION", "SKEIN_PARTITIONS"],
  ["SKEIN_ACKLEVEL", "SKEIN_ACK_LEVEL"],
  ["SKEIN_DATADIR", "SKEIN_DATA_DIR"],
  ["SKEIN_ALOW_UNSAFE", "SKEIN_ALLOW_UNSAFE"],
  ["SKEIN_REDISURL", "SKEIN_REDIS_URL"],
])("%s is taken for a misspelt %s", (given, meant) => {
  expect(issuesOf({ [given]: "x" })).toEqual([{ path: given, message: `is not a setting; did you mean ${meant}?` }]);
});

describe("limits", () => {
  test.each([
    ["SKEIN_PORT", ["", "-1", "1.5", "0x10", "1e3", " 80", "99999999999999999999", "65536"]],
    ["SKEIN_HOST", [""]],
    ["SKEIN_REDIS_URL", ["localhost:6379", "http://localhost", "redis://", "redis://a b"]],
    ["SKEIN_DATA_DIR", [""]],
    ["SKEIN_ARCHIVE_URL", ["mysql://x", "archive.db"]],
    ["SKEIN_JWKS_URL", ["not a url"]],
    ["SKEIN_SERVICE_KEY", ["secret", "sk_root_short", `sk_root_${"x".repeat(129)}`]],
    ["SKEIN_PARTITIONS", ["0", "1025", "many"]],
    ["SKEIN_PREFIX", ["", "a:b", "{a}", "x".repeat(33)]],
    ["SKEIN_ACK_LEVEL", ["none", "replicated", "replicated:0", "replicated:10", "Disk"]],
    ["SKEIN_LOG_LEVEL", ["trace", "INFO"]],
    ["SKEIN_SEND_RATE", ["0", "1000001"]],
    ["SKEIN_ALLOW_UNSAFE", ["true", "yes", ""]],
    ["SKEIN_INTERNAL_SECRET", ["x".repeat(31)]],
  ])("%s refuses what lies outside of them", (name, values) => {
    for (const value of values) {
      // One value may break more than one rule; none passes, and the fault names its setting.
      expect([value, issuesOf({ [name]: value }).map(({ path }) => path)[0]]).toEqual([value, name]);
    }
  });

  test("what lies inside is taken", () => {
    const given = {
      SKEIN_PORT: "0",
      SKEIN_PARTITIONS: "1024",
      SKEIN_ACK_LEVEL: "replicated:2",
      SKEIN_REDIS_URL: "redis+cluster://:p@10.0.0.1:6379,10.0.0.2:6379",
      SKEIN_ALLOW_UNSAFE: "1",
      SKEIN_ORIGINS: "https://a.example, https://b.example,",
      SKEIN_DATA_DIR: "data",
    };
    const config = readConfig(given);
    expect(config).toMatchObject({
      port: 0,
      partitions: 1_024,
      ackLevel: "replicated:2",
      redisUrl: given.SKEIN_REDIS_URL,
      allowUnsafe: true,
      origins: ["https://a.example", "https://b.example"],
    });
    expect(isAbsolute(config.dataDir)).toBe(true);
  });

  test("a secret is measured in bytes", () => {
    expect(issuesOf({ SKEIN_JWT_SECRET: "é".repeat(16) })).toEqual([]);
    expect(issuesOf({ SKEIN_JWT_SECRET: "é".repeat(15) })).toHaveLength(1);
  });

  test("a fault never repeats what the setting holds: it may be a secret", () => {
    const secret = "hunter2";
    for (const name of ["SKEIN_JWT_SECRET", "SKEIN_SERVICE_KEY", "SKEIN_INTERNAL_SECRET", "SKEIN_REDIS_URL"]) {
      const [issue] = issuesOf({ [name]: secret });
      expect(issue?.message).not.toContain(secret);
    }
  });
});

test("a child's environment holds what it inherits and what is replaced, and on demand none of our own settings", () => {
  process.env.SKEIN_PORT = "7401";
  try {
    expect(childEnvironment({ SKEIN_HOST: "h" })).toMatchObject({ SKEIN_PORT: "7401", SKEIN_HOST: "h" });
    const clean = childEnvironment({ SKEIN_HOST: "h" }, "none");
    expect(clean.SKEIN_PORT).toBeUndefined();
    expect(clean).toMatchObject({ SKEIN_HOST: "h", PATH: process.env.PATH });
  } finally {
    delete process.env.SKEIN_PORT;
  }
});
