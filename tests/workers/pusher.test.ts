/**
 * The pusher end to end: chat, delivery, bursts, and a push service that decrypts what it is sent. Bursts are ended by hand, for
 * nobody here waits 15 s; that they end by themselves then is the delayed message's due time.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { createBursts, imPush, imTopics } from "../../lib/im/index.ts";
import { openQueue, type Queue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { BURSTS } from "../../lib/redis/index.ts";
import type { RunningServices } from "../../lib/service.ts";
import { worker as pusher } from "../../workers/pusher/main.ts";
import { openApple } from "../support/apple.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { openPushService, type PushService } from "../support/push-service.ts";
import { openReceiver } from "../support/receiver.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

let store: TestStore;
let chat: TestChat;
let service: PushService;
let queue: Queue;
let running: RunningServices;
let apple: Awaited<ReturnType<typeof openApple>>;
const folder = temporaryFolder("pusher");

beforeAll(async () => {
  store = await openTestStore("pusher");
  apple = await openApple([200]);
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(join(folder.path, "apns.p8"), privateKey.export({ type: "pkcs8", format: "pem" }));
  const env = {
    ...{ SKEIN_OUTBOUND_PRIVATE: "1", SKEIN_APNS_ORIGIN: apple.origin, SKEIN_APNS_TOPIC: "com.example.chat" },
    ...{ SKEIN_APNS_KEY_FILE: join(folder.path, "apns.p8"), SKEIN_APNS_KEY_ID: "KEY", SKEIN_APNS_TEAM_ID: "TEAM" },
  };
  chat = await openTestChat(store, { env });
  running = await chat.startRole(pusher, "pusher");
  service = openPushService();
  queue = openQueue({ ...store, clock: systemClock, log: silentLog, member: "test.push", topics: imTopics });
});

afterAll(async () => {
  await service[Symbol.asyncDispose]();
  await chat[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
  apple.close();
  folder[Symbol.dispose]();
});

let count = 0;
/** Users of one test alone, in a group of theirs; those behind the first with a browser of their name. */
async function group(...names: readonly string[]) {
  count += 1;
  const users = names.map((name) => `${name}${count}`);
  for (const user of users.slice(1)) await register(user, user);
  return { users: users as [string, string, string], conversation: await chat.group(...users) };
}

const put = (user: string, device: string, body: object) => chat.http(user, "PUT", `/v1/me/push/${device}`, body);

async function register(user: string, name: string, device = "phone"): Promise<void> {
  const answered = await put(user, device, { kind: "webpush", subscription: service.subscribe(name) });
  expect([answered.status, await answered.json()]).toEqual([200, {}]);
}

async function say(user: string, conversation: string, text: string): Promise<number> {
  count += 1;
  const body = { clientId: `c${count}`, body: { text } };
  const answered = await chat.http(user, "POST", `/v1/conversations/${conversation}/messages`, body);
  return ((await answered.json()) as { seq: number }).seq;
}

/** Of the user's partition, by `<user>/<conversation>`, and those that end by their id. */
function burstsOf(user: string) {
  const { key } = queue.own(user, BURSTS);
  return store.redis.commands.hgetall(key);
}

/** The open burst, once it has come to `seq`: the id of its end. */
async function burst(user: string, conversation: string, seq: number): Promise<string> {
  let id = "";
  await eventually(async () => {
    const [end = "", last] = ((await burstsOf(user))[`${user}/${conversation}`] ?? "").split(" ");
    expect(last).toBe(String(seq));
    id = end;
  });
  return id;
}

/** Ends the burst now; resolves when its end is committed. */
async function end(user: string, conversation: string, seq: number): Promise<void> {
  const id = await burst(user, conversation, seq);
  await queue.delayed.sendNow(id);
  await eventually(async () => {
    const left = await burstsOf(user);
    expect([left[`${user}/${conversation}`], left[id]]).toEqual([undefined, undefined]);
  });
}

/** All that is in im.push is done. */
async function quiet(): Promise<void> {
  await eventually(async () => {
    const { groups } = await queue.describe(imPush);
    expect(groups.map(({ lag }) => lag)).toEqual([0, 0]);
  });
}

