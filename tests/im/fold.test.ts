/**
 * One conversation in four places: history across the hot window and the archive, a client that folded each entry as it came, a
 * fresh client that synced from the start, and the archive alone. After any mixture of acts they hold the same bytes.
 */

import { describe, expect, test } from "bun:test";
import { openArchive, type TimelineState } from "../../lib/archive/index.ts";
import { fold } from "../../lib/client/index.ts";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { createTrim, type Entry, foldedMessage, history, LIMITS, type Message, sync } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { startServices } from "../../lib/service.ts";
import { createIngest } from "../../workers/archive/ingest.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

const USERS = ["ann", "bob", "cid", "dan", "eve", "fay"];
const EMOJIS = ["👍", "🎉", "❤️", "ok"];
const HOT_ENTRIES = 6;

/** The chat over a real archive, which follows by its own consumer and is trimmed behind when asked. */
async function setup(hotEntries = HOT_ENTRIES) {
  const store = await openTestStore("fold", { partitions: 1 });
  const folder = temporaryFolder("fold");
  const archive = await openArchive(`sqlite://${folder.path}/archive.db`);
  const chat = makeChat(store, async (range) => archive.history(range));
  const { redis, keys, metrics } = store;
  const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "archive" });
  let held: TimelineState | undefined;
  const onWritten = ([state]: readonly TimelineState[]) => {
    held = state;
  };
  const ingest = createIngest({ store: archive, queue, clock: systemClock, log: silentLog, metrics, onWritten });
  const running = await startServices([ingest]);
  const conversation = await chat.group(...USERS);
  const { epoch } = (await chat.conversations.state("ann", conversation))!;
  const trim = createTrim(chat.redis, keys, hotEntries);
  return {
    chat,
    conversation,
    epoch,
    archive,
    /** Trims behind what the archive holds at this moment. */
    trim: async () => {
      if (held) await trim(conversation, epoch, held.lastSeq);
    },
    archived: (seq: number) => eventually(() => expect(held?.lastSeq).toBeGreaterThanOrEqual(seq)),
    async [Symbol.asyncDispose]() {
      await running.stop();
      await archive.close();
      folder[Symbol.dispose]();
      await store[Symbol.asyncDispose]();
    },
  };
}

type World = Awaited<ReturnType<typeof setup>>;

