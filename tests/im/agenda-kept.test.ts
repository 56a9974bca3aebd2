/** What is kept of what users put off: how long, how much, and once although every script is sent twice. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { imReminders } from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";
import { sendTwice } from "../support/twice.ts";

const HOUR_MS = 3_600_000;
const WEEK_AGO = Date.now() - 8 * 24 * HOUR_MS;
const LATER = Date.now() + HOUR_MS;

let store: TestStore;
let chat: Chat;
beforeAll(async () => {
  store = await openTestStore("agenda-kept");
  chat = makeChat(store);
});
afterAll(() => store[Symbol.asyncDispose]());

/** The delayed message that a reminder waits, or waited, for. */
async function recordOf({ redis, keys }: Pick<Chat, "redis" | "keys">, user: string, id: string): Promise<string> {
  return (await redis.hget(keys.agenda(user, "reminders"), id))!.split(" ")[4]!;
}

test("what ended is forgotten after a week, or when as many ended since", async () => {
  const { redis, keys } = chat;
  const conversation = await chat.group("ann");
  const schedule = async (clientId: string) => {
    const params = { conversation, clientId, type: "text", body: { text: "later" }, deliverAt: LATER };
    return (await chat.scheduled.schedule({ by: "ann", params }))!.scheduled;
  };
  const ids = await Promise.all(Array.from({ length: 100 }, (_, i) => schedule(`c${i}`)));
  for (const id of ids) expect(await chat.scheduled.cancel("ann", id)).toBe("ok");
  await chat.scheduled.cancel("ann", await schedule("new"));
  await schedule("newer");
  expect(await redis.zcard(keys.agendaEnded("ann", "scheduled"))).toBe(100);
  await redis.zadd(keys.agendaEnded("ann", "scheduled"), ...ids.slice(10, 50).flatMap((id) => [WEEK_AGO, id]));
  await schedule("newest");
  expect(await redis.zcard(keys.agendaEnded("ann", "scheduled"))).toBe(60);
  expect(await redis.hlen(keys.agenda("ann", "scheduled"))).toBe(3 * 62);
});

test("one that fired more than a week ago is not shown, though nothing has swept it", async () => {
  const { redis, keys, reminders } = chat;
  const { id } = await reminders.create("bob", { at: 0, text: "tea" });
  await reminders.fire("bob", id, await recordOf(chat, "bob", id));
  const page = { limit: 9 };
  expect((await reminders.list("bob", page)).reminders).toMatchObject([{ id, state: "fired" }]);
  const items = keys.agenda("bob", "reminders");
  const [state, due, created, , ...rest] = (await redis.hget(items, id))!.split(" ");
  await redis.hset(items, id, [state, due, created, WEEK_AGO, ...rest].join(" "));
  expect((await reminders.list("bob", page)).reminders).toEqual([]);
});

test("each script sent twice, as by who did not hear the first answer, has the effect and the answer of once", async () => {
  await using twice = await openTestStore("agenda-twice", { partitions: 1 });
  const { redis, keys, reminders } = makeChat(twice);
  sendTwice(redis);
  const waiting = () => redis.zcard(keys.delayedDue(0));
  const fired = () => redis.xlen(keys.topic(imReminders.name, 0));
  const { id } = await reminders.create("ann", { at: 0, text: "tea" });
  expect([await waiting(), await fired()]).toEqual([0, 1]);
  expect(await reminders.fire("ann", id, await recordOf({ redis, keys }, "ann", id))).toMatchObject({ state: "fired" });
  expect(await reminders.snooze("ann", id, 1)).toBe("ok");
  expect([await waiting(), await fired()]).toEqual([0, 2]);
  expect(await reminders.snooze("ann", id, LATER)).toBe("ok");
  expect(await reminders.move("ann", id, LATER + 1)).toBe("ok");
  expect([await waiting(), await fired()]).toEqual([1, 2]);
  expect(await reminders.cancel("ann", id)).toBe("ok");
  expect([await waiting(), await fired(), (await reminders.list("ann", { limit: 9 })).reminders]).toEqual([0, 2, []]);
});
