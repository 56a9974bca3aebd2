/** Webhooks end to end: HTTP declares and publishes, extlogic posts, a receiver answers. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { freePort } from "../../lib/free-port.ts";
import { startSkein } from "../../scripts/harness.ts";
import { worker as extlogic } from "../../workers/extlogic/main.ts";
import { eventually } from "../support/eventually.ts";
import { openReceiver } from "../support/receiver.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

const SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

let services: TestServices;
let count = 0;
beforeAll(async () => {
  services = await openTestServices("webhooks", { env: { SKEIN_OUTBOUND_PRIVATE: "1" } });
  await services.chat.startRole(extlogic, "extlogic");
});
afterAll(() => services[Symbol.asyncDispose]());

/** A topic of the test's own, and what services do with it. */
function openHooked() {
  count += 1;
  const topic = `hooked.${count}`;
  const path = `/v1/topics/${topic}`;
  return {
    topic,
    path,
    async declare(group: string, settings: object) {
      const { status, body } = await services.call("PUT", `${path}/groups/${group}`, { start: "first", ...settings });
      if (status >= 300) throw new Error(`${status} ${JSON.stringify(body)}`);
      return body;
    },
    async publish(...messages: object[]): Promise<string[]> {
      const { body } = await services.call("POST", `${path}/messages`, { messages });
      return body.results.map(({ id }: { id: string }) => id);
    },
    deadLetters: async (group: string) =>
      (await services.call("GET", `${path}/groups/${group}/dead-letters`)).body.deadLetters,
  };
}

test("each message is posted once as a signed CloudEvent, in the order of its key", async () => {
  const { topic, declare, publish } = openHooked();
  await using receiver = openReceiver({ secrets: [SECRET] });
  const declared = await declare("g", { mode: "ordered", webhook: { url: receiver.url, secret: SECRET } });
  expect(declared.webhook).toEqual({ url: receiver.url });
  expect(JSON.stringify(declared)).not.toContain(SECRET);
  const ids = await publish(...Array.from({ length: 20 }, (_, n) => ({ data: { n }, key: "k" })));
  await eventually(() => expect(receiver.calls).toHaveLength(20));
  expect(receiver.calls.map(({ event }) => event.data)).toEqual(Array.from({ length: 20 }, (_, n) => ({ n })));
  expect(receiver.calls.map(({ id }) => id)).toEqual(ids);
  for (const { headers, signedBy, event } of receiver.calls) {
    expect(headers.get("content-type")).toBe("application/cloudevents+json");
    expect(signedBy).toEqual([SECRET]);
    expect(event).toMatchObject({ specversion: "1.0", source: `/topics/${topic}`, partitionkey: "k" });
  }
});

test("a failure is tried again under the same id by the group's ladder, then it is a dead letter", async () => {
  const { declare, publish, deadLetters } = openHooked();
  await using receiver = openReceiver({ secrets: [SECRET], answer: () => new Response(null, { status: 500 }) });
  const webhook = { url: receiver.url, secret: SECRET };
  await declare("g", { mode: "concurrent", webhook, maxAttempts: 3, backoff: [50] });
  const [id] = await publish({ data: 1 });
  const [letter] = await eventually(async () => {
    const letters = await deadLetters("g");
    expect(letters).toHaveLength(1);
    return letters;
  });
  expect(letter).toMatchObject({ messageId: id, data: 1, lastError: expect.stringContaining("answered 500") });
  expect(receiver.calls.map((call) => call.id)).toEqual([id!, id!, id!]);
});

test("a redirect is a failure and is not followed", async () => {
  const { declare, publish, deadLetters } = openHooked();
  await using target = openReceiver({ secrets: [SECRET] });
  await using receiver = openReceiver({ secrets: [SECRET], answer: () => Response.redirect(target.url, 307) });
  await declare("g", { mode: "concurrent", webhook: { url: receiver.url, secret: SECRET }, maxAttempts: 1 });
  await publish({ data: 1 });
  await eventually(async () => expect(await deadLetters("g")).toHaveLength(1));
  expect(target.calls).toHaveLength(0);
});

test("a receiver that asks for time is given it, and no attempt is counted", async () => {
  const { declare, publish, deadLetters } = openHooked();
  await using receiver = openReceiver({
    secrets: [SECRET],
    answer: (_, calls) =>
      new Response(null, calls < 4 ? { status: 429, headers: { "retry-after": "1" } } : { status: 200 }),
  });
  await declare("g", { mode: "concurrent", webhook: { url: receiver.url, secret: SECRET }, maxAttempts: 1 });
  await publish({ data: 1 });
  await eventually(() => expect(receiver.calls).toHaveLength(4));
  const [first, second] = receiver.calls;
  expect(second!.atMs - first!.atMs).toBeGreaterThanOrEqual(990);
  expect(await deadLetters("g")).toEqual([]);
});