/** mulberry32: 32 bits of state are plenty for a few hundred acts. */
function randomOf(seed: number) {
  let state = seed;
  return (below: number): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** One act of somebody on some message; refusals (a foreign message, a recalled one, too many reactions) are part of the mixture. */
async function act(
  { chat, conversation }: World,
  random: (below: number) => number,
  messages: number[],
): Promise<void> {
  const user = USERS[random(USERS.length)]!;
  const target = { conversation, seq: messages[random(messages.length)] ?? 1 };
  const kind = random(10);
  try {
    if (kind < 3 || messages.length === 0) {
      const sent = await chat.send(
        user,
        conversation,
        `text ${random(1_000)}`,
        kind === 0 ? { mentions: ["ann"] } : {},
      );
      if (sent.ok) messages.push(sent.value.seq);
    } else if (kind < 5) await chat.amendments.edit(user, target, { text: `edited ${random(5)}` });
    else if (kind < 6) await chat.amendments.recall(user, target);
    else await chat.amendments.react(user, target, EMOJIS[random(EMOJIS.length)]!, random(3) > 0);
  } catch (error) {
    if (!(error instanceof AppError) || !["FORBIDDEN", "INVALID"].includes(error.code)) throw error;
  }
}

function foldAll(entries: readonly Entry[]): Message[] {
  const messages = new Map<number, Message>();
  for (const entry of entries) {
    if (entry.kind === "message") messages.set(entry.seq, entry.message);
    else if ("target" in entry) messages.set(entry.target, fold(messages.get(entry.target)!, entry));
  }
  return [...messages.values()];
}

async function pageHistory({ chat, conversation }: World, limit: number): Promise<Message[]> {
  const found: Message[] = [];
  for (let more = true, before: number | undefined; more; before = found[0]?.seq) {
    const page = await history(chat, "ann", { conversation, before, limit });
    found.unshift(...page.messages);
    more = page.more;
  }
  return found;
}

async function syncAll({ chat, conversation, epoch }: World): Promise<Entry[]> {
  const found: Entry[] = [];
  for (let more = true; more; ) {
    const { conversations } = await sync(chat, "ann", [{ conversation, epoch, seq: found.at(-1)?.seq ?? 0 }]);
    expect(conversations[0]!.verdict).toBe("resumed");
    found.push(...conversations[0]!.entries);
    more = conversations[0]!.more;
  }
  return found;
}

/** The entries as gateways were given them. */
async function liveEntries({ chat, conversation }: World): Promise<Entry[]> {
  const events = await chat.events(conversation);
  return events
    .filter(({ sequence }) => sequence !== "")
    .map(({ type, data }) =>
      type === "im.message.created"
        ? ({ kind: "message", seq: data.seq, id: data.id, message: data } as unknown as Entry)
        : (data.entry as Entry),
    );
}

describe("after any mixture of sends, edits, recalls and reactions", () => {
  test.each([1, 2, 3, 4])(
    "every place holds the same bytes (seed %d)",
    async (seed) => {
      await using world = await setup();
      const { chat, conversation, epoch, archive } = world;
      const random = randomOf(seed);
      const messages: number[] = [];
      for (let i = 0; i < 250; i++) {
        await act(world, random, messages);
        // Sometimes the archive is up to date, mostly it is behind; trimming comes whenever it likes.
        if (random(60) === 0) await world.archived((await liveEntries(world)).length);
        if (random(8) === 0) await world.trim();
        if (random(25) === 0) {
          const expected = foldAll(await liveEntries(world));
          expect(JSON.stringify(await pageHistory(world, 7))).toBe(JSON.stringify(expected));
        }
      }

      const live = await liveEntries(world);
      expect(live.map((entry) => entry.seq)).toEqual(live.map((_, i) => i + 1));
      const expected = JSON.stringify(foldAll(live));
      expect(JSON.stringify(await pageHistory(world, 50))).toBe(expected);
      expect(JSON.stringify(foldAll(await syncAll(world)))).toBe(expected);
      await world.archived(live.length);
      await world.trim();
      expect((await chat.rows(conversation))[0]![0]).toBeGreaterThan(1);
      const range = { conversation, epoch, newest: false, messagesOnly: true, limit: 1_000 };
      const alone = await archive.history({ ...range, parts: ["content", "reactions"] });
      expect(JSON.stringify(alone.map(({ record, parts }) => foldedMessage(record, parts)))).toBe(expected);
      expect(JSON.stringify(await pageHistory(world, 11))).toBe(expected);
    },
    60_000,
  );
});

describe("a message that only the archive has", () => {
  /** ann's message at 1, behind the window. */
  async function archivedTarget(world: World) {
    const { chat, conversation } = world;
    await chat.send("ann", conversation, "old");
    await chat.amendments.react("bob", { conversation, seq: 1 }, "👍", true);
    for (let i = 0; i < 20; i++) await chat.send("cid", conversation, `${i}`);
    await world.archived(22);
    await world.trim();
    expect((await chat.rows(conversation))[0]![0]).toBeGreaterThan(1);
    expect(await chat.redis.hkeys(chat.keys.folds(conversation))).toEqual(["#"]);
    expect(await chat.redis.exists(chat.keys.reactors(conversation, 1))).toBe(0);
    return { conversation, seq: 1 };
  }

  test("is edited, reacted to and recalled as any other; a repeat is no entry there either", async () => {
    await using world = await setup();
    const { chat, conversation } = world;
    const target = await archivedTarget(world);
    const head = async () => (await chat.conversations.state("ann", conversation))!.head;

    await chat.amendments.react("bob", target, "👍", true);
    expect(await head()).toBe(22);
    await chat.amendments.react("cid", target, "👍", true);
    await chat.amendments.react("bob", target, "👍", false);
    const edited = await chat.amendments.edit("ann", target, { text: "new" });
    expect(edited).toMatchObject({ body: { text: "new" }, reactions: [{ emoji: "👍", count: 1, users: ["cid"] }] });
    const first = async () => (await history(chat, "dan", { conversation, after: 0, limit: 1 })).messages[0];
    expect(await first()).toEqual(edited);

    await world.archived(25);
    await world.trim();
    expect(await first()).toEqual(edited);
    expect(await chat.redis.hkeys(chat.keys.folds(conversation))).toEqual(["#"]);
    await chat.amendments.react("bob", target, "👍", false);
    expect(await head()).toBe(25);
    expect(await chat.amendments.recall("ann", target)).toMatchObject({ body: {} });
    expect(await first()).toMatchObject({ body: {}, recalledAt: expect.any(Number) });
    await world.archived(26);
    await world.trim();
    await expect(chat.amendments.edit("ann", target, { text: "x" })).rejects.toMatchObject({ code: "FORBIDDEN" });
  });

  test("keeps its folded state in Redis while the archive does not have it, whatever is trimmed", async () => {
    await using world = await setup();
    const { chat, conversation, epoch } = world;
    const target = await archivedTarget(world);
    await chat.amendments.react("cid", target, "🎉", true);
    // As of before the reaction.
    await createTrim(chat.redis, chat.keys, 1)(conversation, epoch, 22);
    expect((await chat.redis.hkeys(chat.keys.folds(conversation))).sort()).toEqual(["#", "1r"]);
    expect(await chat.redis.hgetall(chat.keys.reactors(conversation, 1))).toEqual({ cid: '"🎉"' });
  });

  test("an entry that is no message is none there either", async () => {
    await using world = await setup();
    const { chat, conversation } = world;
    await archivedTarget(world);
    await expect(chat.amendments.react("cid", { conversation, seq: 2 }, "🎉", true)).rejects.toMatchObject({
      code: "NOT_FOUND",
    });
  });
});

test("the client names as many users of a reaction as the server does", () => {
  const place = { seq: 1, id: "m", conversation: "c", from: "ann", sentAt: 1 };
  let message: Message = { ...place, type: "text", body: { text: "x" } };
  for (let i = 0; i < LIMITS.reactionUsers + 3; i++) {
    const entry = {
      kind: "reaction",
      seq: i + 2,
      id: "e",
      by: `u${i}`,
      at: 1,
      target: 1,
      emoji: "👍",
      on: true,
    } as const;
    message = fold(message, entry);
  }
  expect(message.reactions![0]!.users).toHaveLength(LIMITS.reactionUsers);
});
