/** Broadcasts over HTTP, with everything real: extlogic's processes are killed meanwhile, and every recipient has the message once. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { directConversationId } from "../../lib/id.ts";
import { history } from "../../lib/im/index.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestServices, type TestServices } from "../support/services.ts";
import { startUnit, type TestUnit } from "../support/unit.ts";

let services: TestServices;
let call: TestServices["call"];
const units: TestUnit[] = [];
const folder = mkdtempSync(join(tmpdir(), "skein-broadcasts-"));

async function startExtlogic(): Promise<TestUnit> {
  const env = { SKEIN_WINBACK_DAYS: "30", SKEIN_WINBACK_TITLE: "Tea", SKEIN_WINBACK_TEXT: "is ready" };
  const unit = await startUnit({ ...services.store, env, instance: `test.ext${units.length}` }, folder, "extlogic");
  units.push(unit);
  return unit;
}

/** Not seen for longer than that, before any extlogic starts. */
const LONG_AWAY = "long-away";

beforeAll(async () => {
  services = await openTestServices("broadcasts");
  ({ call } = services);
  const { redis, keys } = services.store;
  await redis.commands.zadd(keys.users(keys.partitionOf(LONG_AWAY)), Date.now() - 31 * 86_400_000, LONG_AWAY);
  await Promise.all([startExtlogic(), startExtlogic()]);
});
afterAll(async () => {
  for (const unit of units) await unit[Symbol.asyncDispose]();
  await services[Symbol.asyncDispose]();
});

const users = (name: string, count: number) => Array.from({ length: count }, (_, i) => `${name}-${i}`);

/** The texts in the direct conversation of the two. */
async function textsTo(user: string, by: string): Promise<unknown[]> {
  const conversation = await directConversationId(by, user);
  const chat = makeChat(services.store);
  const { messages } = await history(chat, user, { conversation, limit: 50 }).catch(() => ({ messages: [] }));
  return messages.map(({ from, body }) => (from === by ? body.text : from));
}

/** A runner that is killed within a step holds its lease for 5 s. */
const WITHIN_MS = 20_000;

const untilDone = (id: string) =>
  eventually(async () => {
    const { body } = await call("GET", `/v1/broadcasts/${id}`);
    expect(body.state).toBe("done");
    return body;
  }, WITHIN_MS);

/** What is published of the user on a topic of his partition. */
async function rowsOf(topic: string, user: string): Promise<string[]> {
  const { redis, keys } = services.store;
  const rows = await redis.commands.xrange(keys.topic(topic, keys.partitionOf(user)), "-", "+");
  return rows.map(([, [header]]) => header!.split(" ")).flatMap(([, type, key]) => (key === user ? [type!] : []));
}

test("to a list, with both runners killed on the way: each once, and progress is right", async () => {
  const to = users("listed", 400);
  const wanted = { id: "b1", audience: { users: to }, body: { text: "hello" }, perSecond: 800 };
  const created = await call("POST", "/v1/broadcasts", wanted);
  expect(created).toMatchObject({ status: 202, body: { id: "b1", audience: { users: 400 } } });
  // As of the answer: it takes little more than a second.
  expect(created.body.state).toBeOneOf(["running", "done"]);
  const totalIs = (count: number) =>
    eventually(async () => {
      expect((await call("GET", "/v1/broadcasts/b1")).body.total).toBeGreaterThan(count);
    }, WITHIN_MS);
  await totalIs(30);
  const starting = startExtlogic();
  await units[0]!.kill();
  await totalIs(120);
  await units[1]!.kill();
  await starting;
  const body = await untilDone("b1");
  expect(body).toMatchObject({ total: 400, sent: 400, refused: {}, perSecond: 800 });
  expect(body.endedAt).toBeGreaterThanOrEqual(body.startedAt + 490);
  for (const user of to) expect(await textsTo(user, "skein")).toEqual(["hello"]);
  expect(await call("POST", "/v1/broadcasts", wanted)).toMatchObject({ status: 200, body: { state: "done" } });
  expect(await call("POST", "/v1/broadcasts", { ...wanted, body: { text: "other" } })).toMatchObject({ status: 409 });
});