/** What a dead pusher has in hand of the user's partition is for the taking. */
async function expireLeases(user: string): Promise<void> {
  const { commands } = store.redis;
  const stream = store.keys.topic("im.push", store.keys.partitionOf(user));
  const held = (await commands.xpending(stream, "devices", "-", "+", 10)) as [id: string, member: string][];
  for (const [id, member] of held) {
    await commands.call("XCLAIM", stream, "devices", member, 0, id, "IDLE", 60_000, "JUSTID");
  }
}

const textsOf = (name: string) => service.of(name).map(({ said }) => said.text);

describe("a burst", () => {
  test("whose end was cancelled gives way to the next", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    const lost = await burst(bob, conversation, await say(ann, conversation, "never told"));
    expect(await queue.delayed.cancel(lost)).toBe("ok");
    await end(bob, conversation, await say(ann, conversation, "told"));
    await eventually(() => expect(textsOf(bob)).toEqual([`${ann}: told`]));
  });

  test("of ten messages is one push to each device of who is away, decrypted, under one id", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    await register(bob, `${bob}-laptop`, "laptop");
    let last = 0;
    for (let i = 1; i <= 10; i++) last = await say(ann, conversation, `text ${i}`);
    await end(bob, conversation, last);
    await eventually(() => expect([service.of(bob).length, service.of(`${bob}-laptop`).length]).toEqual([1, 1]));
    const [[phone], [laptop]] = [service.of(bob), service.of(`${bob}-laptop`)];
    expect(phone!.said).toMatchObject({ conversation, seq: 10, title: ann, text: `${ann}: text 10`, unread: 10 });
    expect(laptop!.said).toEqual(phone!.said);
    expect(phone!.headers.get("topic")).toBe(laptop!.headers.get("topic"));
    await quiet();
    expect(service.of(ann)).toEqual([]);
    expect([service.of(bob).length, service.of(`${bob}-laptop`).length]).toEqual([1, 1]);
  });

  test("of who is away is due in a second, of who is connected in 15; read on another device within them it is nothing", async () => {
    const { users, conversation } = await group("ann", "bob", "cid");
    const [ann, bob, cid] = users;
    using client = await chat.connect(bob);
    const seq = await say(ann, conversation, "are you there?");
    const waitOf = async (user: string) => {
      const { deliverAt, createdAt } = (await queue.delayed.get(await burst(user, conversation, seq)))!;
      return deliverAt - createdAt;
    };
    expect([await waitOf(bob), await waitOf(cid)]).toEqual([15_000, 1_000]);
    await client.request("read", { conversation, seq });
    await end(bob, conversation, seq);
    await quiet();
    expect(service.of(bob)).toEqual([]);

    // Connected, and not read.
    await say(ann, conversation, "hello?");
    await end(bob, conversation, seq + 1);
    await eventually(() => expect(textsOf(bob)).toEqual([`${ann}: hello?`]));
  });

  test("is told as it is by then: edited, without what was recalled, hidden or blocked", async () => {
    const { users, conversation } = await group("ann", "bob", "cid");
    const [ann, bob, cid] = users;
    const first = await say(ann, conversation, "fisrt");
    const second = await say(ann, conversation, "second");
    const third = await say(ann, conversation, "third");
    const fourth = await say(cid, conversation, "fourth");
    const path = (seq: number) => `/v1/conversations/${conversation}/messages/${seq}`;
    await chat.http(ann, "PATCH", path(first), { body: { text: "first" } });
    await chat.http(ann, "DELETE", path(second));
    await chat.http(bob, "DELETE", `${path(third)}?for=me`);
    await chat.http(bob, "PUT", `/v1/me/blocks/${cid}`);
    await end(bob, conversation, fourth);
    await eventually(() => expect(textsOf(bob)).toEqual([`${ann}: first`]));
  });

  test("is nothing to who has muted the conversation or was taken out of it", async () => {
    const { users, conversation } = await group("ann", "bob", "cid");
    const [ann, bob, cid] = users;
    await chat.http(bob, "PUT", `/v1/conversations/${conversation}/mute`, { until: Date.now() + 60_000 });
    const seq = await say(ann, conversation, "quiet");
    await burst(cid, conversation, seq);
    await chat.http(ann, "DELETE", `/v1/conversations/${conversation}/members/${cid}`);
    for (const user of [bob, cid]) await end(user, conversation, seq);
    await quiet();
    expect([...service.of(bob), ...service.of(cid)]).toEqual([]);
  });

  test("whose pusher died between its close and its end is pushed by the next, and one that died over a call is repeated under its id", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    const seq = await say(ann, conversation, "lost?");
    const id = await burst(bob, conversation, seq);
    // As the dead one left it; what comes now is another burst.
    await createBursts(store.redis.commands, store.keys, systemClock).close(bob, conversation, id);
    const later = await say(ann, conversation, "and then");
    await burst(bob, conversation, later);
    service.answer(bob, new Promise(() => undefined));
    await queue.delayed.sendNow(id);
    await eventually(() => expect(textsOf(bob)).toEqual([`${ann}: and then`]));
    await running.stop({ shutdownMs: 1 });
    await expireLeases(bob);
    running = await chat.startRole(pusher, "pusher2");
    await eventually(() => expect(textsOf(bob)).toHaveLength(2));
    expect(new Set(service.of(bob).map(({ said }) => said.id)).size).toBe(1);
    await end(bob, conversation, later);
    await eventually(() => expect(textsOf(bob)).toHaveLength(3));
  });
});

