/** Delayed messages over HTTP: published with deliverAt, listed, moved, cancelled, sent now; and answers that are true. */

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import type { Service } from "../../lib/service.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

const HOUR_MS = 3_600_000;
let services: TestServices;
let timers: Service;
let topic: string;
let count = 0;
beforeAll(async () => {
  services = await openTestServices("svc-delayed", { gateways: 2 });
  const { redis, keys, metrics } = services.store;
  timers = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "timers" }).createTimers();
  await timers.start();
});
afterAll(async () => {
  await timers.stop(AbortSignal.abort());
  await services[Symbol.asyncDispose]();
});
beforeEach(async () => {
  count += 1;
  topic = `delayed.${count}`;
  await services.call("PUT", `/v1/topics/${topic}/groups/g`, { mode: "ordered", start: "first" });
});

async function publish(message: object): Promise<{ id: string; deliverAt?: number; duplicate?: boolean }> {
  const { status, body } = await services.call("POST", `/v1/topics/${topic}/messages`, {
    messages: [{ data: 1, ...message }],
  });
  expect(status).toBe(200);
  return body.results[0];
}
async function received(waitMs: number): Promise<{ id: string; time: string; data: unknown }[]> {
  const { body } = await services.call("POST", `/v1/topics/${topic}/groups/g/receive`, { max: 10, waitMs });
  return body.deliveries.map(({ event }: { event: unknown }) => event);
}
const at = (id: string, rest = "") => `/v1/delayed/${id}${rest}`;
const list = async (query = `?topic=${topic}`, options = {}) =>
  (await services.call("GET", `/v1/delayed${query}`, undefined, options)).body;
const sendNow = async (id: string, options = {}) =>
  (await services.call("POST", at(id, "/send-now"), undefined, options)).body;
const cancel = async (id: string, options = {}) => (await services.call("DELETE", at(id), undefined, options)).body;
const move = async (id: string, time: number, options = {}) =>
  (await services.call("PATCH", at(id), { at: time }, options)).body;

test("a message comes when it is due, and not before", async () => {
  const later = Date.now() + HOUR_MS;
  const result = await publish({ deliverAt: later, key: "a" });
  expect(result).toEqual({ id: expect.any(String), partition: expect.any(Number), deliverAt: later } as never);
  expect(await received(300)).toEqual([]);
  const soon = Date.now() + 700;
  expect(await move(result.id, soon)).toEqual({ result: "ok" });
  const [event] = await received(20_000);
  expect(event!.id).toBe(result.id);
  const { body } = await services.call("GET", at(result.id));
  expect(body).toMatchObject({ state: "fired", topic, key: "a" });
  // Moved too late it is due as of then.
  expect(body.deliverAt).toBeGreaterThanOrEqual(soon);
  expect(Date.parse(event!.time)).toBeGreaterThanOrEqual(body.deliverAt);
  for (const answer of [
    await cancel(result.id),
    await move(result.id, Date.now() + HOUR_MS),
    await sendNow(result.id),
  ]) {
    expect(answer).toEqual({ result: "already_fired" });
  }
});

test("the past is now", async () => {
  const result = await publish({ deliverAt: Date.now() - HOUR_MS });
  expect(result.deliverAt).toBeUndefined();
  expect((await received(20_000)).map(({ id }) => id)).toEqual([result.id]);
});

test("what waits is listed by due time, moved, cancelled, and sent now; each again tells the truth", async () => {
  const later = Date.now() + HOUR_MS;
  const ids: string[] = [];
  for (const n of [2, 0, 1]) ids[n] = (await publish({ data: n, deliverAt: later + n * 1_000, key: `k${n}` })).id;
  const { messages } = await list();
  expect(messages.map(({ id }: { id: string }) => id)).toEqual(ids);
  expect(messages[0]).toEqual({
    ...{ id: ids[0], state: "pending", topic, type: "message", key: "k0" },
    ...{ deliverAt: later, createdAt: expect.any(Number) },
  });
  expect(await move(ids[0]!, later + 5_000, { gateway: 1 })).toEqual({ result: "ok" });
  const page = await list(`?topic=${topic}&limit=2`);
  expect(page.messages.map(({ id }: { id: string }) => id)).toEqual([ids[1], ids[2]]);
  const rest = await list(`?topic=${topic}&limit=2&cursor=${page.next}`);
  expect(rest.messages.map(({ id }: { id: string }) => id)).toEqual([ids[0]]);

  expect(await cancel(ids[1]!)).toEqual({ result: "ok" });
  expect(await sendNow(ids[1]!)).toEqual({ result: "not_found" });
  expect(await sendNow(ids[2]!, { gateway: 1 })).toEqual({ result: "ok" });
  expect(await cancel(ids[2]!)).toEqual({ result: "already_fired" });
  expect((await received(20_000)).map(({ data }) => data)).toEqual([2]);
  expect((await list()).messages.map(({ id }: { id: string }) => id)).toEqual([ids[0]]);
});

