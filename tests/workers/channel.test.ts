/** Channels through real gateways, and who is put out of a conversation: told, and given nothing from that moment on. */

import { describe, expect, test } from "bun:test";
import { openTestChat, type TestChat } from "../support/chat.ts";
import type { ChatClient } from "../support/chat-client.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore } from "../support/redis.ts";

async function openChannel(chat: TestChat, owner: string, ...members: string[]): Promise<string> {
  const response = await chat.http(owner, "POST", "/v1/conversations", { type: "channel", members });
  return ((await response.json()) as { conversation: { id: string } }).conversation.id;
}

const send = (client: ChatClient, conversation: string, clientId: string) =>
  client.request("message.send", { conversation, clientId, body: { text: clientId } });

const heard = (client: ChatClient, conversation: string): string[] =>
  client.notifications
    .filter(({ method, params }) => method === "message" && params.message.conversation === conversation)
    .map(({ params }) => params.message.body.text);

describe("a channel", () => {
  test("reaches every subscriber's every connection on every gateway, once, but the one that it was sent by", async () => {
    await using store = await openTestStore("gw-channel");
    await using chat = await openTestChat(store, { gateways: 2 });
    const [first, second] = chat.gateways;
    const before = await chat.connect("bob", second);
    const conversation = await openChannel(chat, "ada", "bob", "cid");
    using ada = await chat.connect("ada", first);
    using phone = await chat.connect("ada", second);
    using bob = before;
    using cid = await chat.connect("cid", first);
    using dan = await chat.connect("dan", second);
    for (const client of [bob]) expect((await client.next("conversation")).conversation.id).toBe(conversation);

    await send(ada, conversation, "one");
    await chat.http("ada", "POST", `/v1/conversations/${conversation}/members`, { users: ["dan"] });
    expect((await dan.next("conversation")).conversation.id).toBe(conversation);
    await send(ada, conversation, "two");
    await chat.http("dan", "DELETE", `/v1/conversations/${conversation}/members/dan`);
    await send(phone, conversation, "three");

    await eventually(() => {
      expect(heard(bob, conversation)).toEqual(["one", "two", "three"]);
      expect(heard(cid, conversation)).toEqual(["one", "two", "three"]);
      expect(heard(dan, conversation)).toEqual(["two"]);
      expect(heard(ada, conversation)).toEqual(["three"]);
      expect(heard(phone, conversation)).toEqual(["one", "two"]);
    });
    const reply = await bob.call("message.send", { conversation, clientId: "x", body: { text: "x" } });
    expect(reply.error?.data.code).toBe("FORBIDDEN");
    const { conversations } = await bob.request("conversation.list");
    expect(conversations).toMatchObject([{ id: conversation, type: "channel", unread: 3 }]);
  });

  test("tells nobody but the reader how far he has read", async () => {
    await using store = await openTestStore("gw-channel");
    await using chat = await openTestChat(store);
    const conversation = await openChannel(chat, "ada", "bob");
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    using phone = await chat.connect("bob");
    await send(ada, conversation, "one");
    await bob.request("read", { conversation, seq: 1 });
    expect(await phone.next("read")).toEqual({ conversation, user: "bob", seq: 1 });
    await send(ada, conversation, "two");
    await phone.next("message");
    expect(ada.notifications.filter(({ method }) => method === "read")).toEqual([]);
  });

  test("loses nobody while subscribers connect, join and leave as it speaks", async () => {
    await using store = await openTestStore("gw-channel");
    await using chat = await openTestChat(store, { gateways: 2 });
    const conversation = await openChannel(chat, "ada", "bob");
    using ada = await chat.connect("ada");
    let sent = 0;
    let isOver = false;
    const speaking = (async () => {
      while (!isOver) await send(ada, conversation, `${++sent}`);
    })();
    try {
      for (let round = 0; round < 15; round++) {
        const gateway = chat.gateways[round % 2]!;
        const user = `user${round}`;
        const [client] = await Promise.all([
          chat.connect(user, gateway),
          chat.http("ada", "POST", `/v1/conversations/${conversation}/members`, { users: [user] }),
        ]);
        using newcomer = client;
        // What came before both were done is a matter of history; from here on all is heard.
        const { head } = await newcomer.request("message.history", { conversation, limit: 1 });
        await eventually(() => {
          const seqs = newcomer.notifications
            .filter(({ method, params }) => method === "message" && params.message.seq > head)
            .map(({ params }) => params.message.seq as number);
          expect(seqs.length).toBeGreaterThan(3);
          const others = newcomer.notifications
            .filter(({ method, params }) => method === "member" && params.seq > head)
            .map(({ params }) => params.seq as number);
          const all = [...seqs, ...others].sort((a, b) => a - b);
          expect(all[0]!).toBeLessThanOrEqual(head + 1);
          expect(all).toEqual(all.map((_, i) => all[0]! + i));
        });
      }
    } finally {
      isOver = true;
      await speaking;
    }
  });
});

