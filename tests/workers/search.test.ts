/** Search of one's own conversations, by HTTP and WebSocket, through gateway, logic and archive. */

import { expect, test } from "bun:test";
import { search as searchConversations } from "../../lib/im/index.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

async function send(chat: TestChat, by: string, conversation: string, text: string): Promise<number> {
  const response = await chat.http(by, "POST", `/v1/conversations/${conversation}/messages`, {
    clientId: crypto.randomUUID(),
    body: { text },
  });
  return ((await response.json()) as { seq: number }).seq;
}

interface Reply {
  readonly hits: { conversation: string; message: { seq: number; body: { text: string } } }[];
  readonly next?: string;
}

async function ask(chat: TestChat, by: string, query: Record<string, string>): Promise<Reply> {
  const response = await chat.http(by, "GET", `/v1/search?${new URLSearchParams(query)}`);
  expect(response.status).toBe(200);
  return (await response.json()) as Reply;
}

async function find(chat: TestChat, by: string, q: string, more: Record<string, string> = {}): Promise<string[]> {
  return (await ask(chat, by, { q, ...more })).hits.map(({ message }) => message.body.text);
}

test("finds what is said now in the caller's conversations, newest first, and nothing of others", async () => {
  await using store = await openTestStore("search");
  await using chat = await openTestChat(store);
  const [first, second] = [await chat.group("ann", "bob"), await chat.group("ann", "cid")];
  await send(chat, "ann", first, "Plan A: the harbour");
  const edited = await send(chat, "bob", first, "plan b");
  const recalled = await send(chat, "bob", first, "plan c");
  await send(chat, "cid", second, "plan d");
  await eventually(async () => {
    expect(await find(chat, "ann", "plan")).toEqual(["plan d", "plan c", "plan b", "Plan A: the harbour"]);
  });
  expect(await find(chat, "ann", "HARBOUR a")).toEqual(["Plan A: the harbour"]);
  expect(await find(chat, "ann", "plan", { conversation: second })).toEqual(["plan d"]);
  expect(await find(chat, "bob", "plan")).toEqual(["plan c", "plan b", "Plan A: the harbour"]);
  expect(await find(chat, "dan", "plan")).toEqual([]);
  for (const q of ["", "?!", '"', "plan OR x", "pla*"]) expect(await find(chat, "ann", q)).toEqual([]);

  await chat.http("bob", "PATCH", `/v1/conversations/${first}/messages/${edited}`, { body: { text: "route b" } });
  await chat.http("bob", "DELETE", `/v1/conversations/${first}/messages/${recalled}`);
  // At once, though the archive has not heard of it.
  expect(await find(chat, "bob", "plan c")).toEqual([]);
  await eventually(async () => {
    expect(await find(chat, "bob", "plan")).toEqual(["Plan A: the harbour"]);
    expect(await find(chat, "bob", "b")).toEqual(["route b"]);
  });
  await chat.http("bob", "DELETE", `/v1/conversations/${first}/messages/${edited}?for=me`);
  expect(await find(chat, "bob", "route")).toEqual([]);
  expect(await find(chat, "ann", "route")).toEqual(["route b"]);
  await chat.http("ann", "DELETE", `/v1/conversations/${first}/members/bob`);
  expect(await find(chat, "bob", "harbour")).toEqual([]);

  using ann = await chat.connect("ann");
  expect(await ann.call("search", { q: "harbour" })).toMatchObject({
    result: { hits: [{ conversation: first, message: { from: "ann", body: { text: "Plan A: the harbour" } } }] },
  });
});

test("pages through every hit once", async () => {
  await using store = await openTestStore("search");
  await using chat = await openTestChat(store);
  const groups = await Promise.all(Array.from({ length: 3 }, () => chat.group("ann", "bob")));
  for (let i = 0; i < 8; i++) await Promise.all(groups.map((group, g) => send(chat, "bob", group, `word ${g}/${i}`)));
  await eventually(async () => expect(await find(chat, "ann", "word", { limit: "50" })).toHaveLength(24));
  const seen: string[] = [];
  let page = await ask(chat, "ann", { q: "word", limit: "7" });
  for (let pages = 1; ; pages++) {
    seen.push(...page.hits.map(({ message }) => message.body.text));
    if (page.next === undefined || pages === 9) break;
    page = await ask(chat, "ann", { q: "word", limit: "7", before: page.next });
  }
  expect(new Set(seen).size).toBe(24);
  expect(seen).toHaveLength(24);
});

test("refuses what is no search, and a conversation of others as one that is not there", async () => {
  await using store = await openTestStore("search");
  await using chat = await openTestChat(store);
  const group = await chat.group("ann", "bob");
  const refused = async (query: string) => {
    const response = await chat.http("cid", "GET", `/v1/search?${query}`);
    const { code, issues } = (await response.json()) as { code: string; issues?: { path: string }[] };
    return [code, issues?.[0]?.path];
  };
  expect(await refused("")).toEqual(["INVALID", "q"]);
  expect(await refused(`q=${"a".repeat(257)}`)).toEqual(["INVALID", "q"]);
  expect(await refused(`q=${Array.from({ length: 17 }, (_, i) => `w${i}`).join("+")}`)).toEqual(["INVALID", "q"]);
  expect(await refused("q=a&limit=51")).toEqual(["INVALID", "limit"]);
  expect(await refused("q=a&before=1:x")).toEqual(["INVALID", "before"]);
  expect(await refused(`q=a&conversation=${group}`)).toEqual(["NOT_MEMBER", undefined]);
  expect(await refused("q=a&conversation=none")).toEqual(["NOT_MEMBER", undefined]);
});

test("tells who is put out while the archive searches nothing that was said behind him", async () => {
  await using store = await openTestStore("search");
  const chat = makeChat(store);
  const conversation = await chat.group("ann", "bob");
  await chat.send("ann", conversation, "word before");
  const { hits } = await searchConversations(
    {
      ...chat,
      async searchArchive() {
        await chat.conversations.remove("ann", conversation, "bob");
        await chat.send("ann", conversation, "word behind");
        return [3, 1].map((seq) => ({ conversation, seq, at: seq }));
      },
    },
    "bob",
    { q: "word", conversation, limit: 20 },
  );
  expect(hits.map(({ message }) => message.body.text)).toEqual(["word before"]);
});
