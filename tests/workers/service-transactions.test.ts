/** Half messages over HTTP: prepare, commit, roll back, checks by pull and by signed call, races, and who may see what. */

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { worker as extlogic } from "../../workers/extlogic/main.ts";
import { eventually } from "../support/eventually.ts";
import { openReceiver } from "../support/receiver.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

let services: TestServices;
let topic: string;
let producerGroup: string;
let count = 0;
beforeAll(async () => {
  services = await openTestServices("svc-half", { gateways: 2, env: { SKEIN_OUTBOUND_PRIVATE: "1" } });
  await services.chat.startRole(extlogic, "extlogic");
});
afterAll(() => services[Symbol.asyncDispose]());
beforeEach(async () => {
  count += 1;
  topic = `half.${count}`;
  producerGroup = `shop.${count}`;
  await services.call("PUT", `/v1/topics/${topic}/groups/g`, { mode: "ordered", start: "first" });
});

const call = (path: string, body?: object, gateway = 0) =>
  services.call("POST", `/v1/transactions${path}`, body, { gateway });
async function prepare(message: object, options: object = {}): Promise<string> {
  const { status, body } = await call("", { topic, message, producerGroup, ...options });
  expect([status, body]).toEqual([201, { id: expect.any(String), state: "prepared" }]);
  return body.id;
}
const get = (id: string, options = {}) => services.call("GET", `/v1/transactions/${id}`, undefined, options);
async function received(waitMs = 0): Promise<unknown[]> {
  const { body } = await services.call("POST", `/v1/topics/${topic}/groups/g/receive`, { max: 10, waitMs });
  return body.deliveries.map(({ event }: { event: { data: unknown } }) => event.data);
}
const checks = (options: object = {}, name = producerGroup) =>
  services.call("PUT", `/v1/producer-groups/${name}/checks/receive`, options);
const answer = (id: string, given: string, name = producerGroup) =>
  services.call("POST", `/v1/producer-groups/${name}/checks/${id}`, { answer: given });

test("a prepared message is seen by nobody; its commit appends it once, whoever repeats it", async () => {
  const id = await prepare({ data: { order: 7 }, key: "a", type: "order.placed" });
  expect(await received(200)).toEqual([]);
  expect((await get(id)).body).toMatchObject({
    ...{ id, state: "prepared", topic, producerGroup, checks: 0, preparedAt: expect.any(Number) },
    event: { type: "order.placed", partitionkey: "a", data: { order: 7 } },
  });
  const { body } = await services.call("GET", "/v1/transactions?state=prepared");
  expect(body.transactions.map((one: { id: string }) => one.id)).toContain(id);
  const commits = await Promise.all([0, 1, 0, 1].map((gateway) => call(`/${id}/commit`, undefined, gateway)));
  for (const commit of commits) expect([commit.status, commit.body.state]).toEqual([200, "committed"]);
  expect(await received(20_000)).toEqual([{ order: 7 }]);
  expect(await received(200)).toEqual([]);
  const late = await call(`/${id}/rollback`);
  expect([late.status, late.body.code, late.body.state]).toEqual([409, "CONFLICT", "committed"]);
});

test("a rolled back message is never seen", async () => {
  const id = await prepare({ data: 1 });
  expect((await call(`/${id}/rollback`)).body).toMatchObject({ id, state: "rolled_back" });
  const late = await call(`/${id}/commit`);
  expect([late.status, late.body.state]).toEqual([409, "rolled_back"]);
  expect(await received(200)).toEqual([]);
});

test("a commit and a rollback at once: one of them, and the loser learns which", async () => {
  for (let i = 0; i < 10; i++) {
    const id = await prepare({ data: i, key: "k" });
    const answers = await Promise.all([call(`/${id}/commit`), call(`/${id}/rollback`, undefined, 1)]);
    const { state } = (await get(id)).body;
    expect(["committed", "rolled_back"]).toContain(state);
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 409]);
    for (const { body } of answers) expect(body.state).toBe(state);
  }
});

