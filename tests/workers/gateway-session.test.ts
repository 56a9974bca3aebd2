/** A socket's life and its limits: deadlines, expiry, kicks, rates, slow readers, draining, and a delivery stream that is lost. */

import { describe, expect, test } from "bun:test";
import type { Clock } from "../../lib/clock.ts";
import { systemClock } from "../../lib/clock.ts";
import { detachFrom } from "../../lib/im/routes.ts";
import type { Log } from "../../lib/observability/index.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import type { ChatClient } from "../support/chat-client.ts";
import { eventually } from "../support/eventually.ts";
import { openRawSocket, type RawSocket } from "../support/raw-socket.ts";
import { openReceiver } from "../support/receiver.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

interface ShiftedClock extends Clock {
  shiftMs: number;
  /** From now on only `shiftMs` moves it: what must not be over yet is not, however long the test takes. */
  stop(): void;
}

/** The system's clock, put forward by hand. */
function createShiftedClock(): ShiftedClock {
  let stoppedAt: number | undefined;
  const clock = {
    ...systemClock,
    shiftMs: 0,
    now: () => (stoppedAt ?? systemClock.now()) + clock.shiftMs,
    stop() {
      stoppedAt = systemClock.now();
    },
  };
  return clock;
}

const metricOf = async (chat: TestChat, name: "outboxLagging" | "outboxClosed" | "connections") =>
  (await chat.gateways[0]!.metrics[name].get()).values[0]?.value ?? 0;

const send = (client: ChatClient, conversation: string, clientId: string, text = "hi") =>
  client.request("message.send", { conversation, clientId, body: { text } });

const routesOf = (store: TestStore, user: string) => store.redis.commands.hlen(store.keys.routes(user));