test("a cancel and a send-now at once: one of them, and both know which", async () => {
  for (let i = 0; i < 10; i++) {
    const { id } = await publish({ data: i, deliverAt: Date.now() + HOUR_MS, key: "k" });
    const [cancelled, sent] = await Promise.all([cancel(id), sendNow(id, { gateway: 1 })]);
    const { state } = (await services.call("GET", at(id))).body;
    const outcome = [cancelled.result, sent.result];
    expect(outcome).toEqual(state === "fired" ? ["already_fired", "ok"] : ["ok", "not_found"]);
    if (state === "fired") expect(await received(20_000)).toMatchObject([{ id }]);
    expect(await received(0)).toEqual([]);
    await services.call("POST", `/v1/topics/${topic}/groups/g/seek`, { to: "latest" });
  }
});

test("a dedupId holds while the message waits", async () => {
  const message = { deliverAt: Date.now() + HOUR_MS, key: "a", dedupId: "once" };
  const first = await publish(message);
  expect(await publish({ ...message, deliverAt: Date.now() + 2 * HOUR_MS })).toEqual({ ...first, duplicate: true });
  expect((await list()).messages).toHaveLength(1);
});

test("only who may publish to the topic, and operators, have to do with it", async () => {
  const { id } = await publish({ deliverAt: Date.now() + HOUR_MS });
  const foreign = { authorization: await services.keyWith("publish:another") };
  expect((await list("", foreign)).messages).toEqual([]);
  expect((await services.call("GET", at(id), undefined, foreign)).status).toBe(404);
  for (const answer of [
    await cancel(id, foreign),
    await sendNow(id, foreign),
    await move(id, Date.now() + 1, foreign),
  ]) {
    expect(answer).toEqual({ result: "not_found" });
  }
  const own = { authorization: await services.keyWith(`publish:${topic}`) };
  expect((await list("", own)).messages.map((one: { id: string }) => one.id)).toEqual([id]);
  expect(await cancel(id, own)).toEqual({ result: "ok" });
});

test.each<[string, object, string]>([
  ["more than 40 days ahead", { deliverAt: Date.now() + 41 * 24 * HOUR_MS }, "deliverAt"],
  ["in seconds that look like ms of 1970, negative", { deliverAt: -1 }, "deliverAt"],
  ["as a date", { deliverAt: "2030-01-01T00:00:00Z" }, "deliverAt"],
  ["at a fraction", { deliverAt: 1.5 }, "deliverAt"],
  ["with an id of its own", { deliverAt: Date.now() + HOUR_MS, id: "mine" }, "id"],
])("a message due %s is refused by name", async (_, message, path) => {
  const { status, body } = await services.call("POST", `/v1/topics/${topic}/messages`, {
    messages: [{ data: 1, ...message }],
  });
  expect([status, body.issues?.[0]?.path]).toEqual([400, `messages.0.${path}`]);
});

test("orders and lists that do not fit are refused by name", async () => {
  const { id } = await publish({ deliverAt: Date.now() + HOUR_MS });
  for (const time of [-1, "1", 1.5, null, Date.now() + 41 * 24 * HOUR_MS]) {
    const { status, body } = await services.call("PATCH", at(id), { at: time });
    expect([status, body.issues?.[0]?.path]).toEqual([400, "at"]);
  }
  for (const [query, path] of [
    ["?limit=0", "limit"],
    ["?limit=501", "limit"],
    ["?cursor=x", "cursor"],
    ["?topic=a:b", "topic"],
    ["?state=fired", "state"],
  ] as const) {
    const { status, body } = await services.call("GET", `/v1/delayed${query}`);
    expect([status, body.issues?.[0]?.path]).toEqual([400, path]);
  }
  for (const other of ["x", "01JDG3S8QK7XN4P200A1-99", "__proto__", "01JDG3S8QK7XN4P200A1-0"]) {
    expect(await cancel(other)).toEqual({ result: "not_found" });
  }
  expect(
    (await services.call("POST", "/v1/transactions", { topic, producerGroup: "p", message: { data: 1, deliverAt: 1 } }))
      .body.issues[0].path,
  ).toBe("message.deliverAt");
});
