/**
 * A user with everything is erased over HTTP: nothing of him is left in Redis, in the archive, or in the bytes of its file, and the
 * others go on. Over each database.
 */

import { Database } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { selectFrom } from "../support/archive.ts";
import { openTestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { callerOf, live } from "../support/life.ts";
import { startTestPostgres } from "../support/postgres.ts";
import { openTestStore } from "../support/redis.ts";
import { remainsIn } from "../support/remains.ts";

const ANN = "ann.of@example.org";
const CANARY = "canaryword";

const folder = temporaryFolder("erasure");
const postgres = await startTestPostgres();
afterAll(async () => {
  await postgres?.stop();
  folder[Symbol.dispose]();
});

/** Waits for nothing longer than it must: heartbeats, looks at what is due. But the 40 looks of a DELETE are to take 8 s. */
const hurried = {
  ...systemClock,
  sleep: (ms: number, signal?: AbortSignal) => systemClock.sleep(Math.min(ms, 200), signal),
};

/** Every row of every table, and every byte of the file and its log. */
function remainsInSqlite(path: string, texts: readonly string[]): string[] {
  const database = new Database(path, { readonly: true });
  // The table of words gives nothing back of what it holds: the bytes tell.
  const tables = database
    .query<{ name: string }, []>("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'timeline_words'")
    .all();
  const found = tables.flatMap(({ name }) => {
    const rows = JSON.stringify(database.query(`SELECT * FROM ${name}`).all());
    return texts.filter((text) => rows.includes(text)).map((text) => `${name}: ${text}`);
  });
  database.close();
  const inBytes = [path, `${path}-wal`].filter(existsSync).flatMap((file) => {
    const bytes = readFileSync(file);
    return texts.filter((text) => bytes.includes(text)).map((text) => `${file}: ${text}`);
  });
  return [...found, ...inBytes];
}

const TABLES = ["timelines", "timeline_entries", "timeline_parts", "timeline_words"];

async function remainsInPostgres(url: string, texts: readonly string[]): Promise<string[]> {
  const found = await Promise.all(
    TABLES.map(async (table) => {
      const rows = JSON.stringify(await selectFrom(url, `SELECT whole::text FROM ${table} AS whole`));
      return texts.filter((text) => rows.includes(text)).map((text) => `${table}: ${text}`);
    }),
  );
  return found.flat();
}

interface Place {
  readonly url: string;
  remains(texts: readonly string[]): string[] | Promise<string[]>;
}

const places: readonly [string, () => Promise<Place>][] = [
  [
    "SQLite",
    async () => {
      const path = join(folder.path, "archive.db");
      return { url: `sqlite://${path}`, remains: (texts) => remainsInSqlite(path, texts) };
    },
  ],
  ...(postgres
    ? [
        [
          "PostgreSQL",
          async () => {
            const { url } = await postgres.database();
            return { url, remains: (texts) => remainsInPostgres(url, texts) };
          },
        ] satisfies [string, () => Promise<Place>],
      ]
    : []),
];

describe.each(places)("a user with everything, erased, over %s", (_, open) => {
  test("leaves nothing, is gone at once, and the others keep what is theirs", async () => {
    const place = await open();
    await using store = await openTestStore("erasure");
    await using chat = await openTestChat(store, { clock: hurried, env: { SKEIN_ARCHIVE_URL: place.url } });
    const caller = callerOf(chat);
    const { as, send, operator } = caller;
    const { client, bob, group, direct, channel, first, second } = await live(store, chat, caller, ANN, CANARY);
    const token = await chat.token(ANN);
    await eventually(async () => expect((await place.remains([CANARY])).length).toBeGreaterThan(1));
    expect((await remainsIn(store, [ANN])).length).toBeGreaterThan(25);

    const path = `/v1/users/${encodeURIComponent(ANN)}`;
    expect((await operator("GET", `${path}/erasure`)).status).toBe(404);
    const { status, body } = await operator("DELETE", path);
    expect(await client.closed).toMatchObject({ code: 4503 });
    expect({ status, state: body.state, waiting: body.waiting }).toEqual({ status: 200, state: "done", waiting: [] });
    expect(body.erased).toMatchObject({ conversations: 4 });
    for (const kind of ["entries", "parts", "keys", "queued", "archived"]) expect(body.erased[kind]).toBeGreaterThan(5);
    expect(await operator("GET", `${path}/erasure`)).toEqual({ status: 200, body });

    // At once but for the frames that gateways have written, which they drop with their next heartbeats.
    await eventually(async () => expect(await remainsIn(store, [ANN, CANARY])).toEqual([]));
    expect(await place.remains([ANN, CANARY])).toEqual([]);

    // His token is refused, and nobody takes him in anew.
    const own = await fetch(`${chat.url}/v1/conversations`, { headers: { authorization: `Bearer ${token}` } });
    expect(own.status).toBe(401);
    expect((await chat.http(ANN, "GET", "/v1/conversations")).status).toBe(401);
    const again = await chat.dial();
    await expect(again.request("session.open", { token })).rejects.toThrow("UNAUTHENTICATED");
    expect(await again.closed).toMatchObject({ code: 4501 });
    await expect(as("bob", "POST", `/v1/conversations/${group}/members`, { users: [ANN] })).rejects.toThrow("erased");
    expect((await bob.request("presence.subscribe", { users: [ANN] })).presence).toEqual([
      { user: ANN, online: false },
    ]);
    await eventually(async () => expect(await remainsIn(store, [ANN])).toEqual([]));

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
    expect(JSON.stringify(await as("bob", "POST", "/v1/sync", { cursors: [] }))).not.toContain(CANARY);
    const { scheduled } = await as("bob", "GET", "/v1/scheduled");
    expect(scheduled).toMatchObject([{ state: "waiting", body: { text: "later" }, mentions: [pseudonym] }]);
  });
});
