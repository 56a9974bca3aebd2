/** Presence, typing, receipts and devices through real gateways: who is told, who is not, and that all of it ends by itself. */

import { describe, expect, test } from "bun:test";
import { connect } from "../../lib/client/index.ts";
import { systemClock } from "../../lib/clock.ts";
import { freePort } from "../../lib/free-port.ts";
import { LIMITS } from "../../lib/im/index.ts";
import { loadSecrets } from "../../lib/secrets.ts";
import { createApi } from "../../scripts/load/api.ts";
import { openTestChat } from "../support/chat.ts";
import { ChatClient } from "../support/chat-client.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { openTestStore } from "../support/redis.ts";
import { startUnit } from "../support/unit.ts";

const told = (client: ChatClient, method: string) =>
  client.notifications.filter((frame) => frame.method === method).map(({ params }) => params);

describe("presence", () => {
  test("is told to those who watch, at every gateway, and to nobody else", async () => {
    await using store = await openTestStore("gw-presence");
    await using chat = await openTestChat(store, { gateways: 2 });
    using bob = await chat.connect("bob");
    using cid = await chat.connect("cid", chat.gateways[1]);
    using dan = await chat.connect("dan");
    expect(await bob.request("presence.subscribe", { users: ["ada", "cid"] })).toEqual({
      presence: [
        { user: "ada", online: false },
        { user: "cid", online: true, lastSeen: expect.any(Number) },
      ],
    });
    await cid.request("presence.subscribe", { users: ["ada"] });
    const phone = await chat.connect("ada");
    for (const client of [bob, cid]) expect(await client.next("presence")).toMatchObject({ user: "ada", online: true });
    const laptop = await chat.connect("ada", chat.gateways[1]);
    await cid.request("presence.unsubscribe", { users: ["ada"] });
    phone[Symbol.dispose]();
    laptop[Symbol.dispose]();
    const gone = await bob.next("presence");
    expect(gone).toMatchObject({ user: "ada", online: false });
    expect(Date.now() - gone.lastSeen).toBeGreaterThanOrEqual(4_000);
    expect(told(cid, "presence")).toHaveLength(1);
    expect(told(dan, "presence")).toEqual([]);
  });

  test("is bounded per connection, and refused by name", async () => {
    await using store = await openTestStore("gw-presence");
    await using chat = await openTestChat(store);
    using bob = await chat.connect("bob");
    const users = (from: number) => Array.from({ length: 100 }, (_, i) => `u${from + i}`);
    for (let from = 0; from < LIMITS.presenceUsers; from += 100) {
      await bob.request("presence.subscribe", { users: users(from) });
    }
    await bob.request("presence.subscribe", { users: users(0) });
    const refused = await bob.call("presence.subscribe", { users: ["one-more"] });
    expect(refused.error?.data).toMatchObject({ code: "INVALID", issues: [{ path: "users" }] });
    await bob.request("presence.unsubscribe", { users: ["u0"] });
    await bob.request("presence.subscribe", { users: ["one-more"] });
    expect(
      (await bob.call("presence.subscribe", { users: users(0).concat("u100") })).error?.data.issues?.[0]?.path,
    ).toBe("users");
  });

  test("is hidden from whom the user blocks, from that moment on", async () => {
    await using store = await openTestStore("gw-presence");
    await using chat = await openTestChat(store);
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    using cid = await chat.connect("cid");
    for (const client of [bob, cid]) await client.request("presence.subscribe", { users: ["ada"] });
    await ada.request("block.add", { user: "bob" });
    ada[Symbol.dispose]();
    await cid.next("presence");
    expect(told(bob, "presence")).toEqual([]);
    expect(await bob.request("presence.subscribe", { users: ["ada"] })).toEqual({
      presence: [{ user: "ada", online: false }],
    });
  });

  test("of users whose gateway is killed with -9 ends, and theirs alone", async () => {
    await using store = await openTestStore("gw-presence");
    using folder = temporaryFolder("presence");
    const [stays, dies] = [freePort(), freePort()];
    const unit = (instance: string, port: number, ...roles: string[]) =>
      startUnit({ ...store, instance, env: { SKEIN_PORT: `${port}` } }, folder.path, ...roles);
    await using _rest = await unit("rest", stays, "archive", "logic", "gateway");
    await using gateway = await unit("dies", dies, "gateway");
    const { serviceKey } = loadSecrets({
      dataDir: folder.path,
      jwtSecret: undefined,
      serviceKey: undefined,
      internalSecret: undefined,
      vapidKey: undefined,
    });
    const api = createApi({ url: `http://127.0.0.1:${stays}`, serviceKey });
    const open = async (user: string, port: number) => {
      const client = await ChatClient.connect(`ws://127.0.0.1:${port}/v1/ws`);
      await client.request("session.open", { token: await api.token(user) });
      return client;
    };
    using bob = await open("bob", stays);
    await bob.request("presence.subscribe", { users: ["ada", "cid"] });
    using _ada = await open("ada", dies);
    using _phone = await open("cid", dies);
    using _laptop = await open("cid", stays);
    for (let i = 0; i < 2; i++) expect(await bob.next("presence")).toMatchObject({ online: true });
    await gateway.kill();
    expect(await bob.next("presence", 50_000)).toMatchObject({ user: "ada", online: false });
    expect(told(bob, "presence")).toHaveLength(3);
  });
});

