/** Topics over HTTP: declare, state, publish; and what is refused, by name and limit. */

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { openTestServices, type TestServices } from "../support/services.ts";

let services: TestServices;
let topic: string;
let count = 0;
beforeAll(async () => {
  services = await openTestServices("svc-topics", { gateways: 2 });
});
afterAll(() => services[Symbol.asyncDispose]());
beforeEach(() => {
  count += 1;
  topic = `orders.${count}`;
});

const publish = (messages: unknown, options = {}) =>
  services.call("POST", `/v1/topics/${topic}/messages`, { messages }, options);
const fieldsOf = async (name = topic) => {
  const { keys, redis } = services.store;
  const streams = await Promise.all(
    Array.from({ length: keys.partitions }, (_, partition) =>
      redis.commands.xrange(keys.topic(name, partition), "-", "+"),
    ),
  );
  return streams.flat().map(([, fields]) => fields as [string, string]);
};

test("a topic is declared once, changed, and told of by every gateway", async () => {
  const path = `/v1/topics/${topic}`;
  expect((await services.call("GET", path)).status).toBe(404);
  const first = await services.call("PUT", path, { retentionMs: 60_000 });
  expect(first.status).toBe(201);
  expect(first.body).toEqual({ topic, retentionMs: 60_000, maxLength: 1_000_000, created: expect.any(Number) });
  const again = await services.call("PUT", path, { retentionMs: 60_000 });
  expect([again.status, again.body]).toEqual([200, first.body]);
  expect((await services.call("PUT", path, { maxLength: 50 })).body).toMatchObject({ maxLength: 50 });
  await publish([{ data: 1 }, { data: 2 }]);
  const state = await services.call("GET", path, undefined, { gateway: 1 });
  expect(state.status).toBe(200);
  expect(state.body).toMatchObject({ topic, partitions: 4, length: 2, groups: [] });
  const { body } = await services.call("GET", "/v1/topics", undefined, { gateway: 1 });
  expect(body.topics).toContainEqual({ ...first.body, retentionMs: 259_200_000, maxLength: 50 });
  expect(body.topics.map((one: { topic: string }) => one.topic)).toContain("im.events");
  expect((await services.call("PUT", path)).status).toBe(200);
});

test("a key sees the topics that it has to do with", async () => {
  await services.call("PUT", `/v1/topics/${topic}`, {});
  await services.call("PUT", `/v1/topics/${topic}.other`, {});
  const authorization = await services.keyWith(`consume:${topic}`);
  const { body } = await services.call("GET", "/v1/topics", undefined, { authorization });
  expect(body.topics.map((one: { topic: string }) => one.topic)).toEqual([topic]);
});

test("publishing declares the topic; results come in the order of the messages", async () => {
  const { status, body } = await publish([
    { data: { n: 1 }, key: "a", tag: "new", type: "order.placed", id: "my-id" },
    { data: [], key: "a" },
    { data: null },
  ]);
  expect(status).toBe(200);
  expect(body.results).toEqual([
    { id: "my-id", partition: expect.any(Number) },
    { id: expect.stringMatching(/^[0-9A-Z]{20}$/), partition: body.results[0].partition },
    { id: expect.any(String), partition: expect.any(Number) },
  ]);
  const fields = await fieldsOf();
  expect(fields).toContainEqual(["@t=new my-id order.placed a  ", '{"n":1}']);
  expect(fields).toHaveLength(3);
  expect((await services.call("GET", `/v1/topics/${topic}`)).status).toBe(200);
});

test("a dedupId is one message, whichever gateway takes it and however often", async () => {
  const message = { data: 1, key: "k", dedupId: "once" };
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => publish([message], { gateway: i % 2 })));
  const results = answers.map(({ body }) => body.results[0]);
  expect(new Set(results.map(({ id }) => id)).size).toBe(1);
  expect(results.filter(({ duplicate }) => duplicate === true)).toHaveLength(49);
  expect(await fieldsOf()).toHaveLength(1);
});

test("data is kept as it was written", async () => {
  const data = '{ "b":9007199254740993, "a":1.0, "a":1e400, "c":"\\u00e9\\/" }';
  const body = `{"messages":[{"key":"k","data":${data}},{"data":"}","key":"k"}]}`;
  expect((await services.call("POST", `/v1/topics/${topic}/messages`, body)).status).toBe(200);
  expect((await fieldsOf()).map(([, text]) => text)).toEqual([data, '"}"']);
});

