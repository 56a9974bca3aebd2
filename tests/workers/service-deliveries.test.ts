/** Pulling over HTTP: receive, ack, nack, renew, at any gateway, beside members in process; forged and foreign tokens. */

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

let services: TestServices;
let topic: string;
let count = 0;
beforeAll(async () => {
  services = await openTestServices("svc-pull", { gateways: 2 });
});
afterAll(() => services[Symbol.asyncDispose]());
beforeEach(() => {
  count += 1;
  topic = `pulled.${count}`;
});

interface Delivery {
  readonly event: { readonly id: string; readonly data: unknown; readonly partitionkey?: string };
  readonly attempt: number;
  readonly token: string;
  readonly leaseUntil: number;
}
const group = (rest = "", name = "g") => `/v1/topics/${topic}/groups/${name}${rest}`;
const declare = (settings: object = {}, name = "g") =>
  services.call("PUT", group("", name), { mode: "concurrent", start: "first", ...settings });
const publish = (...messages: object[]) => services.call("POST", `/v1/topics/${topic}/messages`, { messages });
async function receive(body: object = {}, gateway = 0, name = "g"): Promise<Delivery[]> {
  const answer = await services.call("POST", group("/receive", name), { max: 10, ...body }, { gateway });
  expect(answer.status).toBe(200);
  return answer.body.deliveries;
}
const ack = (tokens: string[], gateway = 0) => services.call("POST", group("/ack"), { tokens }, { gateway });
const dataOf = (deliveries: readonly Delivery[]) => deliveries.map(({ event }) => event.data);
const tokensOf = (deliveries: readonly Delivery[]) => deliveries.map(({ token }) => token);
const deadLetters = async () => (await services.call("GET", group("/dead-letters"))).body.deadLetters;

describe.each(["concurrent", "ordered"] as const)("a %s group", (mode) => {
  test("is received as CloudEvents, acked once, at any gateway", async () => {
    await declare({ mode });
    await publish({ data: { n: 1.0 }, key: "a", tag: "x", type: "order.placed" });
    const [delivery] = await receive({ waitMs: 20_000 });
    expect(delivery).toEqual({
      event: expect.objectContaining({
        specversion: "1.0",
        source: `/topics/${topic}`,
        type: "order.placed",
        partitionkey: "a",
        tag: "x",
        data: { n: 1 },
      }),
      attempt: 1,
      token: expect.any(String),
      leaseUntil: expect.any(Number),
    });
    expect(Math.abs(delivery!.leaseUntil - Date.now() - 30_000)).toBeLessThan(5_000);
    expect((await ack([delivery!.token], 1)).body).toEqual({ results: [{ token: delivery!.token, result: "ok" }] });
    expect((await ack([delivery!.token], 1)).body.results[0].result).toBe("ok");
    expect(await receive({}, 1)).toEqual([]);
    await eventually(async () => {
      const { body } = await services.call("GET", `/v1/topics/${topic}`);
      expect(body.groups[0]).toMatchObject({ lag: 0, open: 0 });
    });
  });

  test("waits for the first message, also of another gateway", async () => {
    await declare({ mode });
    const waiting = receive({ waitMs: 20_000 }, 1);
    await Bun.sleep(300);
    const beganMs = performance.now();
    await publish({ data: 1, key: "a" });
    expect(dataOf(await waiting)).toEqual([1]);
    // Not at the end of its wait.
    expect(performance.now() - beganMs).toBeLessThan(10_000);
  });

  test("gives a nacked message again: retry counts, release does not, reject ends it", async () => {
    await declare({ mode, backoff: [0] });
    await publish({ data: 1, key: "a" });
    const nack = (token: string, rest: object) => services.call("POST", group("/nack"), { token, ...rest });
    const [first] = await receive({ waitMs: 20_000 });
    const { body } = await nack(first!.token, { kind: "retry", retryAfterMs: 0, reason: "not yet" });
    expect(body).toEqual({ results: [{ token: first!.token, result: "ok" }] });
    const [second] = await receive({ waitMs: 20_000 });
    expect(second!.attempt).toBe(2);
    await nack(second!.token, { kind: "release" });
    const [third] = await receive({ waitMs: 20_000 }, 1);
    expect(third!.attempt).toBe(2);
    await nack(third!.token, { kind: "reject", reason: "no such order" });
    expect(await deadLetters()).toMatchObject([
      { data: 1, reason: "bury", lastError: expect.stringContaining("no such order") },
    ]);
    expect(await receive()).toEqual([]);
  });

  test("gives a message again when its lease ended, and refuses the late ack", async () => {
    await declare({ mode, leaseMs: 1_000 });
    await publish({ data: 1, key: "a" });
    const [late] = await receive({ waitMs: 20_000 });
    // The lease that follows is to last until its ack, whatever comes between.
    await declare({ mode, leaseMs: 30_000 });
    const [again] = await receive({ waitMs: 10_000 }, 1);
    expect(again!.event.id).toBe(late!.event.id);
    expect([late!.attempt, again!.attempt]).toEqual([1, 2]);
    expect((await ack([late!.token, again!.token])).body.results).toEqual([
      { token: late!.token, result: "lease_lost" },
      { token: again!.token, result: "ok" },
    ]);
  });

  test("holds a message longer when its lease is renewed", async () => {
    await declare({ mode, leaseMs: 1_000 });
    await publish({ data: 1, key: "a" });
    // Once more when the first lease was over before its renewal came.
    const held = await eventually(async () => {
      const [delivery] = await receive({ waitMs: 20_000 });
      const { token } = delivery!;
      const { body } = await services.call(
        "POST",
        group("/renew"),
        { tokens: [token], leaseMs: 60_000 },
        { gateway: 1 },
      );
      expect(body.results).toEqual([{ token, result: "ok", leaseUntil: expect.any(Number) }]);
      expect(body.results[0].leaseUntil).toBeGreaterThan(Date.now() + 50_000);
      return token;
    });
    await Bun.sleep(1_500);
    expect(await receive({}, 1)).toEqual([]);
    expect((await ack([held])).body.results[0].result).toBe("ok");
  });

  test("answers a receive that is repeated under its attemptId with the same deliveries", async () => {
    await declare({ mode });
    await publish({ data: 1, key: "a" }, { data: 2, key: "b" });
    const first = await receive({ waitMs: 20_000, max: 1, attemptId: "attempt-1" });
    expect(first).toHaveLength(1);
    expect(await receive({ max: 1, attemptId: "attempt-1" }, 1)).toEqual(first);
    expect(dataOf(await receive({ waitMs: 20_000, max: 1, attemptId: "attempt-2" }))).not.toEqual(dataOf(first));
  });

  test("is handed out once to many clients at once, and wholly", async () => {
    await declare({ mode });
    const total = 200;
    await publish(...Array.from({ length: total }, (_, n) => ({ data: n, key: `k${n % 20}` })));
    const taken: Delivery[] = [];
    const client = async (gateway: number) => {
      while (taken.length < total) {
        const deliveries = await receive({ max: 7, waitMs: 500 }, gateway);
        taken.push(...deliveries);
        if (deliveries.length > 0) await ack(tokensOf(deliveries), gateway);
      }
    };
    await Promise.all(Array.from({ length: 6 }, (_, i) => client(i % 2)));
    expect((dataOf(taken) as number[]).sort((a, b) => a - b)).toEqual(Array.from({ length: total }, (_, n) => n));
    if (mode === "ordered") {
      for (let k = 0; k < 20; k++) {
        const ofKey = dataOf(taken.filter(({ event }) => event.partitionkey === `k${k}`)) as number[];
        expect(ofKey).toEqual([...ofKey].sort((a, b) => a - b));
      }
    }
  });

  test("that is paused gives nothing", async () => {
    await declare({ mode });
    await services.call("POST", group("/pause"));
    await publish({ data: 1, key: "a" });
    expect(await receive({ waitMs: 200 })).toEqual([]);
    await services.call("POST", group("/resume"));
    expect(dataOf(await receive({ waitMs: 20_000 }))).toEqual([1]);
  });
});