test("the data of a half message is kept as it was written", async () => {
  const data = '{ "n":9007199254740993, "x":1.0 }';
  const { body } = await services.call(
    "POST",
    "/v1/transactions",
    `{"topic":"${topic}","producerGroup":"p","message":{"key":"k","data":${data}}}`,
  );
  await call(`/${body.id}/commit`);
  const { keys, redis } = services.store;
  const [[, fields]] = (await redis.commands.xrange(keys.topic(topic, keys.partitionOf("k")), "-", "+")) as [
    [string, string[]],
  ];
  expect(fields[1]).toBe(data);
});

test("checks are pulled and answered; unknown is asked again", async () => {
  const id = await prepare({ data: { order: 1 }, key: "a" }, { firstCheckMs: 0 });
  const { status, body } = await checks({ waitMs: 10_000, max: 1 });
  expect(status).toBe(200);
  expect(body.checks).toMatchObject([
    { id, state: "prepared", topic, producerGroup, checks: 1, event: { data: { order: 1 } } },
  ]);
  expect((await answer(id, "unknown")).body).toEqual({ id, state: "prepared" });
  expect((await answer(id, "COMMIT")).body).toEqual({ id, state: "committed" });
  expect((await answer(id, "rollback")).status).toBe(409);
  expect(await received(20_000)).toEqual([{ order: 1 }]);
  expect((await checks()).body).toEqual({ checks: [] });
  expect((await answer(id, "commit", "another-group")).body.code).toBe("NOT_FOUND");
});

test("a check URL is called, signed with the producer group's secret, and does what it answers", async () => {
  const { body: group } = await services.call("GET", `/v1/producer-groups/${producerGroup}`);
  expect(group).toEqual({ producerGroup, checkSecret: expect.stringMatching(/^whsec_/) });
  const answers: Record<string, string> = { yes: "commit", no: "ROLLBACK" };
  await using receiver = openReceiver({
    secrets: [group.checkSecret],
    answer: ({ event }) => Response.json({ answer: answers[event.data as string] ?? "unknown" }),
  });
  // The receiver reads the event of a webhook; of a check it is a member of the body.
  const options = { firstCheckMs: 0, checkUrl: receiver.url };
  const id = await prepare({ data: "yes" }, options);
  await eventually(() => expect(receiver.calls.length).toBeGreaterThan(0));
  const [first] = receiver.calls;
  expect(first!.signedBy).toEqual([group.checkSecret]);
  expect(first!.id).toBe(`${id}.1`);
  expect(JSON.parse(first!.body)).toMatchObject({ id, producerGroup, topic, checks: 1, event: { data: "yes" } });
  expect((await get(id)).body.state).toBe("prepared");
});

test("a check URL's answers decide, nonsense does not", async () => {
  const reply = { body: "" };
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response(reply.body) });
  const options = { firstCheckMs: 0, checkUrl: `http://127.0.0.1:${server.port}/check` };
  for (const [body, state] of [
    ['{"answer":"commit"}', "committed"],
    ['{"answer":"ROLLBACK"}', "rolled_back"],
    ['{"answer":"maybe"}', "prepared"],
    ["commit", "prepared"],
    ['["commit"]', "prepared"],
  ] as const) {
    reply.body = body;
    const id = await prepare({ data: body }, options);
    await eventually(async () => expect((await get(id)).body).toMatchObject({ state, checks: 1 }));
    if (state === "prepared") await call(`/${id}/rollback`);
  }
  await server.stop(true);
});

test("what an expired one becomes is an operator's to say", async () => {
  const listed = await services.call("GET", "/v1/transactions?state=expired&limit=5");
  expect([listed.status, listed.body.transactions]).toEqual([200, []]);
  const id = await prepare({ data: 1 });
  const { status, body } = await call(`/${id}/resume`);
  expect([status === 200 || status === 409, body.state]).toEqual([true, "prepared"]);
});