async function devicesOf(user: string) {
  const answered = await chat.http(user, "GET", "/v1/me/devices");
  return ((await answered.json()) as { devices: { id: string; push?: string }[] }).devices;
}

describe("a device's answer", () => {
  test("410 takes its registration away, and its alone", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    await register(bob, `${bob}-laptop`, "laptop");
    service.answer(bob, new Response(null, { status: 410 }));
    await end(bob, conversation, await say(ann, conversation, "hello"));
    await eventually(async () =>
      expect(await devicesOf(bob)).toEqual([expect.objectContaining({ id: "laptop", push: "webpush" })]),
    );
    expect(service.of(`${bob}-laptop`)).toHaveLength(1);
  });

  test("503 with Retry-After is for later, and costs no other device a second push", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    await register(bob, `${bob}-laptop`, "laptop");
    const busy = () => new Response(null, { status: 503, headers: { "retry-after": "0" } });
    service.answer(bob, busy(), busy());
    await end(bob, conversation, await say(ann, conversation, "hello"));
    await eventually(() => expect(service.of(bob)).toHaveLength(3));
    await quiet();
    expect(new Set(service.of(bob).map(({ said }) => said.id)).size).toBe(1);
    expect(service.of(`${bob}-laptop`)).toHaveLength(1);
  });

  test("400 is a dead letter at once, with what the service said", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    service.answer(bob, new Response(null, { status: 400 }));
    const seq = await say(ann, conversation, "hello");
    await end(bob, conversation, seq);
    await eventually(async () => {
      const { letters } = await queue.deadLetters.list("im.push", "devices");
      expect(letters).toMatchObject([
        { key: bob, reason: "bury", lastError: "Bury: webpush: the push service answered 400", attemptCount: 1 },
      ]);
      // What was said lies in no letter.
      expect(JSON.parse(letters[0]!.data)).toEqual({ user: bob, device: "phone", conversation, seq });
    });
    // The trace of the chat's message tells of its pushes.
    const { deliveries } = await queue.trace(service.of(bob)[0]!.said.id);
    expect(deliveries).toContainEqual(expect.objectContaining({ topic: "im.push", state: "dead_letter" }));
    expect(deliveries).toContainEqual(expect.objectContaining({ topic: "im.events", group: "delivery" }));
  });
});