test("one message of a key is out at a time; a parked key waits for its unpark, then goes on in order", async () => {
  await declare({ mode: "ordered", maxAttempts: 1, onPoison: "park" });
  await publish({ data: 1, key: "a" }, { data: 2, key: "a" }, { data: 3, key: "b" });
  const first = await receive({ waitMs: 20_000 });
  expect((dataOf(first) as number[]).sort()).toEqual([1, 3]);
  const ofA = first.find(({ event }) => event.partitionkey === "a")!;
  await services.call("POST", group("/nack"), { token: ofA.token, kind: "retry", retryAfterMs: 0 });
  await eventually(async () => {
    const { body } = await services.call("GET", group("/aside"));
    expect(body.keys).toContainEqual({
      key: "a",
      state: "parked",
      since: expect.any(Number),
      messages: 2,
      attempts: 1,
    });
  });
  expect((await services.call("GET", `/v1/topics/${topic}`)).body.groups[0].parkedKeys).toBe(1);
  expect(await receive({ waitMs: 300 })).toEqual([]);
  expect((await services.call("POST", group("/unpark"), { key: "a" })).body).toEqual({ result: "ok" });
  expect((await services.call("POST", group("/unpark"), { key: "a" })).body).toEqual({ result: "not_found" });
  for (const expected of [1, 2]) {
    const [delivery] = await receive({ waitMs: 20_000 });
    expect(delivery?.event.data).toBe(expected);
    await ack([delivery!.token]);
  }
});

test("services and members in process share a group: each message goes to one of them", async () => {
  await declare();
  const { redis, keys, metrics } = services.store;
  const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "native" });
  const taken: unknown[] = [];
  const service = queue.consume(await queue.catalog.topicOf(topic), {
    group: "g",
    mode: "concurrent",
    handle: ({ data }) => taken.push(data),
  });
  await service.start();
  const publishing = (async () => {
    for (let n = 0; n < 100; n += 10) await publish(...Array.from({ length: 10 }, (_, i) => ({ data: n + i })));
  })();
  while (taken.length < 100) {
    const deliveries = await receive({ max: 3, waitMs: 100 });
    if (deliveries.length > 0) await ack(tokensOf(deliveries));
    taken.push(...dataOf(deliveries));
  }
  await publishing;
  await service.stop(AbortSignal.abort());
  expect((taken as number[]).sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, n) => n));
});