describe("time", () => {
  test("a socket that does not authenticate is closed after five seconds", async () => {
    await using store = await openTestStore("gs-auth");
    const clock = createShiftedClock();
    await using chat = await openTestChat(store, { clock });
    clock.stop();
    using silent = await chat.dial();
    using open = await chat.connect("ada");
    clock.shiftMs = 4_000;
    await Bun.sleep(600);
    expect(silent.socket.readyState).toBe(WebSocket.OPEN);
    clock.shiftMs = 6_000;
    expect((await silent.closed).code).toBe(4504);
    expect(await open.request("session.ping")).toBeDefined();
  });

  test("a socket whose token ends is closed, and a token that has ended is told apart", async () => {
    await using store = await openTestStore("gs-expiry");
    const clock = createShiftedClock();
    await using chat = await openTestChat(store, { clock });
    const token = await chat.token("ada", 60);
    using client = await chat.dial();
    await client.request("session.open", { token });
    clock.shiftMs = 61_000;
    expect((await client.closed).code).toBe(4502);
    clock.shiftMs = 200_000;
    using late = await chat.dial();
    expect((await late.call("session.open", { token })).error?.data.code).toBe("UNAUTHENTICATED");
    expect((await late.closed).code).toBe(4502);
    await eventually(async () => expect(await routesOf(store, "ada")).toBe(0));
  });

  test("from the moment that its token ends a socket is given nothing, however much is said", async () => {
    await using store = await openTestStore("gs-expiry");
    for (const type of ["group", "channel"]) {
      const clock = createShiftedClock();
      await using chat = await openTestChat(store, { clock });
      const created = await chat.http("ada", "POST", "/v1/conversations", { type, members: ["bob"] });
      const { conversation } = (await created.json()) as { conversation: { id: string } };
      using ada = await chat.connect("ada");
      using bob = await chat.dial();
      await bob.request("session.open", { token: await chat.token("bob", 60) });
      for (let i = 0; i < 20; i++) await send(ada, conversation.id, `before${i}`, "before");
      await eventually(() => expect(bob.notifications.length).toBeGreaterThan(0));
      clock.shiftMs = 60_001;
      for (let i = 0; i < 20; i++) await send(ada, conversation.id, `after${i}`, "after");
      expect((await bob.closed).code).toBe(4502);
      const texts = bob.notifications
        .filter(({ method }) => method === "message")
        .map(({ params }) => params.message.body.text);
      expect(texts).not.toContain("after");
    }
  });

  test("what was asked for before the token ended and is known behind it is not answered", async () => {
    const clock = createShiftedClock();
    await using hook = openReceiver({
      secrets: [],
      answer() {
        clock.shiftMs = 61_000;
        return Response.json({ action: "allow" });
      },
    });
    await using store = await openTestStore("gs-expiry");
    const env = {
      ...{ SKEIN_HOOK_URL: hook.url, SKEIN_HOOK_SECRET: "a secret of the hook's own" },
      ...{ SKEIN_HOOK_TIMEOUT_MS: "2000", SKEIN_HOOK_FAILURE: "refuse" },
    };
    await using chat = await openTestChat(store, { clock, env });
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.dial();
    await ada.request("session.open", { token: await chat.token("ada", 60) });
    const ask = () => ada.call("message.send", { conversation, clientId: "c", body: { text: "hi" } });
    let sent = await ask();
    // On a busy machine the hook may be given up before it has put the clock forward.
    while (sent.error?.data.code === "OVERLOADED") sent = await ask();
    expect(sent.error?.data.code).toBe("CLOSED");
    expect((await ada.closed).code).toBe(4502);
  });

  test("a token of a thousand years does not overflow a timer", async () => {
    await using store = await openTestStore("gs-long");
    await using chat = await openTestChat(store);
    const { SignJWT } = await import("jose");
    const token = await new SignJWT({ sub: "ada", exp: Math.floor(Date.now() / 1_000) + 1_000 * 365 * 86_400 })
      .setProtectedHeader({ alg: "HS256" })
      .sign(new TextEncoder().encode(chat.jwtSecret));
    using client = await chat.dial();
    await client.request("session.open", { token });
    await Bun.sleep(1_100);
    expect(await client.request("session.ping")).toBeDefined();
  });

  test("a route is written again before it expires", async () => {
    await using store = await openTestStore("gs-route");
    const clock = createShiftedClock();
    await using chat = await openTestChat(store, { clock });
    using client = await chat.dial();
    await client.request("session.open", { token: await chat.token("ada", 48 * 3_600) });
    await store.redis.commands.del(store.keys.routes("ada"));
    clock.shiftMs = 13 * 3_600_000;
    await eventually(async () => expect(await routesOf(store, "ada")).toBe(1));
  });
});

describe("limits", () => {
  test.serial("a user sends three a second and sixty at once, by WebSocket and HTTP together", async () => {
    await using store = await openTestStore("gs-rate");
    const clock = createShiftedClock();
    await using chat = await openTestChat(store, { clock, env: { SKEIN_SEND_RATE: "3", SKEIN_SEND_BURST: "60" } });
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    clock.stop();
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        ada.call("message.send", { conversation, clientId: `c${i}`, body: { text: "hi" } }),
      ),
    );
    const limited = answers.filter((answer) => answer.error?.data.code === "RATE_LIMITED");
    expect(limited).toHaveLength(40);
    expect(limited[0]!.error!.data).toMatchObject({ retryable: true, retryAfterMs: expect.any(Number) });
    const path = `/v1/conversations/${conversation}/messages`;
    const byHttp = await chat.http("ada", "POST", path, { clientId: "h", body: { text: "hi" } });
    expect(byHttp.status).toBe(429);
    expect(Number(byHttp.headers.get("retry-after"))).toBeGreaterThan(0);
    await send(bob, conversation, "b1");
    clock.shiftMs = 1_000;
    for (const clientId of ["l1", "l2", "l3"]) await send(ada, conversation, clientId);
    await expect(send(ada, conversation, "l4")).rejects.toThrow("RATE_LIMITED");
  });

  test("the twenty-first connection of a user takes the place of the oldest", async () => {
    await using store = await openTestStore("gs-many");
    await using chat = await openTestChat(store);
    const clients: ChatClient[] = [];
    for (let i = 0; i < 21; i++) clients.push(await chat.connect("ada"));
    expect((await clients[0]!.closed).code).toBe(4503);
    await eventually(async () => expect(await routesOf(store, "ada")).toBe(20));
    for (const client of clients.slice(1)) expect(await client.request("session.ping")).toBeDefined();
    for (const client of clients) client[Symbol.dispose]();
    await eventually(async () => expect(await routesOf(store, "ada")).toBe(0));
    await eventually(async () => expect(await metricOf(chat, "connections")).toBe(0));
  });
});