test("410 pauses the group with its reason; resumed, it goes on where it was", async () => {
  const { path, declare, publish, deadLetters } = openHooked();
  let isGone = true;
  const taken: unknown[] = [];
  await using receiver = openReceiver({
    secrets: [SECRET],
    answer({ event }) {
      if (!isGone) taken.push(event.data);
      return new Response(null, { status: isGone ? 410 : 200 });
    },
  });
  await declare("g", { mode: "ordered", webhook: { url: receiver.url, secret: SECRET }, maxAttempts: 1 });
  await publish({ data: 1, key: "k" }, { data: 2, key: "k" });
  await eventually(async () => {
    const { body } = await services.call("GET", path);
    expect(body.groups[0].paused).toEqual({ at: expect.any(Number), reason: "the webhook answered 410 Gone" });
  });
  await publish({ data: 3, key: "other" });
  // Who has not heard of the pause asks again every 2 s: once he may, when he stood still.
  await eventually(async () => {
    const calls = receiver.calls.length;
    await Bun.sleep(2_500);
    expect(receiver.calls.length).toBe(calls);
  });
  isGone = false;
  expect((await services.call("POST", `${path}/groups/g/resume`)).body).toEqual({ result: "ok" });
  await eventually(() => expect(taken.toSorted()).toEqual([1, 2, 3]));
  expect(await deadLetters("g")).toEqual([]);
});

test("both secrets sign while one replaces the other, and the change takes effect while messages flow", async () => {
  const { declare, publish } = openHooked();
  const old = "the-plain-old-secret";
  await using receiver = openReceiver({ secrets: [old, SECRET] });
  const declareWith = (secret: string | string[]) =>
    declare("g", { mode: "ordered", webhook: { url: receiver.url, secret } });
  await declareWith(old);
  await publish({ data: 0, key: "k" });
  await eventually(() => expect(receiver.calls).toHaveLength(1));
  expect(receiver.calls[0]!.signedBy).toEqual([old]);
  await declareWith([old, SECRET]);
  let n = 0;
  await eventually(async () => {
    n += 1;
    await publish({ data: n, key: "k" });
    expect(receiver.calls.at(-1)!.signedBy).toEqual([old, SECRET]);
  });
  // A call that the change cut off comes again, under its id.
  const once = () => [...new Map(receiver.calls.map(({ id, event }) => [id, event.data])).values()];
  await eventually(() => expect(once()).toEqual(Array.from({ length: n + 1 }, (_, i) => i)));
});

test("only messages with the group's tags are posted", async () => {
  const { declare, publish } = openHooked();
  await using receiver = openReceiver({ secrets: [SECRET] });
  await declare("g", { mode: "ordered", tags: ["vip"], webhook: { url: receiver.url, secret: SECRET } });
  await publish(
    { data: 1, key: "k" },
    { data: 2, key: "k", tag: "vip" },
    { data: 3, key: "k", tag: "other" },
    { data: 4, key: "k", tag: "vip" },
  );
  await eventually(() => expect(receiver.calls.map(({ event }) => event.data)).toEqual([2, 4]));
});

test("a webhook that is taken away gets no more, and the group goes on from its place when it is back", async () => {
  const { topic, declare, publish } = openHooked();
  await using receiver = openReceiver({ secrets: [SECRET] });
  const webhook = { url: receiver.url, secret: SECRET };
  await declare("g", { mode: "ordered", webhook });
  await publish({ data: 1, key: "k" });
  await eventually(() => expect(receiver.calls).toHaveLength(1));
  await declare("g", { mode: "ordered" });
  await eventually(async () => {
    const members = await services.store.redis.commands.hkeys(services.store.keys.groupMembers(topic, "g"));
    expect(members).toEqual([]);
  });
  await publish({ data: 2, key: "k" });
  await declare("g", { mode: "ordered", webhook });
  await eventually(() => expect(receiver.calls.map(({ event }) => event.data)).toEqual([1, 2]));
});