test("only who may publish to the topic, and operators, see a transaction or decide it", async () => {
  const id = await prepare({ data: "secret" });
  const foreign = { authorization: await services.keyWith("publish:another") };
  const own = { authorization: await services.keyWith(`publish:${topic}`) };
  const post = (path: string, body: object | undefined, options: object) => services.call("POST", path, body, options);
  for (const answered of [
    await get(id, foreign),
    await post(`/v1/transactions/${id}/commit`, undefined, foreign),
    await post(`/v1/transactions/${id}/rollback`, undefined, foreign),
    await post(`/v1/transactions/${id}/resume`, undefined, foreign),
    await post(`/v1/producer-groups/${producerGroup}/checks/${id}`, { answer: "commit" }, foreign),
  ]) {
    const nowhere = await get("01JDG3S8QK7XN4P200A1-0", foreign);
    expect([answered.status, answered.body.code]).toEqual([nowhere.status, nowhere.body.code]);
    expect(answered.body.detail).toBe(nowhere.body.detail);
  }
  expect((await post("/v1/transactions", { topic, message: { data: 1 }, producerGroup }, foreign)).body.code).toBe(
    "FORBIDDEN",
  );
  expect((await get(id, own)).body.state).toBe("prepared");
  expect((await post(`/v1/transactions/${id}/commit`, undefined, own)).body.state).toBe("committed");
});

test("the product's topics take no half messages", async () => {
  const { body } = await call("", { topic: "im.commands", message: { data: {} }, producerGroup });
  expect(body.code).toBe("FORBIDDEN");
});

test.each<[string, object, string]>([
  ["no topic", { topic: undefined }, "topic"],
  ["no message", { message: undefined }, "message"],
  ["a message without data", { message: { key: "k" } }, "message.data"],
  ["a message with more", { message: { data: 1, size: 2 } }, "message.size"],
  ["no producer group", { producerGroup: undefined }, "producerGroup"],
  ["a producer group with #", { producerGroup: "#http" }, "producerGroup"],
  ["a first check before now", { firstCheckMs: -1 }, "firstCheckMs"],
  ["a first check in more than an hour", { firstCheckMs: 3_600_001 }, "firstCheckMs"],
  ["a check URL by file", { checkUrl: "file:///etc/passwd" }, "checkUrl"],
  ["a check URL with a user", { checkUrl: "https://a:b@example.com/" }, "checkUrl"],
  ["a check URL that is none", { checkUrl: "x" }, "checkUrl"],
  ["an unknown field", { state: "committed" }, "state"],
])("a preparation with %s is refused by name", async (_, change, path) => {
  const { status, body } = await call("", { topic, message: { data: 1 }, producerGroup, ...change });
  expect([status, body.code, body.issues?.[0]?.path]).toEqual([400, "INVALID", path]);
});

test.each<[string, string, string]>([
  ["no state", "", "state"],
  ["another state", "?state=committed", "state"],
  ["limit 0", "?state=prepared&limit=0", "limit"],
  ["limit 201", "?state=prepared&limit=201", "limit"],
  ["a cursor that is none", "?state=prepared&cursor=x", "cursor"],
])("a list with %s is refused by name", async (_, query, path) => {
  const { status, body } = await services.call("GET", `/v1/transactions${query}`);
  expect([status, body.issues?.[0]?.path]).toEqual([400, path]);
});

test("answers and ids that are none are refused, and what is not there is not found", async () => {
  const id = await prepare({ data: 1 });
  for (const given of ["yes", "", "Commit ", 1, null]) {
    const { status, body } = await services.call("POST", `/v1/producer-groups/${producerGroup}/checks/${id}`, {
      answer: given,
    });
    expect([status, body.issues[0].path]).toEqual([400, "answer"]);
  }
  for (const other of ["x", "01JDG3S8QK7XN4P200A1", "01JDG3S8QK7XN4P200A1-99", "__proto__", "01JDG3S8QK7XN4P200A1-0"]) {
    expect([other, (await call(`/${other}/commit`)).body.code]).toEqual([other, "NOT_FOUND"]);
  }
  expect((await checks({ max: 101 })).body.issues[0].path).toBe("max");
  expect((await checks({ waitMs: 20_001 })).body.issues[0].path).toBe("waitMs");
});