describe("a slow reader", () => {
  const openSlow = async (chat: TestChat, user: string): Promise<RawSocket> => {
    const socket = await openRawSocket(chat.port);
    const params = { token: await chat.token(user) };
    socket.send(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "session.open", params }));
    await eventually(() => expect(socket.texts).toHaveLength(1));
    return socket;
  };

  test("is not sent live frames beyond 256 KB, others notice nothing, and it is told to sync when it reads on", async () => {
    await using store = await openTestStore("gs-slow");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob", "cid");
    using slow = await openSlow(chat, "bob");
    using ada = await chat.connect("ada");
    using cid = await chat.connect("cid");
    slow.pause();
    const text = "x".repeat(16_000);
    let sent = 0;
    while ((await metricOf(chat, "outboxLagging")) === 0) {
      expect(sent).toBeLessThan(3_000);
      const round = Array.from({ length: 20 }, (_, i) => send(ada, conversation, `c${sent + i}`, text));
      await Promise.all(round);
      sent += round.length;
    }
    // What comes now is dropped for the slow one: nothing grows, nobody is closed.
    for (let i = 0; i < 100; i++) await send(ada, conversation, `d${i}`, text);
    sent += 100;
    for (let i = 0; i < sent; i++) expect((await cid.next("message")).message.seq).toBe(i + 1);
    expect(await metricOf(chat, "outboxClosed")).toBe(0);

    slow.resume();
    await eventually(() => expect(slow.texts.at(-1)).toContain("session.resync"));
    const seen = slow.texts.filter((frame) => frame.includes('"method":"message"')).map((frame) => JSON.parse(frame));
    expect(seen.length).toBeLessThan(sent - 100);
    expect(seen.map((frame) => frame.params.message.seq)).toEqual(seen.map((_, i) => i + 1));
    await send(ada, conversation, "after", "after");
    await eventually(() => expect(slow.texts.at(-1)).toContain('"text":"after"'));
  });

  test.serial("that keeps asking without reading is closed at 1 MB, and its memory is given back", async () => {
    await using store = await openTestStore("gs-deaf");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    for (let i = 0; i < 10; i++) await send(ada, conversation, `c${i}`, "x".repeat(16_000));
    using slow = await openSlow(chat, "bob");
    slow.pause();
    for (let i = 0; (await metricOf(chat, "outboxClosed")) === 0; i++) {
      expect(i).toBeLessThan(500);
      slow.send(JSON.stringify({ jsonrpc: "2.0", id: i, method: "message.history", params: { conversation } }));
      await Bun.sleep(5);
    }
    await eventually(async () => expect(await metricOf(chat, "connections")).toBe(1));
    await eventually(async () => expect(await routesOf(store, "bob")).toBe(0));
    slow.resume();
    expect([4008, 1006]).toContain(await slow.closed);
    expect(await ada.request("session.ping")).toBeDefined();
  });
});