test("as a user, to the members of a conversation and to everybody; who has blocked him gets nothing, and that is told", async () => {
  const { chat } = services;
  const conversation = await chat.group("ann", "bob", "cid", "ops");
  await chat.http("bob", "PUT", "/v1/me/blocks/ops");
  const news = { audience: { conversation }, type: "news", body: { headline: "tea is ready" } };
  const { body: created } = await call("POST", "/v1/broadcasts", news, { headers: { "skein-user": "ops" } });
  expect(created).toMatchObject({ by: "ops", audience: { conversation }, type: "news", perSecond: 500 });
  expect(await untilDone(created.id)).toMatchObject({ total: 3, sent: 2, refused: { FORBIDDEN: 1 } });
  expect(await textsTo("bob", "ops")).toEqual([]);
  const toAnn = `/v1/conversations/${await directConversationId("ops", "ann")}/messages`;
  const { messages } = (await (await chat.http("ann", "GET", toAnn)).json()) as { messages: object[] };
  expect(messages).toMatchObject([{ from: "ops", type: "news", body: { headline: "tea is ready" }, seq: 1 }]);

  const client = await chat.connect("dan");
  const all = { audience: { all: true }, body: { text: "to all" }, perSecond: 5_000 };
  const { body: toAll } = await call("POST", "/v1/broadcasts", all);
  expect(await client.next("message")).toMatchObject({ message: { from: "skein", body: { text: "to all" } } });
  await untilDone(toAll.id);
  for (const user of ["ann", "bob", "cid", "dan", "ops"]) expect(await textsTo(user, "skein")).toEqual(["to all"]);
});

test("paused, resumed, cancelled, listed; of one that has ended the truth", async () => {
  const wanted = { id: "slow", audience: { users: users("slow", 100) }, body: { text: "slow" }, perSecond: 1 };
  await call("POST", "/v1/broadcasts", wanted);
  const order = (name: string) => call("POST", `/v1/broadcasts/slow/${name}`);
  for (const _ of [1, 2]) expect(await order("pause")).toMatchObject({ status: 200, body: { state: "paused" } });
  expect(await order("resume")).toMatchObject({ status: 200, body: { state: "running" } });
  expect(await order("cancel")).toMatchObject({ status: 200, body: { state: "cancelled" } });
  expect(await order("resume")).toMatchObject({ status: 409, body: { code: "CONFLICT", state: "cancelled" } });
  expect((await call("POST", "/v1/broadcasts/none/pause")).status).toBe(404);
  const { body } = await call("GET", "/v1/broadcasts");
  expect(body.broadcasts[0]).toMatchObject({ id: "slow", state: "cancelled", audience: { users: 100 } });
});

test.each([
  ["audience", { audience: {} }],
  ["audience", { audience: { all: true, users: ["ann"] } }],
  ["audience.users", { audience: { users: [] } }],
  ["audience.users", { audience: { users: users("many", 10_001) } }],
  ["audience.users.1", { audience: { users: ["ann", "not valid"] } }],
  ["body", { body: { words: "hello" } }],
  ["perSecond", { perSecond: 5_001 }],
  ["id", { id: "a".repeat(51) }],
  ["extra", { extra: 1 }],
])("refused: a wrong %s is named", async (path, change) => {
  const wanted = { audience: { all: true }, body: { text: "hello" }, ...change };
  const { status, body } = await call("POST", "/v1/broadcasts", wanted);
  expect([status, body.code, body.issues[0].path]).toEqual([400, "INVALID", path]);
});

test("the largest list of the longest ids fits", async () => {
  const longest = Array.from({ length: 10_000 }, (_, i) => `${i}`.padStart(128, "u"));
  const wanted = { id: "large", audience: { users: longest }, body: { text: "hello" }, perSecond: 1 };
  expect(await call("POST", "/v1/broadcasts", wanted)).toMatchObject({
    status: 202,
    body: { audience: { users: 10_000 } },
  });
  await call("POST", "/v1/broadcasts/large/cancel");
});

test("extlogic wins back who was not seen for the days of the setting, once, with a push", async () => {
  await eventually(async () => expect(await rowsOf("im.users", LONG_AWAY)).toEqual(["im.user.winback"]));
  expect(await rowsOf("im.push", LONG_AWAY)).toEqual(["im.push.notice"]);
});
