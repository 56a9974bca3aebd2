/** Reading along by server-sent events: exact after every cut, whichever gateway; bounded; gone with the gateway. */

import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { type Authenticator, createApp } from "../../lib/http/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createTails } from "../../workers/gateway/service-tail.ts";
import { type EventStream, openEventStream } from "../support/event-stream.ts";
import { eventually } from "../support/eventually.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

const services: TestServices = await openTestServices("svc-tail", { gateways: 2 });
let topic: string;
let count = 0;
const open: EventStream[] = [];
afterAll(async () => {
  for (const stream of open) stream.close();
  await services[Symbol.asyncDispose]();
});
beforeEach(async () => {
  count += 1;
  topic = `tailed.${count}`;
  await services.call("PUT", `/v1/topics/${topic}`, {});
});

async function tail(
  query = "",
  { gateway = 0, headers = {} }: { gateway?: number; headers?: Record<string, string> } = {},
) {
  const url = `${services.chat.gateways[gateway]!.url}/v1/topics/${topic}/tail${query}`;
  const stream = await openEventStream(url, { authorization: `Bearer ${services.chat.serviceKey}`, ...headers });
  open.push(stream);
  return stream;
}
const publish = (...messages: object[]) => services.call("POST", `/v1/topics/${topic}/messages`, { messages });
const numbers = (from: number, to: number, keys = 5) =>
  Array.from({ length: to - from + 1 }, (_, i) => ({ data: { n: from + i }, key: `k${(from + i) % keys}` }));
const seen = (stream: EventStream): number[] => stream.events.map(({ data }) => JSON.parse(data).data.n);

