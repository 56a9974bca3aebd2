/**
 * A user with everything is erased over HTTP: nothing of him is left in Redis, in the archive, or in the bytes of its file, and the
 * others go on.
 */

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { imCommands, imPush, imTopics, imUsers } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";
import { remainsIn } from "../support/remains.ts";

const ANN = "ann.of@example.org";
const CANARY = "canaryword";

let store: TestStore;
let chat: TestChat;
const folder = temporaryFolder("erasure");
const archivePath = join(folder.path, "archive.db");

beforeAll(async () => {
  store = await openTestStore("erasure");
  // Waits for nothing longer than it must: heartbeats, looks at what is due.
  const clock = {
    ...systemClock,
    sleep: (ms: number, signal?: AbortSignal) => systemClock.sleep(Math.min(ms, 100), signal),
  };
  chat = await openTestChat(store, { clock, env: { SKEIN_ARCHIVE_URL: `sqlite://${archivePath}` } });
});
afterAll(async () => {
  await chat[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

// biome-ignore lint/suspicious/noExplicitAny: replies of every shape
type Body = any;

async function as(user: string, method: string, path: string, body?: unknown): Promise<Body> {
  const response = await chat.http(user, method, path, body);
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path} as ${user}: ${response.status} ${text}`);
  return text === "" ? undefined : JSON.parse(text);
}

let sent = 0;
async function send(user: string, conversation: string, text: string, more: object = {}): Promise<number> {
  sent += 1;
  const path = `/v1/conversations/${conversation}/messages`;
  return (await as(user, "POST", path, { clientId: `c${sent}`, body: { text }, ...more })).seq;
}

async function operator(method: string, path: string): Promise<{ status: number; body: Body }> {
  const headers = { authorization: `Bearer ${chat.serviceKey}` };
  const response = await fetch(chat.url + path, { method, headers });
  return { status: response.status, body: await response.json() };
}

/** A life: everything that the product keeps of a user. */
async function live() {
  const queue = openQueue({
    ...{ redis: store.redis, keys: store.keys, metrics: store.metrics },
    ...{ clock: systemClock, log: silentLog, member: "t.life", topics: imTopics },
  });
  const client = await chat.connect(ANN);
  const bob = await chat.connect("bob");
  await bob.request("presence.subscribe", { users: [ANN] });
  const group = await chat.group(ANN, "bob", "cid");
  const create = async (by: string, body: object) =>
    (await as(by, "POST", "/v1/conversations", body)).conversation.id as string;
  const direct = await create(ANN, { type: "direct", members: ["bob"] });
  const channel = await create("bob", { type: "channel", members: [ANN, "cid"] });
  const alone = await create(ANN, { type: "group", members: [] });
  const left = await create("bob", { type: "group", members: [ANN, "cid"] });
  const message = (conversation: string, seq: number) => `/v1/conversations/${conversation}/messages/${seq}`;

  const first = await send(ANN, group, `${CANARY} one`, { mentions: ["bob", ANN] });
  await as("bob", "PUT", `${message(group, first)}/reactions/${encodeURIComponent("👍")}`);
  const second = await send("bob", group, "an answer", { replyTo: first, mentions: ["cid", ANN] });
  await as(ANN, "PUT", `${message(group, second)}/reactions/${encodeURIComponent("🎉")}`);
  await as("cid", "PUT", `${message(group, second)}/reactions/${encodeURIComponent("🎉")}`);
  await as(ANN, "PATCH", message(group, first), { body: { text: `${CANARY} edited` } });
  const recalled = await send(ANN, group, `${CANARY} recalled`);
  await as(ANN, "DELETE", message(group, recalled));
  await as(ANN, "PATCH", `/v1/conversations/${group}`, { title: "Tea" });
  await as(ANN, "PATCH", `/v1/conversations/${group}/members/cid`, { role: "admin" });
  await as(ANN, "PUT", `/v1/conversations/${group}/mute`, { until: Date.now() + 3_600_000 });
  await as(ANN, "PUT", `/v1/conversations/${group}/read`, { seq: second });
  for (const conversation of [direct, alone, left]) await send(ANN, conversation, `${CANARY} in ${conversation}`);
  await send("bob", direct, "to him");
  await send("bob", channel, "news", { mentions: [ANN] });
  await as(ANN, "DELETE", `/v1/conversations/${left}/members/${encodeURIComponent(ANN)}`);
  await as(ANN, "DELETE", `${message(group, second)}?for=me`);
  await as(ANN, "PUT", "/v1/me/blocks/dan");
  await as("eve", "PUT", `/v1/me/blocks/${encodeURIComponent(ANN)}`);
  await client.request("delivered", { conversation: group, seq: second });

  // What other roles would publish, with a dead letter and a delayed message.
  await queue.publish(imPush, {
    type: "im.push.requested",
    key: group,
    data: { conversation: group, seq: 1, id: "m", users: ["bob", ANN] },
  });
  await queue.publish(imUsers, { type: "im.user.online", key: ANN, data: { user: ANN, at: 1 } });
  const command = {
    type: "send" as const,
    by: ANN,
    to: { conversation: group },
    clientId: "later",
    messageType: "text",
    body: { text: CANARY },
    cause: { kind: "scheduled" as const, id: "s1" },
  };
  await queue.publish(imCommands, {
    type: "im.command.send",
    key: ANN,
    data: command,
    deliverAt: Date.now() + 3_600_000,
  });
  await store.redis.commands.xadd(
    store.keys.deadLetters("im.events", 0, "archive"),
    ...(["*", "i", "x", "k", group, "d", JSON.stringify({ from: ANN, body: { text: CANARY } })] as const),
  );
  return { client, bob, group, direct, channel, alone, left, first, second };
}

/** Every row of every table, and every byte of the file and its log. */
function remainsInArchive(texts: readonly string[]): string[] {
  const database = new Database(archivePath, { readonly: true });
  const tables = database
    .query<{ name: string }, []>(
      "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'timeline_words'",
    )
    .all();
  const found = tables.flatMap(({ name }) => {
    const rows = JSON.stringify(database.query(`SELECT * FROM ${name}`).all());
    return texts.filter((text) => rows.includes(text)).map((text) => `${name}: ${text}`);
  });
  database.close();
  const files = [archivePath, `${archivePath}-wal`].filter(existsSync);
  const inBytes = files.flatMap((file) => {
    const bytes = readFileSync(file);
    return texts.filter((text) => bytes.includes(text)).map((text) => `${file}: ${text}`);
  });
  return [...found, ...inBytes];
}

describe("a user with everything, erased", () => {
  test("leaves nothing, is gone at once, and the others keep what is theirs", async () => {
    const { client, bob, group, direct, channel, alone, left, first, second } = await live();
    const token = await chat.token(ANN);
    await eventually(() => expect(remainsInArchive([CANARY]).length).toBeGreaterThan(2));
    expect((await remainsIn(store, [ANN])).length).toBeGreaterThan(15);

    const { status, body } = await operator("DELETE", `/v1/users/${encodeURIComponent(ANN)}`);
    console.log(status, JSON.stringify(body));
    expect(await client.closed).toMatchObject({ code: 4503 });
    expect({ status, state: body.state, waiting: body.waiting }).toEqual({ status: 200, state: "done", waiting: [] });

    await eventually(async () => expect(await remainsIn(store, [ANN, CANARY])).toEqual([]));
    expect(remainsInArchive([ANN, CANARY])).toEqual([]);
    // His token is refused, and nobody takes him in anew.
    const own = await fetch(`${chat.url}/v1/conversations`, { headers: { authorization: `Bearer ${token}` } });
    expect(own.status).toBe(401);
    expect((await chat.http(ANN, "GET", "/v1/conversations")).status).toBe(401);
    const again = await chat.dial();
    await expect(again.request("session.open", { token })).rejects.toThrow("UNAUTHENTICATED");
    await expect(as("bob", "POST", `/v1/conversations/${group}/members`, { users: [ANN] })).rejects.toThrow("erased");
    expect(await remainsIn(store, [ANN])).toEqual([]);

    // What bob sees: the conversations under the seqs that they had, his own messages, and a stranger's name.
    const { messages } = await as("bob", "GET", `/v1/conversations/${group}/messages`);
    const pseudonym = messages[0].from as string;
    expect(pseudonym).toMatch(/^erased-[0-9a-f]{24}$/);
    expect(messages[0]).toMatchObject({ seq: first, body: {}, recalledAt: body.created });
    expect(messages[1]).toMatchObject({
      ...{ seq: second, from: "bob", body: { text: "an answer" }, replyTo: first, mentions: ["cid", pseudonym] },
      reactions: [{ emoji: "🎉", count: 2, users: [pseudonym, "cid"] }],
    });
    const { conversation } = await as("bob", "GET", `/v1/conversations/${group}`);
    expect(conversation.members).toEqual([
      { user: "cid", role: "owner" },
      { user: "bob", role: "member" },
    ]);
    const pair = (await as("bob", "GET", `/v1/conversations/${direct}`)).conversation;
    expect(pair.members.map(({ user }: { user: string }) => user).sort()).toEqual(["bob", pseudonym].sort());
    await expect(send("bob", direct, "still there?")).rejects.toThrow("dissolved");
    await send("bob", channel, "on we go");
    const synced = await as("bob", "POST", "/v1/sync", { cursors: [] });
    expect(JSON.stringify(synced)).not.toContain(CANARY);
    void [bob, alone, left];
  });
});