describe("a notice", () => {
  test("goes to all devices at once, cut to what fits, and once when it is published twice", async () => {
    const { users } = await group("ann", "bob");
    const [, bob] = users;
    await register(bob, `${bob}-laptop`, "laptop");
    const data = {
      id: `r${count}`,
      users: [bob, "nobody"],
      title: "Reminder",
      text: `call ann ${"\u0001".repeat(5_000)}`,
    };
    for (let i = 0; i < 2; i++) await queue.publish(imPush, { type: "im.push.notice", data });
    await eventually(() => expect([service.of(bob).length, service.of(`${bob}-laptop`).length]).toEqual([1, 1]));
    await quiet();
    const text = `call ann ${"\u0001".repeat(240)}…`;
    expect(service.of(bob).map(({ said }) => said)).toEqual([{ id: data.id, title: "Reminder", text }]);
  });
});

describe("a registration", () => {
  const codeOf = async (answered: Response) => {
    const { code, issues } = (await answered.json()) as { code: string; issues: { path: string; message: string }[] };
    return [code, ...issues.map(({ path }) => path)];
  };

  test("of a webhook is called signed with a secret of its own, told once", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    await chat.http(bob, "DELETE", "/v1/me/push/phone");
    const secrets: string[] = [];
    await using receiver = openReceiver({ secrets });
    for (let i = 0; i < 2; i++) {
      const answered = await put(bob, "tv", { kind: "webhook", url: receiver.url });
      secrets.push(((await answered.json()) as { secret: string }).secret);
    }
    expect(await devicesOf(bob)).toEqual([{ id: "tv", online: false, connections: 0, push: "webhook" }] as never);
    await end(bob, conversation, await say(ann, conversation, "hello"));
    await eventually(() => expect(receiver.calls.map(({ signedBy }) => signedBy)).toEqual([[secrets[1]!]]));
    expect(JSON.parse(receiver.calls[0]!.body)).toMatchObject({ type: "im.push", user: bob, device: "tv", seq: 1 });
  });

  test("of a phone is pushed to by Apple", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    await chat.http(bob, "DELETE", "/v1/me/push/phone");
    expect((await put(bob, "iphone", { kind: "apns", token: "abc", topic: "com.example.other" })).status).toBe(200);
    await end(bob, conversation, await say(ann, conversation, "hello"));
    await eventually(() => expect(apple.seen).toHaveLength(1));
    const { headers, body } = apple.seen[0]!;
    expect(headers).toMatchObject({ ":path": "/3/device/abc", "apns-topic": "com.example.other" });
    expect(JSON.parse(body).aps).toMatchObject({ alert: { title: ann, body: `${ann}: hello` }, badge: 1 });
  });

  test("of a browser is its last user's: who was there before and did not log out is pushed nothing, and has none any more", async () => {
    const { users, conversation } = await group("ann", "bob", "cid");
    const [ann, bob, cid] = users;
    const shared = service.subscribe(`${bob}-shared`);
    for (const user of [bob, cid]) await put(user, "kiosk", { kind: "webpush", subscription: shared });
    // Again, as an app does at each start.
    await put(cid, "kiosk", { kind: "webpush", subscription: shared });
    const seq = await say(ann, conversation, "whose?");
    await end(bob, conversation, seq);
    await eventually(async () => expect((await devicesOf(bob)).map(({ id }) => id)).toEqual(["phone"]));
    expect(service.of(`${bob}-shared`)).toEqual([]);
    await end(cid, conversation, seq);
    await eventually(() => expect(textsOf(`${bob}-shared`)).toEqual([`${ann}: whose?`]));
    expect((await devicesOf(cid)).map(({ id }) => id).sort()).toEqual(["kiosk", "phone"]);
  });

  test("ends with its device, by itself, and is taken of no kind that is not set up", async () => {
    const { users, conversation } = await group("ann", "bob");
    const [ann, bob] = users;
    using client = await chat.connect(bob);
    await register(bob, `${bob}-laptop`, "laptop");
    expect((await devicesOf(bob)).map(({ id, push }) => [id, push])).toContainEqual(["phone", "webpush"]);
    await chat.http(bob, "DELETE", "/v1/me/devices/phone");
    await chat.http(bob, "DELETE", "/v1/me/push/laptop");
    expect((await devicesOf(bob)).filter(({ push }) => push !== undefined)).toEqual([]);
    await say(ann, conversation, "hello");
    await client.next("message");
    await quiet();
    expect([(await burstsOf(bob))[`${bob}/${conversation}`], service.of(bob)]).toEqual([undefined, []]);
    expect(await codeOf(await put(bob, "phone", { kind: "fcm", token: "abc" }))).toEqual(["INVALID", "kind"]);
  });

  test("has an address that fits its kind, and a user at most 20 of them", async () => {
    const subscription = service.subscribe("checked") as { endpoint: string; keys: { p256dh: string; auth: string } };
    const { endpoint, keys } = subscription;
    const refused: [body: object, path: string][] = [
      [{ kind: "carrier-pigeon" }, "kind"],
      [{ kind: "webpush" }, "subscription"],
      [{ kind: "webpush", subscription: { ...subscription, endpoint: "nowhere" } }, "subscription.endpoint"],
      [{ kind: "webpush", subscription: { endpoint, keys: { ...keys, auth: "AAAA" } } }, "subscription.keys.auth"],
      [{ kind: "webpush", subscription: { endpoint, keys: { ...keys, p256dh: "AAAA" } } }, "subscription.keys.p256dh"],
      [{ kind: "webpush", subscription, url: endpoint }, "url"],
      [{ kind: "webhook", url: "redis://127.0.0.1/" }, "url"],
      [{ kind: "webhook", url: `https://a.example/${"x".repeat(1_000)}` }, "url"],
    ];
    for (const [body, path] of refused) expect(await codeOf(await put("eve", "d", body))).toEqual(["INVALID", path]);
    for (let i = 1; i <= 20; i++) await register("eve", `eve${i}`, `device${i}`);
    await register("eve", "eve20", "device20");
    expect(await codeOf(await put("eve", "device21", { kind: "webpush", subscription }))).toEqual([
      "INVALID",
      "device",
    ]);
    const many = Array.from({ length: 80 }, (_, i) => put("trudy", `d${i}`, { kind: "webpush", subscription }));
    const taken = (await Promise.all(many)).filter(({ ok }) => ok).length;
    expect(taken).toBeLessThanOrEqual(20);
    expect(await store.redis.commands.hlen(store.keys.push("trudy"))).toBe(taken);
  });

  test("of a browser is made with the key that signs the calls", async () => {
    const answered = await chat.http("eve", "GET", "/v1/push/vapid-key");
    const { publicKey } = (await answered.json()) as { publicKey: string };
    const { users, conversation } = await group("ann", "bob");
    await end(users[1], conversation, await say(users[0], conversation, "hello"));
    await eventually(() => expect(service.of(users[1])).toHaveLength(1));
    expect(service.of(users[1])[0]!.headers.get("authorization")).toEndWith(`, k=${publicKey}`);
  });

  test("of a webhook that is slow on purpose takes no more than its places: others are called meanwhile", async () => {
    const held = Promise.withResolvers<Response>();
    await using slow = openReceiver({ secrets: [], answer: async () => (await held.promise).clone() as Response });
    await using quick = openReceiver({ secrets: [] });
    for (let i = 1; i <= 18; i++) await put("mallory", `d${i}`, { kind: "webhook", url: slow.url });
    await put("zoe", "hook", { kind: "webhook", url: quick.url });
    const notice = { title: "Hello", text: "all of you" };
    const publish = (id: string, user: string) =>
      queue.publish(imPush, { type: "im.push.notice", data: { id, users: [user], ...notice } });
    await publish("n-slow", "mallory");
    await eventually(() => expect(slow.calls).toHaveLength(16));
    await publish("n-quick", "zoe");
    await eventually(() => expect(quick.calls).toHaveLength(1));
    expect(slow.calls).toHaveLength(16);
    held.resolve(new Response(null, { status: 410 }));
    for (let i = 1; i <= 18; i++) await chat.http("mallory", "DELETE", `/v1/me/push/d${i}`);
    await eventually(async () => expect(await devicesOf("mallory")).toEqual([]));
  });
});