describe("typing", () => {
  test("is told to the other members, ends by itself, by the message, and with the connection", async () => {
    await using store = await openTestStore("gw-typing");
    await using chat = await openTestChat(store, { gateways: 2 });
    const conversation = await chat.group("ada", "bob");
    const ada = await chat.connect("ada");
    using phone = await chat.connect("ada");
    using bob = await chat.connect("bob", chat.gateways[1]);
    using eve = await chat.connect("eve");
    const [on, off] = [true, false].map((value) => ({ conversation, user: "ada", on: value }));

    await ada.request("typing", { conversation, on: true });
    expect(await bob.next("typing")).toEqual(on);
    await ada.request("typing", { conversation, on: false });
    expect(await bob.next("typing")).toEqual(off);
    await ada.request("typing", { conversation, on: true });
    expect(await bob.next("typing")).toEqual(on);
    expect(await bob.next("typing")).toEqual(off);
    await ada.request("typing", { conversation, on: true });
    expect(await bob.next("typing")).toEqual(on);
    await ada.request("message.send", { conversation, clientId: "c", body: { text: "x" } });
    expect(await bob.next("typing")).toEqual(off);
    await ada.request("typing", { conversation, on: true });
    expect(await bob.next("typing")).toEqual(on);
    ada[Symbol.dispose]();
    expect(await bob.next("typing")).toEqual(off);
    for (const client of [phone, eve]) expect(told(client, "typing")).toEqual([]);
    expect(await store.redis.commands.xlen(store.keys.log(conversation))).toBe(1);
  });

  test("is for those who may speak", async () => {
    await using store = await openTestStore("gw-typing");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using bob = await chat.connect("bob");
    using eve = await chat.connect("eve");
    await chat.http("ada", "PATCH", `/v1/conversations/${conversation}/members/bob`, {
      mutedUntil: Date.now() + 60_000,
    });
    const typing = async (client: ChatClient) =>
      (await client.call("typing", { conversation, on: true })).error?.data.code;
    expect([await typing(bob), await typing(eve)]).toEqual(["MUTED", "NOT_MEMBER"]);
  });

  test.serial("is limited: a client that never stops is told to wait", async () => {
    await using store = await openTestStore("gw-typing");
    // Stands still: in a second 20 more are allowed, and of 127 at once no more than 27 are too many.
    const nowMs = Date.now();
    await using chat = await openTestChat(store, { clock: { ...systemClock, now: () => nowMs } });
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    const answers = await Promise.all(
      Array.from({ length: 127 }, () => ada.call("typing", { conversation, on: true })),
    );
    const limited = answers.filter(({ error }) => error?.data.code === "RATE_LIMITED");
    expect(limited.length).toBeGreaterThan(10);
    expect(limited[0]!.error!.data.retryAfterMs).toBeGreaterThan(0);
  });

  test("the client library begins and ends it once, whatever is said in between", async () => {
    await using store = await openTestStore("gw-typing");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    const url = `${chat.url.replace("http", "ws")}/v1/ws`;
    const ada = connect({ url, token: await chat.token("ada") });
    const bob = connect({ url, token: await chat.token("bob"), acknowledge: true });
    await Promise.all([ada.ready(), bob.ready()]);
    const heard: boolean[] = [];
    bob.on("typing", ({ on }) => heard.push(on));
    const arrivedMs: number[] = [];
    bob.on("message", () => arrivedMs.push(performance.now()));
    const acknowledged: number[] = [];
    ada.on("delivered", ({ seq }) => acknowledged.push(seq));
    for (let i = 0; i < 20; i++) ada.typing(conversation);
    await eventually(() => expect(heard).toEqual([true]));
    await ada.send(conversation, "one");
    await ada.send(conversation, "two");
    await eventually(() => expect(heard).toEqual([true, false]));
    await eventually(() => expect(acknowledged.at(-1)).toBe(2));
    // Together, when they arrive within a second.
    if (arrivedMs[1]! - arrivedMs[0]! < 900) expect(acknowledged).toEqual([2]);
    ada.close();
    bob.close();
  });
});

