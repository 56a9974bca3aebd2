/** Dead letters over HTTP: pages, filters, redriving within the call and in the background. */

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { Bury, type Message, openQueue, type Queue } from "../../lib/mq/index.ts";
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
  services = await openTestServices("svc-dead");
  const { redis, keys, metrics } = services.store;
  queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" });
});
afterAll(async () => {
  for (const service of running) await service.stop(AbortSignal.abort());
  await services[Symbol.asyncDispose]();
});
beforeEach(() => {
  count += 1;
  topic = `dead.${count}`;
});

const path = (rest = "") => `/v1/topics/${topic}/groups/g/dead-letters${rest}`;
const list = async (query = "") => (await services.call("GET", path(query))).body;

/** Publishes the messages, and lets the group bury them one after the other, or take them once `isWell`. */
async function bury(messages: readonly object[], isWell = () => false): Promise<Message<unknown>[]> {
  await services.call("PUT", `/v1/topics/${topic}/groups/g`, { mode: "ordered" });
  await services.call("POST", `/v1/topics/${topic}/messages`, { messages });
  const taken: Message<unknown>[] = [];
  const service = queue.consume(await queue.catalog.topicOf(topic), {
    group: "g",
    mode: "ordered",
    handle(message) {
      if (!isWell()) throw new Bury(`cannot take ${message.raw}`);
      taken.push(message);
    },
  });
  running.push(service);
  await service.start();
  await eventually(async () => expect((await list("?limit=200")).deadLetters).toHaveLength(messages.length));
  return taken;
}

test("pages are newest first, and go on from their end", async () => {
  await bury(Array.from({ length: 5 }, (_, n) => ({ data: n, key: "k", tag: "vip", id: `m${n}` })));
  const first = await list("?limit=2");
  expect(first.deadLetters.map(({ data }: { data: number }) => data)).toEqual([4, 3]);
  expect(first.deadLetters[0]).toMatchObject({
    messageId: "m4",
    key: "k",
    tag: "vip",
    type: "message",
    reason: "bury",
    lastError: expect.stringContaining("cannot take 4"),
    attempts: [{ at: expect.any(Number), member: "m", error: expect.any(String) }],
    redrives: 0,
  });
  const second = await list(`?limit=2&before=${first.next}`);
  expect(second.deadLetters.map(({ data }: { data: number }) => data)).toEqual([2, 1]);
  const third = await list(`?before=${second.next}`);
  expect(third.deadLetters.map(({ data }: { data: number }) => data)).toEqual([0]);
  expect(third.next).toBeUndefined();
});

test("they are found by key and by error text, and show their data as it was published", async () => {
  await bury([
    { data: { big: 1 }, key: "a" },
    { data: "x", key: "b" },
  ]);
  expect((await list("?key=b")).deadLetters.map(({ data }: { data: unknown }) => data)).toEqual(["x"]);
  expect((await list("?error=big")).deadLetters).toHaveLength(1);
  expect((await list("?error=nothing")).deadLetters).toEqual([]);
});

test("a redrive says beforehand what it would do, and brings them back to their group once", async () => {
  let isWell = false;
  const taken = await bury(
    [
      { data: 1, key: "k" },
      { data: 2, key: "k" },
      { data: 3, key: "other" },
    ],
    () => isWell,
  );
  isWell = true;
  const ids: string[] = (await list()).deadLetters.map(({ id }: { id: string }) => id);
  const dry = await services.call("POST", path("/redrive"), { ids, dryRun: true });
  expect([dry.status, dry.body.matched]).toEqual([200, 3]);
  expect(taken).toEqual([]);
  const filter = { key: "k", error: "cannot take" };
  const { status, body } = await services.call("POST", path("/redrive"), { filter });
  expect([status, body.matched]).toEqual([200, 2]);
  await eventually(() => expect(taken.map(({ data }) => data)).toEqual([1, 2]));
  const again = await services.call("POST", path("/redrive"), { ids });
  const results = again.body.results.map(({ result }: { result: string }) => result);
  expect(results.sort()).toEqual(["not_found", "not_found", "redriven"]);
  await eventually(() => expect(taken).toHaveLength(3));
  expect(taken.map(({ redrives }) => redrives)).toEqual([1, 1, 1]);
});

test("at a rate it runs in the background, and tells how far it has come", async () => {
  await bury([{ data: 1 }, { data: 2 }]);
  const { status, body } = await services.call("POST", path("/redrive"), { filter: {}, perSecond: 1_000 });
  expect(status).toBe(202);
  const at = path(`/redrives/${body.redrive}`);
  expect((await services.call("GET", at)).body).toMatchObject({ id: body.redrive, state: "running", perSecond: 1_000 });
  expect((await services.call("GET", at.replace("groups/g", "groups/h"))).status).toBe(404);
  await eventually(async () => {
    await queue.deadLetters.runRedrives();
    expect((await services.call("GET", at)).body.state).toBe("done");
  });
});

test("groups of the product are an operator's to look after", async () => {
  const events = "/v1/topics/im.events/groups/archive/dead-letters";
  const authorization = await services.keyWith("consume:im.events");
  expect((await services.call("GET", events, undefined, { authorization })).body.code).toBe("FORBIDDEN");
  expect((await services.call("GET", events)).status).toBe(200);
});

test.each<[string, string, string]>([
  ["limit 0", "?limit=0", "limit"],
  ["limit 201", "?limit=201", "limit"],
  ["limit text", "?limit=ten", "limit"],
  ["an empty key", "?key=", "key"],
  ["an empty error", "?error=", "error"],
  ["an error of 257 characters", `?error=${"a".repeat(257)}`, "error"],
  ["before nothing", "?before=x", "before"],
  ["before SQL", "?before=1' OR 1=1", "before"],
  ["an unknown field", "?sort=asc", "sort"],
])("a list with %s is refused by name", async (_, query, field) => {
  const { status, body } = await services.call("GET", path(query));
  expect([status, body.code, body.issues?.[0]?.path]).toEqual([400, "INVALID", field]);
});

test("a redrive that names neither ids nor a filter means all of them; protocol.md has both as optional", async () => {
  const answer = await services.call("POST", path("/redrive"), { dryRun: true });
  expect([answer.status, answer.body]).toEqual([200, { matched: 0, results: [] }]);
});

test.each<[string, object, string]>([
  ["ids and a filter", { ids: ["0-1-0"], filter: {} }, "ids"],
  ["no ids", { ids: [] }, "ids"],
  ["5 001 ids", { ids: Array.from({ length: 5_001 }, (_, i) => `0-${i}-0`) }, "ids"],
  ["a message's id", { ids: ["01JDG3S8QK7XN4P200A1"] }, "ids.0"],
  ["a filter by more", { filter: { type: "x" } }, "filter.type"],
  ["a time as text", { filter: { before: "1" } }, "filter.before"],
  ["no rate", { filter: {}, perSecond: 0 }, "perSecond"],
  ["too high a rate", { filter: {}, perSecond: 1_001 }, "perSecond"],
  ["a dry run that is text", { filter: {}, dryRun: "yes" }, "dryRun"],
])("a redrive with %s is refused by name", async (_, body, field) => {
  const answer = await services.call("POST", path("/redrive"), body);
  expect([answer.status, answer.body.code, answer.body.issues?.[0]?.path]).toEqual([400, "INVALID", field]);
});