describe("draining", () => {
  test("clients are told when to come back, requests under way are answered, and sockets close with 4000", async () => {
    await using store = await openTestStore("gs-drain");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    using idle = await chat.connect("bob");
    const [gateway] = chat.gateways;
    const answers = Array.from({ length: 50 }, (_, i) =>
      ada.call("message.send", { conversation, clientId: `c${i}`, body: { text: "hi" } }),
    );
    // The first answer proves that the others have arrived as well: they travelled together.
    await answers[0];
    const stopped = gateway!.stop();
    for (const client of [ada, idle]) {
      const closing = await client.next("session.closing");
      expect(closing.reason).toBe("draining");
      expect(closing.reconnectInMs).toBeGreaterThanOrEqual(0);
      expect(closing.reconnectInMs).toBeLessThanOrEqual(10_000);
      expect((await client.closed).code).toBe(4000);
    }
    const results = await Promise.all(answers);
    expect(results.filter((answer) => answer.result)).toHaveLength(50);
    await stopped;
    // A removal that took more than 2 s is not waited for.
    for (const user of ["ada", "bob"]) await eventually(async () => expect(await routesOf(store, user)).toBe(0));
    await expect(fetch(`${gateway!.url}/healthz`)).rejects.toThrow();
    const streams = await store.redis.commands.keys(`${store.prefix}:{gateway:*`);
    expect(streams).toEqual([]);
  });

  test("a client that does not close in turn does not hold it up", async () => {
    await using store = await openTestStore("gs-drain-deaf");
    await using chat = await openTestChat(store);
    using deaf = await openRawSocket(chat.port);
    deaf.send(
      JSON.stringify({ jsonrpc: "2.0", id: 1, method: "session.open", params: { token: await chat.token("ada") } }),
    );
    await eventually(() => expect(deaf.texts).toHaveLength(1));
    deaf.pause();
    const startedMs = performance.now();
    await chat.gateways[0]!.stop();
    expect(performance.now() - startedMs).toBeLessThan(9_000);
  });
});

describe("the delivery stream", () => {
  const streamOf = async (store: TestStore) => (await store.redis.commands.keys(`${store.prefix}:{gateway:*`))[0]!;

  test("lost with every route: routes come back, clients are told to sync, frames flow again", async () => {
    await using store = await openTestStore("gs-lost");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    await send(ada, conversation, "c1");
    await bob.next("message");
    const stream = await streamOf(store);
    await store.redis.commands.del(stream, store.keys.routes("bob"), store.keys.routes("ada"));
    expect((await bob.next("session.resync")).reason).toBe("lost");
    await eventually(async () => expect(await routesOf(store, "bob")).toBe(1));
    // Whoever found the old stream gone may still be taking the routes to it away: the new ones are none of those.
    const { redis, keys } = store;
    for (const user of ["ada", "bob"])
      await detachFrom(redis.commands, keys, user, stream.slice(stream.indexOf(":{gateway:") + 10, -1));
    expect(await routesOf(store, "bob")).toBe(1);
    await send(ada, conversation, "c2");
    expect((await bob.next("message")).message.seq).toBe(2);
  });

  test("frames repeated after a takeover are written once; a frame for everyone reaches everyone", async () => {
    await using store = await openTestStore("gs-repeat");
    await using chat = await openTestChat(store);
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    const stream = await streamOf(store);
    const [, value] = (await store.redis.commands.hgetall(store.keys.routes("ada")).then(Object.entries))[0] as [
      string,
      string,
    ];
    const number = value.split(" ")[1]!;
    const frame = (seq: number) =>
      JSON.stringify({ jsonrpc: "2.0", method: "read", params: { conversation: "c", user: "cid", seq } });
    const add = (...pairs: string[]) => store.redis.commands.xadd(stream, "*", ...pairs);
    await add(`c 1 ${number}`, frame(1), `c 2 ${number}`, frame(2));
    await add(
      `c 1 ${number}`,
      frame(1),
      `c 2 ${number}`,
      frame(2),
      `c 3 ${number},zzzz`,
      frame(3),
      `- 0 ${number}`,
      frame(4),
    );
    await add("- 0 *", frame(9));
    for (const seq of [1, 2, 3, 4, 9]) expect((await ada.next("read")).seq).toBe(seq);
    expect((await bob.next("read")).seq).toBe(9);
  });

  test("trimmed beyond our place: every client is told to sync", async () => {
    await using store = await openTestStore("gs-overrun");
    await using chat = await openTestChat(store);
    using ada = await chat.connect("ada");
    const stream = await streamOf(store);
    const add = (n: number) => store.redis.commands.xadd(stream, "MAXLEN", "=", 10, "*", "- 0 ", `${n}`);
    await eventually(async () => {
      // The blocked read is served with the first entry; before the next one the others are trimmed away.
      await Bun.sleep(150);
      await Promise.all(Array.from({ length: 400 }, (_, n) => add(n)));
      expect(ada.notifications.some((frame) => frame.method === "session.resync")).toBe(true);
    });
  });
});