test("a trace travels with the message: its own, or the request's", async () => {
  const own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const request = own.replace("0af7", "1111");
  await publish(
    [
      { data: 1, key: "k", traceparent: own },
      { data: 2, key: "k" },
    ],
    { headers: { traceparent: request } },
  );
  await publish([{ data: 3, key: "k" }], { headers: { traceparent: "nonsense" } });
  expect((await fieldsOf()).map(([header]) => header.split(" ")[4])).toEqual([
    `{"traceparent":"${own}"}`,
    `{"traceparent":"${request}"}`,
    "",
  ]);
});

describe("a batch", () => {
  test("with a bad message in the middle: that one has an error, the others are published", async () => {
    const { status, body } = await publish([{ data: 1 }, { data: 2, key: "a b", size: 3 }, { data: 3 }]);
    expect(status).toBe(200);
    expect(body.results[0]).toHaveProperty("id");
    expect(body.results[1]).toEqual({
      error: {
        code: "INVALID",
        detail: expect.any(String),
        retryable: false,
        issues: expect.arrayContaining([
          { path: "messages.1.key", message: "must be 1 to 256 characters without white space" },
          { path: "messages.1.size", message: "is not a known field" },
        ]),
      },
    });
    expect(await fieldsOf()).toHaveLength(2);
  });

  test("whose messages are all bad is refused as a whole", async () => {
    const { status, body } = await publish([{ key: "a" }, { data: 1, tag: "" }]);
    expect([status, body.code]).toEqual([400, "INVALID"]);
    expect(body.issues.map(({ path }: { path: string }) => path)).toEqual(["messages.0.data", "messages.1.tag"]);
    expect(await fieldsOf()).toHaveLength(0);
  });

  test("of 500 is taken, of 501 or none refused", async () => {
    const batch = (size: number) => publish(Array.from({ length: size }, (_, n) => ({ data: n })));
    expect((await batch(500)).body.results).toHaveLength(500);
    for (const size of [0, 501]) {
      const { status, body } = await batch(size);
      expect([status, body.issues]).toEqual([
        400,
        [{ path: "messages", message: "must be a list of 1 to 500 messages" }],
      ]);
    }
    expect(await fieldsOf()).toHaveLength(500);
  });

  test("of more than 1 MiB is refused; a message of more than 256 KiB is refused by itself", async () => {
    const large = { data: "a".repeat(262_144) };
    const { body } = await publish([large, { data: 1 }]);
    expect(body.results[0].error).toMatchObject({ code: "TOO_LARGE", issues: [{ path: "messages.0.data" }] });
    expect(body.results[1]).toHaveProperty("id");
    expect((await publish([large])).body.code).toBe("TOO_LARGE");
    expect((await publish([{ data: "a".repeat(262_142) }])).status).toBe(200);
    const { status, body: refused } = await publish(Array.from({ length: 5 }, () => large));
    expect([status, refused.code]).toEqual([413, "TOO_LARGE"]);
  });
});

test("a topic whose group stands still answers 429 with Retry-After, and takes messages again once it has gone on", async () => {
  await services.call("PUT", `/v1/topics/${topic}`, { maxLength: 40 });
  await services.call("PUT", `/v1/topics/${topic}/groups/g`, { mode: "concurrent", start: "first" });
  const batch = Array.from({ length: 10 }, (_, n) => ({ data: n, key: "k" }));
  expect((await publish(batch)).status).toBe(200);
  const full = await publish(batch);
  expect([full.status, full.body.code, full.body.retryable]).toEqual([429, "RATE_LIMITED", true]);
  expect(Number(full.headers.get("retry-after"))).toBeGreaterThan(0);
  // Of another partition there is room: each message is judged by itself.
  const other = ["a", "b", "c", "d", "e"].find(
    (key) => services.store.keys.partitionOf(key) !== services.store.keys.partitionOf("k"),
  )!;
  const mixed = await publish([
    { data: 1, key: "k" },
    { data: 2, key: other },
  ]);
  expect(mixed.status).toBe(200);
  expect(mixed.body.results[0].error).toMatchObject({ code: "RATE_LIMITED", retryAfterMs: expect.any(Number) });
  expect(mixed.body.results[1]).toHaveProperty("id");
  expect(await fieldsOf()).toHaveLength(11);
  const path = `/v1/topics/${topic}/groups/g`;
  const { body } = await services.call("POST", `${path}/receive`, { max: 100 });
  await services.call("POST", `${path}/ack`, { tokens: body.deliveries.map(({ token }: { token: string }) => token) });
  expect((await publish(batch)).status).toBe(200);
});