test("a client that goes away while it waits takes nothing with it", async () => {
  await declare();
  const leaving = new AbortController();
  const waiting = services
    .call("POST", group("/receive"), { waitMs: 20_000 }, { signal: leaving.signal })
    .catch(() => "left");
  await Bun.sleep(200);
  leaving.abort();
  expect(await waiting).toBe("left");
  await Bun.sleep(200);
  await publish({ data: 1 });
  expect(dataOf(await receive({ waitMs: 20_000 }))).toEqual([1]);
});

test("a token is good for its group alone, and garbage is lease_lost without spoiling the others", async () => {
  await declare();
  await declare({}, "h");
  await publish({ data: 1 });
  const [own] = await receive({ waitMs: 20_000 });
  const [foreign] = await receive({ waitMs: 20_000 }, 0, "h");
  const { token } = own!;
  const flipped = token.slice(0, -2) + (token.endsWith("AA") ? "BB" : "AA");
  const garbage = [
    foreign!.token,
    flipped,
    "",
    "x",
    `${token}x`,
    token.slice(1),
    "a".repeat(1_000),
    "../../etc",
    "\u0000",
  ];
  const { status, body } = await ack([...garbage, token]);
  expect(status).toBe(200);
  expect(body.results.map(({ result }: { result: string }) => result)).toEqual([
    ...garbage.map(() => "lease_lost"),
    "ok",
  ]);
  const nacked = await services.call("POST", group("/nack"), { token: foreign!.token, kind: "reject" });
  expect(nacked.body.results[0].result).toBe("lease_lost");
  const renewed = await services.call("POST", group("/renew"), { tokens: [foreign!.token], leaseMs: 5_000 });
  expect(renewed.body.results).toEqual([{ token: foreign!.token, result: "lease_lost" }]);
  expect((await services.call("POST", group("/ack", "h"), { tokens: [foreign!.token] })).body.results[0].result).toBe(
    "ok",
  );
});

test("groups that were not declared, or cannot be pulled from, say so", async () => {
  expect((await services.call("POST", group("/receive"), {})).body.code).toBe("NOT_FOUND");
  await services.call("PUT", `/v1/topics/${topic}`, {});
  expect((await services.call("POST", group("/receive"), {})).body.code).toBe("NOT_FOUND");
  await declare({ mode: "broadcast" });
  expect((await services.call("POST", group("/receive"), {})).body.code).toBe("INVALID");
  const events = "/v1/topics/im.events/groups";
  expect((await services.call("POST", `${events}/archive/receive`, {})).body.code).toBe("FORBIDDEN");
  await services.call("PUT", `${events}/search`, { mode: "ordered", start: "latest" });
  await services.chat.group("ada", "bob");
  const { body } = await services.call("POST", `${events}/search/receive`, { waitMs: 20_000 });
  expect(body.deliveries[0].event.type).toBe("im.conversation.created");
});

test.each<[string, string, object, string]>([
  ["max 0", "receive", { max: 0 }, "max"],
  ["max 101", "receive", { max: 101 }, "max"],
  ["max as text", "receive", { max: "10" }, "max"],
  ["a wait of -1", "receive", { waitMs: -1 }, "waitMs"],
  ["a wait of 20 001 ms", "receive", { waitMs: 20_001 }, "waitMs"],
  ["an attempt with a colon", "receive", { attemptId: "a:b" }, "attemptId"],
  ["an unknown field", "receive", { group: "h" }, "group"],
  ["no tokens", "ack", {}, "tokens"],
  ["an empty list", "ack", { tokens: [] }, "tokens"],
  ["1 001 tokens", "ack", { tokens: new Array(1_001).fill("x") }, "tokens"],
  ["a token that is a number", "ack", { tokens: [1] }, "tokens.0"],
  ["a token of 1 025 characters", "ack", { tokens: ["a".repeat(1_025)] }, "tokens.0"],
  ["no kind", "nack", { token: "x" }, "kind"],
  ["another kind", "nack", { token: "x", kind: "drop" }, "kind"],
  ["a wait of more than 12 h", "nack", { token: "x", kind: "retry", retryAfterMs: 43_200_001 }, "retryAfterMs"],
  ["a reason of 1 001 characters", "nack", { token: "x", kind: "retry", reason: "a".repeat(1_001) }, "reason"],
  ["no lease", "renew", { tokens: ["x"] }, "leaseMs"],
  ["a lease of 999 ms", "renew", { tokens: ["x"], leaseMs: 999 }, "leaseMs"],
  ["a lease of more than 12 h", "renew", { tokens: ["x"], leaseMs: 43_200_001 }, "leaseMs"],
])("a call with %s is refused by name", async (_, act, body, path) => {
  await declare();
  const answer = await services.call("POST", group(`/${act}`), body);
  expect([answer.status, answer.body.code, answer.body.issues?.[0]?.path]).toEqual([400, "INVALID", path]);
});
