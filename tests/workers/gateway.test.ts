/** The gateway from outside: sessions, sends, notifications across two gateways, and the same by HTTP. */

import { describe, expect, test } from "bun:test";
import { webSocketMethods } from "../../workers/gateway/methods.ts";
import { openTestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore } from "../support/redis.ts";

const text = (words: string, clientId: string) => ({ clientId, body: { text: words } });

describe("a session", () => {
  test("opens by its first frame and says what the deployment promises", async () => {
    await using store = await openTestStore("gw-open");
    await using chat = await openTestChat(store);
    using client = await chat.dial();
    const opened = await client.request("session.open", { token: await chat.token("ada"), device: "phone" });
    expect(opened).toMatchObject({ user: "ada", ackLevel: expect.any(String), heartbeatMs: 25_000 });
    expect(opened.limits.frameBytes).toBe(65_536);
    expect(Math.abs(opened.serverTime - Date.now())).toBeLessThan(5_000);
    expect(await client.request("session.ping")).toEqual({ serverTime: expect.any(Number) });
  });

  test("opens by the upgrade's headers: a user's token, or a service acting for a user", async () => {
    await using store = await openTestStore("gw-ready");
    await using chat = await openTestChat(store);
    using byToken = await chat.dial(undefined, { authorization: `Bearer ${await chat.token("ada")}` });
    expect((await byToken.next("session.ready")).user).toBe("ada");
    using byService = await chat.dial(undefined, { authorization: `Bearer ${chat.serviceKey}`, "skein-user": "bob" });
    expect((await byService.next("session.ready")).user).toBe("bob");
  });

  test("with cursors it answers with what was missed", async () => {
    await using store = await openTestStore("gw-cursors");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    for (const n of [1, 2, 3]) await ada.request("message.send", { conversation, ...text(`no ${n}`, `c${n}`) });
    const { epoch } = await ada.request("message.history", { conversation });

    using bob = await chat.dial();
    const cursors = [{ conversation, epoch, seq: 1 }];
    const { sync } = await bob.request("session.open", { token: await chat.token("bob"), cursors });
    expect(sync.conversations).toHaveLength(1);
    expect(sync.conversations[0]).toMatchObject({ conversation, verdict: "resumed", head: 3, more: false });
    expect(sync.conversations[0].entries.map((entry: { seq: number }) => entry.seq)).toEqual([2, 3]);
  });
});