test.each<[string, object, string]>([
  ["no data", {}, "data"],
  ["an empty key", { data: 1, key: "" }, "key"],
  ["a key with a line break", { data: 1, key: "a\nb" }, "key"],
  ["a key of 257 characters", { data: 1, key: "a".repeat(257) }, "key"],
  ["a key that is a number", { data: 1, key: 7 }, "key"],
  ["a key with a lone surrogate", { data: 1, key: "\ud800" }, "key"],
  ["a tag with a semicolon", { data: 1, tag: "a;g=other" }, "tag"],
  ["a tag of 65 characters", { data: 1, tag: "a".repeat(65) }, "tag"],
  ["an empty dedupId", { data: 1, dedupId: "" }, "dedupId"],
  ["a dedupId of 257 characters", { data: 1, dedupId: "a".repeat(257) }, "dedupId"],
  ["expireAt as a date", { data: 1, expireAt: "2030-01-01" }, "expireAt"],
  ["expireAt -1", { data: 1, expireAt: -1 }, "expireAt"],
  ["expireAt 1.5", { data: 1, expireAt: 1.5 }, "expireAt"],
  ["expireAt beyond time", { data: 1, expireAt: 2 ** 53 }, "expireAt"],
  ["an id with @", { data: 1, id: "@t=x" }, "id"],
  ["an id with a blank", { data: 1, id: "a b" }, "id"],
  ["a type with a blank", { data: 1, type: "a b" }, "type"],
  ["a type of 129 characters", { data: 1, type: "a".repeat(129) }, "type"],
  ["a traceparent of another form", { data: 1, traceparent: "x" }, "traceparent"],
  ["a sequence of its own", { data: 1, sequence: 7 }, "sequence"],
  ["a partition of its own", { data: 1, partition: 0 }, "partition"],
  ["__proto__", JSON.parse('{"data":1,"__proto__":{"x":1}}'), "__proto__"],
  ["constructor", { data: 1, constructor: {} }, "constructor"],
])("a message with %s is refused by name", async (_, message, path) => {
  const { status, body } = await publish([message]);
  expect([status, body.code, body.issues?.[0]?.path]).toEqual([400, "INVALID", `messages.0.${path}`]);
});

test.each<[string, string, number]>([
  ["nothing", "", 400],
  ["a list", "[]", 400],
  ["null", "null", 400],
  ["no messages", "{}", 400],
  ["messages that are an object", '{"messages":{"0":{"data":1}}}', 400],
  ["messages that are no objects", '{"messages":[1]}', 400],
  ["an unknown field", '{"messages":[{"data":1}],"topic":"im.events"}', 400],
  ["JSON cut off", '{"messages":[{"data":1}', 400],
  ["data nested too deep", `{"messages":[{"data":${"[".repeat(40)}${"]".repeat(40)}}]}`, 400],
])("a body that is or has %s is refused", async (_, body, status) => {
  const answer = await services.call("POST", `/v1/topics/${topic}/messages`, body, {
    headers: { "content-type": "application/json" },
  });
  expect([answer.status, await fieldsOf()]).toEqual([status, []]);
});

test.each(["a:b", "{x}", "a%2Fb", "%00", "a".repeat(65), "..%2f..", "a b"])(
  "a topic named %s is refused",
  async (name) => {
    const path = `/v1/topics/${name}`;
    const messages = [{ data: 1 }];
    for (const answer of [
      await services.call("PUT", path, {}),
      await services.call("GET", path),
      await services.call("POST", `${path}/messages`, { messages }),
    ]) {
      expect(answer.status).toBeOneOf([400, 404]);
    }
  },
);

test.each(["im.events", "im.commands", "im.unheard-of"])(
  "%s is the product's: not published to, not declared",
  async (name) => {
    const messages = [{ data: { type: "archived" } }];
    expect((await services.call("POST", `/v1/topics/${name}/messages`, { messages })).body.code).toBe("FORBIDDEN");
    expect((await services.call("PUT", `/v1/topics/${name}`, {})).body.code).toBe("FORBIDDEN");
  },
);

test.each<[string, object]>([
  ["retentionMs", { retentionMs: 999 }],
  ["retentionMs", { retentionMs: 1e12 }],
  ["maxLength", { maxLength: 0 }],
  ["maxLength", { maxLength: "5" }],
  ["schema", { schema: {} }],
])("a declaration is refused for its %s", async (path, settings) => {
  const { status, body } = await services.call("PUT", `/v1/topics/${topic}`, settings);
  expect([status, body.issues?.[0]?.path]).toEqual([400, path]);
});