describe.each(["group", "channel"] as const)("kicked out of a %s", (type) => {
  test("while others speak: the client is told, hears nothing that came after, and may do nothing more", async () => {
    await using store = await openTestStore("gw-kick");
    await using chat = await openTestChat(store, { gateways: 2 });
    const created = await chat.http("ada", "POST", "/v1/conversations", { type, members: ["bob"] });
    const conversation = ((await created.json()) as { conversation: { id: string } }).conversation.id;
    using ada = await chat.connect("ada");
    for (let round = 0; round < 10; round++) {
      using bob = await chat.connect("bob", chat.gateways[round % 2]);
      await send(ada, conversation, `first${round}`);
      await bob.next("message");
      const sends = Array.from({ length: 40 }, (_, i) => send(ada, conversation, `${round}.${i}`));
      const path = `/v1/conversations/${conversation}/members`;
      const kick = chat.http("ada", "DELETE", `${path}/bob`);
      sends.push(...Array.from({ length: 40 }, (_, i) => send(ada, conversation, `${round}.${40 + i}`)));
      expect((await kick).status).toBe(204);
      // From the answer on: no call is served, whatever was told before is still on its way at most.
      for (const [method, params] of [
        ["message.send", { conversation, clientId: "late", body: { text: "x" } }],
        ["message.history", { conversation }],
        ["read", { conversation, seq: 1 }],
      ] as const) {
        expect((await bob.call(method, params)).error?.data.code).toBe("NOT_MEMBER");
      }
      await Promise.all(sends);
      await send(ada, conversation, `last${round}`);
      const notice = bob.next("conversation");
      const { entry } = await notice;
      expect(entry).toMatchObject({ kind: "member", action: "removed", users: ["bob"], by: "ada" });
      // The other gateway's last frame has long been written when this round's end is seen by a witness.
      using witness = await chat.connect("ada", chat.gateways[round % 2]);
      await send(ada, conversation, `witness${round}`);
      await witness.next("message");
      const seqs = bob.notifications
        .filter(({ method }) => method === "message")
        .map(({ params }) => params.message.seq);
      expect(Math.max(...seqs)).toBeLessThan(entry.seq);
      await chat.http("ada", "POST", path, { users: ["bob"] });
    }
  });
});

describe.each([
  {
    ...{ silenced: "muted", code: "MUTED", type: "group" },
    begin: (chat: TestChat, conversation: string) =>
      chat.http("ada", "PATCH", `/v1/conversations/${conversation}/members/bob`, { mutedUntil: Date.now() + 600_000 }),
    end: (chat: TestChat, conversation: string) =>
      chat.http("ada", "PATCH", `/v1/conversations/${conversation}/members/bob`, { mutedUntil: 0 }),
  },
  {
    ...{ silenced: "blocked", code: "FORBIDDEN", type: "direct" },
    begin: (chat: TestChat) => chat.http("ada", "PUT", "/v1/me/blocks/bob"),
    end: (chat: TestChat) => chat.http("ada", "DELETE", "/v1/me/blocks/bob"),
  },
])("$silenced while speaking", ({ code, type, begin, end }) => {
  test("nothing gets through from the answer on", async () => {
    await using store = await openTestStore("gw-silence");
    await using chat = await openTestChat(store);
    const created = await chat.http("ada", "POST", "/v1/conversations", { type, members: ["bob"] });
    const conversation = ((await created.json()) as { conversation: { id: string } }).conversation.id;
    using ada = await chat.connect("ada");
    using bob = await chat.connect("bob");
    await send(bob, conversation, "first");
    for (let round = 0; round < 6; round++) {
      let isSilenced = false;
      const silencing = begin(chat, conversation).then(({ ok }) => {
        isSilenced = ok;
      });
      const late: string[] = [];
      for (let i = 0; i < 12; i++) {
        const wasSilenced = isSilenced;
        const clientId = `${round}.${i}`;
        const acts = [
          bob.call("message.send", { conversation, clientId, body: { text: clientId } }),
          bob.call("message.edit", { conversation, seq: 1, body: { text: clientId } }),
          bob.call("message.react", { conversation, seq: 1, emoji: "👍", on: i % 2 === 0 }),
          bob.call("typing", { conversation, on: true }),
        ];
        const results = await Promise.all(acts);
        if (wasSilenced && results.some(({ result }) => result)) late.push(clientId);
      }
      await silencing;
      expect(late).toEqual([]);
      const after = await bob.call("message.send", { conversation, clientId: `${round}`, body: { text: "after" } });
      expect(after.error?.data.code).toBe(code);
      await end(chat, conversation);
    }
    await send(bob, conversation, "last");
    await eventually(() => expect(heard(ada, conversation)).toContain("last"));
    expect(heard(ada, conversation)).not.toContain("after");
  });
});

test("muting, blocking and their ends over the wire, told to one's own other devices", async () => {
  await using store = await openTestStore("gw-own");
  await using chat = await openTestChat(store);
  using ada = await chat.connect("ada");
  using phone = await chat.connect("ada");
  using bob = await chat.connect("bob");
  const { conversation } = await ada.request("conversation.create", { type: "direct", members: ["bob"] });
  const until = Date.now() + 60_000;
  const muted = await ada.request("conversation.mute", { conversation: conversation.id, until });
  expect(muted).toEqual({ mutedUntil: until });
  expect(await phone.next("conversation.muted")).toEqual({ conversation: conversation.id, mutedUntil: until });
  const unmuted = await chat.http("ada", "PUT", `/v1/conversations/${conversation.id}/mute`, { until: 0 });
  expect([unmuted.status, await unmuted.json()]).toEqual([200, {}]);
  expect((await bob.call("conversation.mute", { conversation: "foreign", until })).error?.data.code).toBe("NOT_MEMBER");

  const block = await ada.request("block.add", { user: "bob" });
  expect(await ada.request("block.list")).toEqual({ blocks: [block] });
  const sent = await bob.call("message.send", { conversation: conversation.id, clientId: "c", body: { text: "x" } });
  expect(sent.error?.data.code).toBe("FORBIDDEN");
  expect((await chat.http("ada", "DELETE", "/v1/me/blocks/bob")).status).toBe(204);
  expect(((await (await chat.http("ada", "GET", "/v1/me/blocks")).json()) as { blocks: unknown[] }).blocks).toEqual([]);
  await send(bob, conversation.id, "d");
  expect((await chat.http("ada", "PUT", "/v1/me/blocks/bob")).status).toBe(200);
});