test("a receiver that is away costs a few attempts and no dead letters; when it is back everything comes", async () => {
  const { declare, publish, deadLetters } = openHooked();
  const port = freePort();
  const url = `http://127.0.0.1:${port}/hook`;
  await declare("g", { mode: "concurrent", webhook: { url, secret: SECRET }, maxAttempts: 12, backoff: [100] });
  await publish(...Array.from({ length: 30 }, (_, n) => ({ data: n })));
  await Bun.sleep(2_500);
  await using receiver = openReceiver({ secrets: [SECRET], port });
  await eventually(() => expect(new Set(receiver.calls.map(({ event }) => event.data)).size).toBe(30));
  expect(await deadLetters("g")).toEqual([]);
});

test("one hanging receiver does not hold up the others", async () => {
  const { declare, publish } = openHooked();
  await using hanging = openReceiver({ secrets: [SECRET], answer: () => new Promise<never>(() => undefined) });
  await using quick = openReceiver({ secrets: [SECRET] });
  await declare("slow", { mode: "concurrent", webhook: { url: hanging.url, secret: SECRET } });
  await declare("quick", { mode: "concurrent", webhook: { url: quick.url, secret: SECRET } });
  await publish(...Array.from({ length: 50 }, (_, n) => ({ data: n })));
  await eventually(() => expect(quick.calls).toHaveLength(50));
  expect(hanging.calls.length).toBeLessThanOrEqual(16);
});

test.each<[string, object, string]>([
  ["a mail address", { url: "mailto:a@b", secret: SECRET }, "webhook.url"],
  ["a user name", { url: "https://user@example.com/", secret: SECRET }, "webhook.url"],
  ["no secret", { url: "https://example.com/" }, "webhook.secret"],
])("a webhook with %s is refused by name", async (_, webhook, field) => {
  const { path } = openHooked();
  const { status, body } = await services.call("PUT", `${path}/groups/g`, { mode: "ordered", webhook });
  expect([status, body.issues?.[0]?.path]).toEqual([400, field]);
});

test("without the operator's setting a webhook must be public", async () => {
  const { path } = openHooked();
  const strict = await services.chat.startGateway({ env: { SKEIN_OUTBOUND_PRIVATE: "0" } });
  const put = async (url: string) =>
    fetch(`${strict.url}${path}/groups/g`, {
      method: "PUT",
      headers: { authorization: `Bearer ${services.chat.serviceKey}`, "content-type": "application/json" },
      body: JSON.stringify({ mode: "ordered", webhook: { url, secret: SECRET } }),
    });
  for (const url of [
    "http://example.com/",
    "https://127.0.0.1/",
    "https://2130706433/",
    "https://[::1]/",
    "https://example.com:6379/",
  ]) {
    const response = await put(url);
    expect([url, response.status]).toEqual([url, 400]);
    expect(((await response.json()) as { issues: { path: string }[] }).issues[0]!.path).toBe("webhook.url");
  }
  expect((await put("https://example.com/hook")).status).toBe(201);
});

test("processes that send webhooks share the work, and one that is killed takes nothing with it", async () => {
  await using skein = await startSkein({
    roles: ["gateway", "logic", "archive", "extlogic=2"],
    processes: true,
    env: { SKEIN_OUTBOUND_PRIVATE: "1" },
  });
  const call = async (method: string, path: string, body: object) => {
    const headers = { authorization: `Bearer ${skein.serviceKey}`, "content-type": "application/json" };
    const response = await fetch(skein.url + path, { method, headers, body: JSON.stringify(body) });
    expect(response.status).toBeLessThan(300);
    return response.json();
  };
  await using receiver = openReceiver({
    secrets: [SECRET],
    async answer() {
      await Bun.sleep(5);
      return new Response(null, { status: 204 });
    },
  });
  const group = "/v1/topics/shared/groups/g";
  const webhook = { url: receiver.url, secret: SECRET };
  await call("PUT", group, { mode: "ordered", start: "first", leaseMs: 2_000, webhook });
  const total = 400;
  for (let n = 0; n < total; n += 100) {
    const messages = Array.from({ length: 100 }, (_, i) => ({ data: n + i, key: `k${(n + i) % 40}` }));
    await call("POST", "/v1/topics/shared/messages", { messages });
  }
  await eventually(() => expect(receiver.calls.length).toBeGreaterThan(50));
  skein.kill("extlogic", "SIGKILL");
  const first = () => [...new Map(receiver.calls.map(({ id, event }) => [id, event])).values()];
  await eventually(() => expect(first()).toHaveLength(total), 30_000);
  for (let k = 0; k < 40; k++) {
    const ofKey = first().flatMap(({ partitionkey, data }) => (partitionkey === `k${k}` ? [data as number] : []));
    expect(ofKey).toEqual([...ofKey].sort((a, b) => a - b));
  }
  expect(receiver.calls.every(({ signedBy }) => signedBy.length === 1)).toBe(true);
});