describe("a message", () => {
  test("reaches every connection of every member on every gateway, but not the sending one", async () => {
    await using store = await openTestStore("gw-send");
    await using chat = await openTestChat(store, { gateways: 2 });
    const [one, two] = chat.gateways;
    const conversation = await chat.group("ada", "bob", "cid");
    using ada = await chat.connect("ada", one!);
    using adaToo = await chat.connect("ada", two!);
    using bob = await chat.connect("bob", one!);
    using cid = await chat.connect("cid", two!);

    const sent = await ada.request("message.send", { conversation, ...text("héllo \u{1f600}", "c1") });
    expect(sent).toEqual({ id: expect.any(String), conversation, seq: 1, sentAt: expect.any(Number) });
    for (const client of [adaToo, bob, cid]) {
      const { message } = await client.next("message");
      expect(message).toMatchObject({ id: sent.id, seq: 1, from: "ada", body: { text: "héllo \u{1f600}" } });
    }
    // By HTTP there is no sending connection.
    const response = await chat.http(
      "bob",
      "POST",
      `/v1/conversations/${conversation}/messages`,
      text("by http", "c1"),
    );
    expect(response.status).toBe(201);
    for (const client of [ada, adaToo, bob, cid]) expect((await client.next("message")).message.seq).toBe(2);
    expect(ada.notifications.filter((frame) => frame.method === "message")).toHaveLength(1);
  });

  test("arrives in the order of seq, once, however fast it was sent", async () => {
    await using store = await openTestStore("gw-order");
    await using chat = await openTestChat(store, { gateways: 2 });
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada", chat.gateways[0]!);
    using bob = await chat.connect("bob", chat.gateways[1]!);
    const numbers = Array.from({ length: 500 }, (_, i) => i);
    for (let i = 0; i < numbers.length; i += 100) {
      await Promise.all(
        numbers.slice(i, i + 100).map((n) => ada.request("message.send", { conversation, ...text(`${n}`, `c${n}`) })),
      );
    }
    for (const n of numbers) expect((await bob.next("message")).message.seq).toBe(n + 1);
    expect(bob.notifications.filter((frame) => frame.method === "message")).toHaveLength(500);
  });

  test("sent twice under one clientId is one; other content under it is refused; WebSocket and HTTP agree", async () => {
    await using store = await openTestStore("gw-dup");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    const path = `/v1/conversations/${conversation}/messages`;
    using ada = await chat.connect("ada");
    const first = await ada.request("message.send", { conversation, ...text("hi", "c1") });
    expect(await ada.request("message.send", { conversation, ...text("hi", "c1") })).toEqual({
      ...first,
      duplicate: true,
    });
    const again = await chat.http("ada", "POST", path, text("hi", "c1"));
    expect(again.status).toBe(200);
    expect(await again.json()).toEqual({ ...first, duplicate: true });
    expect((await ada.call("message.send", { conversation, ...text("ho", "c1") })).error?.data.code).toBe("CONFLICT");
    expect((await chat.http("ada", "POST", path, text("ho", "c1"))).status).toBe(409);
  });

  test("a hundred at once under one clientId are one", async () => {
    await using store = await openTestStore("gw-114");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    const sends = Array.from({ length: 100 }, () => ada.request("message.send", { conversation, ...text("hi", "c1") }));
    const replies = await Promise.all(sends);
    expect(new Set(replies.map((reply) => `${reply.seq} ${reply.id}`)).size).toBe(1);
    expect((await ada.request("message.history", { conversation })).head).toBe(1);
  });

  test("a batch answers as a list, each part on its own", async () => {
    await using store = await openTestStore("gw-batch");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    const send = (id: string, clientId: string) => ({
      jsonrpc: "2.0",
      id,
      method: "message.send",
      params: { conversation, ...text("hi", clientId) },
    });
    ada.raw(JSON.stringify([send("a", "c1"), send("b", "{bad}"), { jsonrpc: "2.0", id: "p", method: "session.ping" }]));
    const answers = (await ada.nextOther()) as unknown as {
      id: string;
      result?: object;
      error?: { data: { issues: object[] } };
    }[];
    expect(answers).toHaveLength(3);
    const byId = new Map(answers.map((answer) => [answer.id, answer]));
    expect(byId.get("a")?.result).toMatchObject({ seq: 1 });
    expect(byId.get("b")?.error?.data.issues).toEqual([{ path: "clientId", message: expect.any(String) }]);
    expect(byId.get("p")?.result).toEqual({ serverTime: expect.any(Number) });
  });
});

describe("conversations", () => {
  test("live by HTTP as by WebSocket", async () => {
    await using store = await openTestStore("gw-conv");
    await using chat = await openTestChat(store);
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");

    const body = { id: "team", type: "group", members: ["bob"], title: "Team" };
    expect((await chat.http("ada", "POST", "/v1/conversations", body)).status).toBe(201);
    expect((await chat.http("ada", "POST", "/v1/conversations", body)).status).toBe(200);
    expect((await chat.http("ada", "POST", "/v1/conversations", { ...body, title: "Other" })).status).toBe(409);
    expect((await bob.next("conversation")).conversation).toMatchObject({ id: "team" });

    const direct = await bob.request("conversation.create", { type: "direct", members: ["ada"] });
    const same = await chat.http("ada", "POST", "/v1/conversations", { type: "direct", members: ["bob"] });
    expect(same.status).toBe(200);
    expect(((await same.json()) as typeof direct).conversation.id).toBe(direct.conversation.id);

    expect((await ada.request("conversation.update", { conversation: "team", title: "Crew" })).conversation.title).toBe(
      "Crew",
    );
    const added = await chat.http("ada", "POST", "/v1/conversations/team/members", { users: ["cid"] });
    expect(added.status).toBe(200);
    expect(
      (await ada.request("member.update", { conversation: "team", user: "cid", role: "admin" })).conversation.members,
    ).toContainEqual({ user: "cid", role: "admin" });
    expect((await chat.http("ada", "DELETE", "/v1/conversations/team/members/cid")).status).toBe(204);

    await ada.request("message.send", { conversation: "team", ...text("hello", "c1") });
    const listed = (await (await chat.http("bob", "GET", "/v1/conversations?limit=10")).json()) as {
      conversations: { id: string; unread: number; lastMessage?: { body: { text: string } } }[];
    };
    expect(listed.conversations.map(({ id }) => id).sort()).toEqual([direct.conversation.id, "team"].sort());
    const team = listed.conversations.find(({ id }) => id === "team");
    expect(team?.unread).toBe(1);
    expect(team?.lastMessage?.body.text).toBe("hello");

    const { head } = await bob.request("message.history", { conversation: "team" });
    const read = await chat.http("bob", "PUT", "/v1/conversations/team/read", { seq: head });
    expect(await read.json()).toEqual({ read: head, unread: 0 });
    expect(await ada.next("read")).toEqual({ conversation: "team", user: "bob", seq: head });
    expect((await chat.http("ada", "DELETE", "/v1/conversations/team")).status).toBe(204);
    const refused = await ada.call("message.send", { conversation: "team", ...text("too late", "c2") });
    expect(refused.error?.data.code).toBe("FORBIDDEN");
  });

  test("outsiders learn nothing, by either way", async () => {
    await using store = await openTestStore("gw-outside");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using eve = await chat.connect("eve");
    const about = (id: string): [string, object][] => [
      ["message.send", { conversation: id, ...text("hi", "c1") }],
      ["message.history", { conversation: id }],
      ["conversation.get", { conversation: id }],
      ["read", { conversation: id, seq: 1 }],
      ["conversation.update", { conversation: id, title: "x" }],
      ["member.add", { conversation: id, users: ["eve"] }],
      ["member.remove", { conversation: id, user: "bob" }],
      ["member.update", { conversation: id, user: "eve", role: "owner" }],
    ];
    const answers = async (id: string) =>
      Promise.all(about(id).map(async ([method, params]) => JSON.stringify((await eve.call(method, params)).error)));
    expect(await answers(conversation)).toEqual(await answers("no-such-conversation"));
    for (const error of await answers(conversation)) expect(error).toContain("NOT_MEMBER");
  });

  test("who was removed hears nothing any more", async () => {
    await using store = await openTestStore("gw-kick");
    await using chat = await openTestChat(store);
    const conversation = await chat.group("ada", "bob");
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    await ada.request("message.send", { conversation, ...text("one", "c1") });
    await bob.next("message");
    await ada.request("member.remove", { conversation, user: "bob" });
    await ada.request("message.send", { conversation, ...text("two", "c2") });
    // A later event that bob does hear proves that the earlier one passed him by.
    const other = await chat.group("ada", "bob");
    await ada.request("message.send", { conversation: other, ...text("three", "c3") });
    expect((await bob.next("message")).message.body.text).toBe("three");
  });
});