test("every message of the topic comes as a CloudEvent, from now on or from the beginning", async () => {
  await publish(...numbers(1, 10));
  const [fromNow, fromFirst] = [await tail(), await tail("?after=first", { gateway: 1 })];
  expect(fromNow.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
  await eventually(() => expect(fromNow.lastId).not.toBe(""));
  await publish({ data: { n: 11 }, key: "k", tag: "vip", type: "order.placed" });
  await eventually(() => expect(seen(fromNow)).toEqual([11]));
  expect(JSON.parse(fromNow.events[0]!.data)).toMatchObject({
    specversion: "1.0",
    source: `/topics/${topic}`,
    type: "order.placed",
    partitionkey: "k",
    tag: "vip",
  });
  await eventually(() =>
    expect(seen(fromFirst).sort((a, b) => a - b)).toEqual(Array.from({ length: 11 }, (_, i) => i + 1)),
  );
});

test("after a time: what came since", async () => {
  await publish(...numbers(1, 5));
  await Bun.sleep(5);
  const since = Date.now();
  await publish(...numbers(6, 8));
  const stream = await tail(`?after=${since}`);
  await eventually(() => expect(seen(stream).sort()).toEqual([6, 7, 8]));
});

test("cut off at any event and opened again anywhere, nothing is missing and nothing twice", async () => {
  const total = 400;
  const publishing = (async () => {
    for (let n = 1; n <= total; n += 20) {
      await publish(...numbers(n, n + 19));
      await Bun.sleep(10);
    }
  })();
  const all: number[] = [];
  let lastId = "";
  for (let round = 0; all.length < total; round++) {
    // Half by the header of a browser, half by the query of a script.
    const stream =
      round === 0
        ? await tail("?after=first")
        : round % 2 === 0
          ? await tail(`?after=${encodeURIComponent(lastId)}`, { gateway: 1 })
          : await tail("?after=first", { headers: { "last-event-id": lastId } });
    const wanted = Math.min(total - all.length, 1 + (round % 7) * 9);
    await eventually(() => expect(stream.events.length).toBeGreaterThanOrEqual(wanted));
    stream.close();
    // It is cut within what has come: the rest was never looked at.
    for (const { id, data } of stream.events.slice(0, wanted)) {
      all.push(JSON.parse(data).data.n);
      lastId = id;
    }
  }
  await publishing;
  expect([...all].sort((a, b) => a - b)).toEqual(Array.from({ length: total }, (_, i) => i + 1));
  for (let k = 0; k < 5; k++) {
    const ofKey = all.filter((n) => n % 5 === k);
    expect(ofKey).toEqual([...ofKey].sort((a, b) => a - b));
  }
});

test("a client that was cut off before its first event loses nothing either", async () => {
  const first = await tail();
  await eventually(() => expect(first.lastId).not.toBe(""));
  first.close();
  await publish(...numbers(1, 3));
  const again = await tail("", { headers: { "last-event-id": first.lastId }, gateway: 1 });
  await eventually(() => expect(seen(again).sort()).toEqual([1, 2, 3]));
});

test("data with line breaks and separators comes whole; what is for one group alone, or over, does not come", async () => {
  const stream = await tail();
  await eventually(() => expect(stream.lastId).not.toBe(""));
  const data = '{\r\n "n":\n\n1,\t"text":"id: x\\n\\ndata: y\u2028" }';
  await services.call(
    "POST",
    `/v1/topics/${topic}/messages`,
    `{"messages":[{"key":"k","data":${data}},{"key":"k","data":{"n":9},"expireAt":1}]}`,
  );
  await publish({ data: { n: 2 }, key: "k" });
  await eventually(() => expect(seen(stream)).toEqual([1, 2]));
  expect(JSON.parse(stream.events[0]!.data).data).toEqual(JSON.parse(data));
});

test("a client that comes back after trimming is told of the gap", async () => {
  await publish(...numbers(1, 50));
  const first = await tail("?after=first");
  await eventually(() => expect(first.events.length).toBe(50));
  first.close();
  const { keys, redis } = services.store;
  const begun = first.events[9]!.id;
  for (let partition = 0; partition < keys.partitions; partition++) {
    await redis.commands.xtrim(keys.topic(topic, partition), "MAXLEN", "=", 1);
  }
  const again = await tail(`?after=${encodeURIComponent(begun)}`);
  await eventually(() => expect(again.events.length).toBeGreaterThan(1));
  expect(again.events[0]!.event).toBe("gap");
  const whole = await tail(`?after=${encodeURIComponent(first.events.at(-1)!.id)}`);
  await publish({ data: { n: 51 }, key: "k" });
  await eventually(() => expect(whole.events.length).toBeGreaterThan(0));
  expect(whole.events.map(({ event }) => event)).toEqual(["message"]);
});

test("the product's events may be read along, its inner topics not", async () => {
  topic = "im.events";
  const stream = await tail();
  await eventually(() => expect(stream.lastId).not.toBe(""));
  await services.chat.group("ada", "bob");
  await eventually(() =>
    expect(stream.events.map(({ data }) => JSON.parse(data).type)).toContain("im.conversation.created"),
  );
  expect((await services.call("GET", "/v1/topics/im.commands/tail")).body.code).toBe("FORBIDDEN");
});

test.each<[string, string]>([
  ["nothing", "?after="],
  ["another topic's cursor", "?after=other~~~~"],
  ["too few places", "?after=TOPIC~~"],
  ["too many places", "?after=TOPIC~~~~~~~"],
  ["a place that is none", "?after=TOPIC~$~~~"],
  ["a negative time", "?after=-5"],
  ["SQL", "?after=1' OR 1=1"],
  ["the newest, as Redis says it", "?after=$"],
])("a tail after %s is refused by name", async (_, query) => {
  const { status, body } = await services.call("GET", `/v1/topics/${topic}/tail${query.replace("TOPIC", topic)}`);
  expect([status, body.code, body.issues?.[0]?.path]).toEqual([400, "INVALID", "after"]);
});

test("an unknown topic is not found, and no tail is left of what was refused", async () => {
  for (let i = 0; i < 70; i++) {
    expect((await services.call("GET", "/v1/topics/nowhere/tail")).status).toBe(404);
    expect((await services.call("GET", `/v1/topics/${topic}/tail?after=x`)).status).toBe(400);
  }
  const stream = await tail();
  expect(stream.status).toBe(200);
});

test("tails are bounded, and one that is closed makes room", async () => {
  const own = await services.chat.startGateway();
  const gateway = services.chat.gateways.indexOf(own);
  const streams: EventStream[] = [];
  for (let i = 0; i < 64; i++) streams.push(await tail("", { gateway }));
  const refused = await services.call("GET", `/v1/topics/${topic}/tail`, undefined, { gateway });
  expect([refused.status, refused.body.code]).toEqual([429, "RATE_LIMITED"]);
  streams[0]!.close();
  await eventually(async () => expect((await tail("", { gateway })).status).toBe(200));
  // The gateway stops although they are open, and they end.
  const stoppedMs = performance.now();
  await own.stop();
  expect(performance.now() - stoppedMs).toBeLessThan(10_000);
  await Promise.all(streams.map(({ ended }) => ended));
});

test("a client that reads nothing holds up nobody", async () => {
  const { port } = services.chat;
  const socket = await Bun.connect({ hostname: "127.0.0.1", port, socket: { data: () => undefined } });
  socket.write(
    `GET /v1/topics/${topic}/tail HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${services.chat.serviceKey}\r\n\r\n`,
  );
  socket.pause();
  const other = await tail();
  await eventually(() => expect(other.lastId).not.toBe(""));
  const large = "a".repeat(100_000);
  for (let n = 1; n <= 20; n++) await publish(...Array.from({ length: 10 }, () => ({ data: { n, large } })));
  await eventually(() => expect(other.events.length).toBe(200));
  socket.terminate();
});

describe("a client", () => {
  const { redis, keys, metrics } = services.store;
  const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" });
  const auth = { authenticate: async () => ({ kind: "service", key: "k", scopes: new Set(["consume:*"]) }) };

  /** The route alone, with less patience than in service. */
  function serve(patience: { heartbeatMs: number; slowMs: number }) {
    const app = createApp({ log: silentLog, clock: systemClock });
    for (const route of createTails(queue, silentLog, patience).routes)
      route.mount(app, auth as unknown as Authenticator);
    return app;
  }
  const readersOpen = async () => String(await redis.commands.client("LIST")).split(`tail/${topic}`).length - 1;

  test("hears from a silent topic that the server is still there", async () => {
    const response = await serve({ heartbeatMs: 20, slowMs: 10_000 }).request(`/v1/topics/${topic}/tail`, {}, {});
    const reader = response.body!.getReader();
    let text = "";
    for (let i = 0; i < 5; i++) text += new TextDecoder().decode((await reader.read()).value);
    expect(text.split(": still here")).toHaveLength(5);
    await reader.cancel();
    await eventually(async () => expect(await readersOpen()).toBe(0));
  });

  test("that takes nothing makes nobody hold more than some of what there is", async () => {
    const large = "a".repeat(100_000);
    for (let i = 0; i < 16; i++) await publish(...Array.from({ length: 9 }, () => ({ data: large })));
    const sentBytes = async () => Number(/total_net_output_bytes:(\d+)/.exec(await redis.commands.info("stats"))![1]);
    const before = await sentBytes();
    const response = await serve({ heartbeatMs: 10_000, slowMs: 1_000 }).request(
      `/v1/topics/${topic}/tail?after=first`,
      {},
      {},
    );
    const reader = response.body!.getReader();
    // Where it begins, and the first events.
    for (let i = 0; i < 2; i++) await reader.read();
    await eventually(async () => expect(await readersOpen()).toBe(0));
    // Of 14 MB: two lots in hand of whoever writes, and what was read ahead.
    expect((await sentBytes()) - before).toBeLessThan(4_000_000);
    await reader.cancel();
  });

  test("that takes nothing is let go, and what was held for it is freed", async () => {
    const response = await serve({ heartbeatMs: 10_000, slowMs: 100 }).request(
      `/v1/topics/${topic}/tail?after=first`,
      {},
      {},
    );
    const reader = response.body!.getReader();
    await reader.read();
    await publish(...numbers(1, 300));
    await eventually(async () => expect(await readersOpen()).toBe(0));
    let isDone = false;
    for (let i = 0; i < 10 && !isDone; i++) isDone = (await reader.read()).done;
    expect(isDone).toBe(true);
  });
});