describe("receipts", () => {
  test("tell the other members what has reached a device and what was read; the reader's devices share it", async () => {
    await using store = await openTestStore("gw-receipts");
    await using chat = await openTestChat(store, { gateways: 2 });
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    using phone = await chat.connect("bob", chat.gateways[1]);
    const { seq } = await ada.request("message.send", { conversation, clientId: "c", body: { text: "x" } });
    expect(await bob.request("delivered", { conversation, seq })).toEqual({ delivered: seq });
    expect(await ada.next("delivered")).toEqual({ conversation, user: "bob", seq });
    expect(await bob.request("read", { conversation, seq })).toEqual({ read: seq, unread: 0 });
    for (const client of [ada, bob, phone])
      expect(await client.next("read")).toEqual({ conversation, user: "bob", seq });
    await bob.request("delivered", { conversation, seq });
    const path = `/v1/conversations/${conversation}`;
    expect(await (await chat.http("ada", "GET", `${path}/receipts`)).json()).toEqual({
      receipts: [
        { user: "ada", delivered: 1, read: 1 },
        { user: "bob", delivered: 1, read: 1 },
      ],
    });
    expect((await chat.http("bob", "PUT", `${path}/delivered`, { seq: 9 })).status).toBe(400);
    expect(told(ada, "delivered")).toHaveLength(1);
    expect(told(phone, "delivered")).toEqual([]);
    const { conversations } = await phone.request("conversation.list");
    expect(conversations).toMatchObject([{ unread: 0, read: 1 }]);
  });

  test("of one of many members are his own devices' alone", async () => {
    await using store = await openTestStore("gw-receipts");
    await using chat = await openTestChat(store);
    const users = Array.from({ length: LIMITS.receiptMembers - 1 }, (_, i) => `u${i}`);
    const conversation = await chat.group("ada", ...users);
    await chat.http("ada", "POST", `/v1/conversations/${conversation}/members`, { users: ["bob"] });
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    using phone = await chat.connect("bob");
    const { seq } = await ada.request("message.send", { conversation, clientId: "c", body: { text: "x" } });
    await bob.request("delivered", { conversation, seq });
    await bob.request("typing", { conversation, on: true });
    await bob.request("read", { conversation, seq });
    expect(await phone.next("read")).toEqual({ conversation, user: "bob", seq });
    await bob.request("message.send", { conversation, clientId: "d", body: { text: "y" } });
    await ada.next("message");
    expect(ada.notifications.map(({ method }) => method)).toEqual(["message"]);
  });
});

describe("devices", () => {
  test("are listed, and one that is removed is closed for good on every gateway", async () => {
    await using store = await openTestStore("gw-devices");
    await using chat = await openTestChat(store, { gateways: 2 });
    const open = async (device: string, gateway = 0) => {
      const client = await chat.dial(chat.gateways[gateway]);
      await client.request("session.open", { token: await chat.token("ada"), device });
      return client;
    };
    using laptop = await open("laptop");
    using first = await open("phone");
    using second = await open("phone", 1);
    const { devices } = await laptop.request("device.list");
    expect(devices.map(({ id, connections }: { id: string; connections: number }) => [id, connections]).sort()).toEqual(
      [
        ["laptop", 1],
        ["phone", 2],
      ],
    );
    expect((await chat.http("ada", "DELETE", "/v1/me/devices/phone")).status).toBe(204);
    for (const client of [first, second]) expect((await client.closed).code).toBe(4503);
    await eventually(async () => {
      const { devices: left } = (await (await chat.http("ada", "GET", "/v1/me/devices")).json()) as {
        devices: { id: string }[];
      };
      expect(left.map(({ id }) => id)).toEqual(["laptop"]);
    });
    expect(await laptop.request("session.ping")).toBeDefined();
  });
});