describe("operators", () => {
  test("readiness, metrics and the API's description", async () => {
    await using store = await openTestStore("gw-ops");
    await using chat = await openTestChat(store);
    expect((await fetch(`${chat.url}/healthz`)).status).toBe(200);
    // A check that is kept waiting for 2 s is red.
    await eventually(async () => {
      const ready = await fetch(`${chat.url}/readyz`);
      expect(await ready.json()).toMatchObject({ ready: true });
    });
    const metrics = await (await fetch(`${chat.url}/metrics`)).text();
    expect(metrics).toContain("im_gateway_connections");
    const api = (await (await fetch(`${chat.url}/openapi.json`)).json()) as {
      openapi: string;
      paths: Record<string, Record<string, { parameters: { name: string; in: string }[] }>>;
    };
    expect(api.openapi).toBe("3.1.0");
    expect(Object.keys(api.paths)).toContain("/v1/conversations/{conversation}/messages");
    expect(Object.keys(api.paths["/v1/conversations/{conversation}/messages"]!)).toEqual(["post", "get"]);
    const socket = (await (await fetch(`${chat.url}/asyncapi.json`)).json()) as {
      asyncapi: string;
      operations: Record<string, { action: string; messages: { $ref: string }[] }>;
      channels: { socket: { address: string; messages: Record<string, object> } };
    };
    expect([socket.asyncapi, socket.channels.socket.address]).toEqual(["3.0.0", "/v1/ws"]);
    for (const method of [...webSocketMethods.keys(), "session.open"]) {
      expect(socket.operations[method]).toMatchObject({ action: "receive" });
    }
    expect(socket.operations["message.notification"]).toMatchObject({ action: "send" });
    for (const { messages } of Object.values(socket.operations)) {
      for (const { $ref } of messages)
        expect(socket.channels.socket.messages).toHaveProperty([$ref.split("/").at(-1)!]);
    }
    const docs = await fetch(`${chat.url}/docs`);
    expect(docs.headers.get("content-type")).toStartWith("text/html");
    expect(docs.headers.get("content-security-policy")).toContain("connect-src 'self'");
    // It works without a network: nothing of it lies elsewhere.
    expect(await docs.text()).not.toMatch(/(?:src|href)="https?:/);
    await chat.stopLogic();
    const red = await fetch(`${chat.url}/readyz`);
    expect(red.status).toBe(503);
    expect(await red.text()).toContain("logic");
  });
});