test("while logic is away: opening says come back, and an open session's requests are retryable", async () => {
  await using store = await openTestStore("gs-nologic");
  await using chat = await openTestChat(store);
  const conversation = await chat.group("ada", "bob");
  using ada = await chat.connect("ada");
  await chat.stopLogic();
  using bob = await chat.dial();
  const opening = bob.call("session.open", { token: await chat.token("bob") });
  const sent = await ada.call("message.send", { conversation, clientId: "c1", body: { text: "hi" } });
  expect(sent.error?.data).toMatchObject({ code: "OVERLOADED", retryable: true });
  expect((await opening).error?.data.retryable).toBe(true);
  expect((await bob.closed).code).toBe(4013);
  expect(await ada.request("session.ping")).toBeDefined();
});

test("no log line holds a token, a key or a text, whatever goes wrong", async () => {
  await using store = await openTestStore("gs-canary");
  const lines: string[] = [];
  const collect = (fields: object, message: string) => {
    const plain = (_: string, value: unknown) => (value instanceof Error ? `${value.message} ${value.stack}` : value);
    lines.push(JSON.stringify({ ...fields, message }, plain));
  };
  const log: Log = { debug: collect, info: collect, warn: collect, error: collect, child: () => log };
  await using chat = await openTestChat(store, { log });
  const conversation = await chat.group("ada", "bob");
  const token = await chat.token("ada");
  const canary = "canary-in-the-text";
  using ada = await chat.connect("ada");
  await send(ada, conversation, "c1", canary);
  await ada.call("message.send", { conversation, clientId: "c1", body: { text: `${canary}, other` } });
  await ada.call("message.send", { conversation, clientId: canary, body: canary, canary });
  ada.raw(`{"canary-in-the-text`);
  await fetch(`${chat.url}/v1/conversations?token=${token}`, { headers: { authorization: `Bearer ${token}` } });
  await fetch(`${chat.url}/v1/sync`, { method: "POST", headers: { authorization: `Bearer ${token}x` }, body: canary });
  using bad = await chat.dial();
  await bad.call("session.open", { token: `${token}x` });
  await bad.closed;
  await chat.http("ada", "POST", `/v1/conversations/${conversation}/messages`, {
    clientId: "h",
    body: { text: canary },
  });
  await eventually(() => expect(lines.some((line) => line.includes("/v1/sync"))).toBe(true));
  for (const secret of [token, token.slice(-20), chat.serviceKey, chat.jwtSecret, canary]) {
    expect(lines.filter((line) => line.includes(secret))).toEqual([]);
  }
});

test("a port that is taken is named with its remedy", async () => {
  await using store = await openTestStore("gs-port");
  await using chat = await openTestChat(store);
  const again = chat.startGateway({ env: { SKEIN_PORT: String(chat.port) } });
  await expect(again).rejects.toThrow("set SKEIN_PORT");
});
