/** Groups over HTTP: declare, seek, pause and resume; traces of their messages; and what is refused, by name and limit. */

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { openQueue, type Queue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import type { Service } from "../../lib/service.ts";
import { eventually } from "../support/eventually.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

let services: TestServices;
let queue: Queue;
let topic: string;
let count = 0;
const running: Service[] = [];
beforeAll(async () => {
  services = await openTestServices("svc-groups", { gateways: 2 });
  const { redis, keys, metrics } = services.store;
  queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" });
});
afterAll(async () => {
  for (const service of running) await service.stop(AbortSignal.abort());
  await services[Symbol.asyncDispose]();
});
beforeEach(() => {
  count += 1;
  topic = `grouped.${count}`;
});

const group = (rest = "") => `/v1/topics/${topic}/groups/g${rest}`;
const declare = (settings: object) => services.call("PUT", group(), settings);
async function publish(...data: unknown[]): Promise<string[]> {
  const messages = data.map((one) => ({ data: one, key: "k" }));
  const { body } = await services.call("POST", `/v1/topics/${topic}/messages`, { messages });
  return body.results.map(({ id }: { id: string }) => id);
}
/** A member of the group in this process; what it was handed. */
async function consume(mode: "ordered" | "concurrent"): Promise<unknown[]> {
  const taken: unknown[] = [];
  const service = queue.consume(await queue.catalog.topicOf(topic), {
    group: "g",
    mode,
    handle: ({ data }) => taken.push(data),
  });
  running.push(service);
  await service.start();
  return taken;
}
const stateOf = async () =>
  (await services.call("GET", `/v1/topics/${topic}`, undefined, { gateway: 1 })).body.groups[0];

test("a group is declared once with its topic, changed, and keeps its mode", async () => {
  const settings = {
    mode: "ordered",
    start: "first",
    leaseMs: 5_000,
    maxAttempts: 3,
    backoff: [100, 200],
    onPoison: "park",
    tags: ["a"],
  };
  const first = await declare(settings);
  expect(first.status).toBe(201);
  expect(first.body).toEqual({ topic, group: "g", ...settings, created: expect.any(Number) });
  const again = await declare(settings);
  expect([again.status, again.body]).toEqual([200, first.body]);
  expect((await declare({ mode: "ordered", backoff: { firstMs: 1, maxMs: 5 } })).body.backoff).toEqual({
    firstMs: 1,
    maxMs: 5,
    jitter: 0.1,
  });
  const refused = await declare({ mode: "concurrent" });
  expect([refused.status, refused.body.code]).toEqual([409, "CONFLICT"]);
  await services.call("PUT", `/v1/topics/${topic}/groups/h`, { mode: "broadcast" });
  expect((await services.call("GET", `/v1/topics/${topic}`)).body.groups).toMatchObject([
    { group: "g", mode: "ordered", lag: 0, settings: { mode: "ordered", backoff: { maxMs: 5 } } },
    { group: "h", mode: "broadcast", lag: 0 },
  ]);
});

test.each<[string, (times: { before: number; entry: string }) => unknown, number]>([
  ["first", () => "first", 3],
  ["latest", () => "latest", 0],
  ["a time", ({ before }) => before, 1],
  ["{time}", ({ before }) => ({ time: before }), 1],
  ["an entry", ({ entry }) => entry, 1],
  ["{id}", ({ entry }) => ({ id: entry }), 1],
])("a group begins at %s", async (_, start, expected) => {
  await publish(1, 2);
  await Bun.sleep(5);
  const before = Date.now();
  const [id] = await publish(3);
  const { body } = await services.call("GET", `/v1/trace/${id}`);
  await declare({ mode: "concurrent", start: start({ before, entry: body.commits[0].entry }) });
  expect((await stateOf()).lag).toBe(expected);
});

test("trimming waits for a group from the moment that it is declared", async () => {
  await declare({ mode: "ordered" });
  await publish(1, 2, 3);
  const declared = await queue.catalog.topicOf(topic);
  expect(await queue.trim({ ...declared, retentionMs: 1, lengthMax: 1 })).toBe(0);
  expect((await stateOf()).lag).toBe(3);
});

test.each(["ordered", "concurrent"] as const)(
  "a paused %s group is handed nothing until it is resumed",
  async (mode) => {
    await declare({ mode });
    const taken = await consume(mode);
    await publish(1);
    await eventually(() => expect(taken).toEqual([1]));
    expect((await services.call("POST", group("/pause"), { reason: "repairs" })).body).toEqual({ result: "ok" });
    expect(await stateOf()).toMatchObject({ paused: { at: expect.any(Number), reason: "repairs" } });
    await Bun.sleep(1_500);
    // Members hear of it within a second of their own time: one that stood still takes what comes until then.
    let last = 1;
    await eventually(async () => {
      last += 1;
      await publish(last);
      await Bun.sleep(300);
      expect(taken).not.toContain(last);
    });
    // Both take no body, and each again has no effect.
    expect((await services.call("POST", group("/pause"))).status).toBe(200);
    for (let i = 0; i < 2; i++) expect((await services.call("POST", group("/resume"))).status).toBe(200);
    expect((await stateOf()).paused).toBeUndefined();
    await eventually(() => expect(taken).toEqual(Array.from({ length: last }, (_, i) => i + 1)));
  },
);

test.each(["ordered", "concurrent"] as const)(
  "a %s group that is set back is given its messages again",
  async (mode) => {
    await declare({ mode });
    const taken = await consume(mode);
    await publish(1, 2);
    await eventually(() => expect(taken).toEqual([1, 2]));
    await Bun.sleep(5);
    const between = Date.now();
    await publish(3);
    await eventually(() => expect(taken).toEqual([1, 2, 3]));
    taken.length = 0;
    expect((await services.call("POST", group("/seek"), { to: "time", time: between })).body).toEqual({ result: "ok" });
    await eventually(() => expect(taken).toEqual([3]));
    taken.length = 0;
    await services.call("POST", group("/seek"), { to: "first" });
    await eventually(() => expect(taken).toEqual([1, 2, 3]));
  },
);

test("a trace tells the life of a message", async () => {
  await declare({ mode: "ordered" });
  const taken = await consume("ordered");
  const [id] = await publish({ secret: "in the data" });
  await eventually(() => expect(taken).toHaveLength(1));
  const { body } = await eventually(async () => {
    const found = await services.call("GET", `/v1/trace/${id}`);
    expect(found.body.deliveries[0].state).toBe("finished");
    return found;
  });
  expect(body).toMatchObject({
    id,
    commits: [{ topic, key: "k", entry: expect.any(String) }],
    deliveries: [{ group: "g", mode: "ordered" }],
  });
  expect(JSON.stringify(body)).not.toContain("in the data");
  expect((await services.call("GET", "/v1/trace/01JDG3S8QK7XN4P200A1")).body.code).toBe("NOT_FOUND");
});

test("what never ran is not found", async () => {
  for (const act of ["pause", "resume", "seek"]) {
    const body = act === "seek" ? { to: "first" } : {};
    expect((await services.call("POST", group(`/${act}`), body)).body.code).toBe("NOT_FOUND");
  }
  await services.call("PUT", `/v1/topics/${topic}`, {});
  expect((await services.call("POST", group("/pause"))).body.code).toBe("NOT_FOUND");
});

test("names of the product are refused: its inner topics, and its own groups", async () => {
  const put = (path: string) => services.call("PUT", `/v1/topics/${path}`, { mode: "ordered" });
  for (const path of [
    "im.commands/groups/mine",
    "im.relay/groups/relay",
    "im.events/groups/archive",
    "im.events/groups/delivery",
    "im.nothing/groups/g",
  ]) {
    expect([path, (await put(path)).body.code]).toEqual([path, "FORBIDDEN"]);
  }
  expect((await put("im.events/groups/search")).status).toBe(201);
  const authorization = await services.keyWith("consume:*");
  const pause = (options = {}) => services.call("POST", "/v1/topics/im.events/groups/inbox/pause", {}, options);
  expect((await pause({ authorization })).body.code).toBe("FORBIDDEN");
});

test.each<[string, object, string]>([
  ["no mode", {}, "mode"],
  ["another mode", { mode: "fifo" }, "mode"],
  ["a start that is nothing", { mode: "ordered", start: "newest" }, "start"],
  ["a lease of 0", { mode: "ordered", leaseMs: 0 }, "leaseMs"],
  ["a lease as text", { mode: "ordered", leaseMs: "30s" }, "leaseMs"],
  ["too many attempts", { mode: "ordered", maxAttempts: 1_001 }, "maxAttempts"],
  ["a backoff that is a number", { mode: "ordered", backoff: 5 }, "backoff"],
  ["another poison policy", { mode: "ordered", onPoison: "drop" }, "onPoison"],
  ["a poison policy out of place", { mode: "concurrent", onPoison: "park" }, "onPoison"],
  ["a tag with a semicolon", { mode: "ordered", tags: ["a;g=x"] }, "tags.0"],
  ["an unknown field", { mode: "ordered", priority: 1 }, "priority"],
  ["a group in the body", { mode: "ordered", group: "h" }, "group"],
])("a declaration with %s is refused by name", async (_, settings, path) => {
  const { status, body } = await declare(settings);
  expect([status, body.code, body.issues?.[0]?.path]).toEqual([400, "INVALID", path]);
});

test.each<[string, object, string]>([
  ["nothing", {}, "to"],
  ["another place", { to: "newest" }, "to"],
  ["a time before time", { to: -1 }, "to"],
  ["a time that is missing", { to: "time" }, "time"],
  ["a time as text", { to: "time", time: "1" }, "time"],
  ["a time out of place", { to: "first", time: 1 }, "time"],
  ["an id that is missing", { to: "id" }, "id"],
  ["an id that is none", { to: "id", id: "x" }, "id"],
  ["an id out of place", { to: 5, id: "5-0" }, "id"],
  ["a stream id for all", { to: "$" }, "to"],
  ["an unknown field", { to: "first", partition: 1 }, "partition"],
])("a seek with %s is refused by name", async (_, body, path) => {
  await declare({ mode: "ordered" });
  const answer = await services.call("POST", group("/seek"), body);
  expect([answer.status, answer.body.issues?.[0]?.path]).toEqual([400, path]);
});

test("a pause with a reason of 201 characters is refused by name", async () => {
  const { status, body } = await services.call("POST", group("/pause"), { reason: "a".repeat(201) });
  expect([status, body.issues?.[0]?.path]).toEqual([400, "reason"]);
});
