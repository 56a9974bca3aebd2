/** The index of all users: who comes into it and when, and that a walk through it misses nobody while they come and go. */

import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { attach, createPresence, createUserIndex, detach, type SeenUser } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createInboxConsumer } from "../../workers/logic/inbox.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

test("a connection, its end, and a first membership put a user into it", async () => {
  await using store = await openTestStore("im-users", { partitions: 1 });
  const { redis, keys, metrics } = store;
  const chat = makeChat(store);
  const seen = async (user: string) => Number(await redis.commands.zscore(keys.users(0), user));
  const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t" });
  const inbox = createInboxConsumer({ redis: redis.commands, keys, clock: systemClock, queue });
  await inbox.start();

  const startedMs = Date.now();
  const group = await chat.group("ann", "bob");
  await chat.conversations.create("ann", { id: "news", type: "channel", members: ["cid"] });
  await chat.conversations.add("ann", group, ["dan"]);
  await eventually(async () => {
    for (const user of ["ann", "bob", "cid", "dan"]) expect(await seen(user)).toBeGreaterThanOrEqual(startedMs - 1_000);
  });

  await redis.commands.zadd(keys.users(0), 1_000, "bob");
  const route = { user: "bob", connection: "k1", gateway: "g1", number: 1, device: "" };
  await attach(redis.commands, keys, systemClock, route);
  const attached = await seen("bob");
  expect(attached).toBeGreaterThan(1_000);
  await detach(redis.commands, keys, "bob", "k1");
  await redis.commands.zadd(keys.leaving(0), 1, "bob");
  await createPresence(redis.commands, keys, systemClock, chat.blocks).sweep(0);
  expect(await seen("bob")).toBe(Number(await redis.commands.hget(keys.presence("bob"), "seen")));
  expect(await seen("bob")).toBeGreaterThanOrEqual(attached);

  // Another membership of one who is known does not make him seen.
  await redis.commands.zadd(keys.users(0), 1_000, "cid");
  await chat.conversations.add("ann", group, ["cid", "eve"]);
  await eventually(async () => expect(await seen("eve")).toBeGreaterThan(0));
  expect(await seen("cid")).toBe(1_000);
  await inbox.stop(AbortSignal.timeout(2_000));
});

test("a walk meets everybody who was there when it began, though some are seen meanwhile and many at one time", async () => {
  await using store = await openTestStore("im-users", { partitions: 1 });
  const { redis, keys } = store;
  const index = createUserIndex(redis.commands, keys);
  const users = Array.from({ length: 300 }, (_, i) => `user-${i}`);
  await index.note(new Map(users.map((user, i) => [user, 1_000 + (i < 200 ? 7 : i)])));
  const met: string[] = [];
  let place: SeenUser | undefined;
  for (let pages = 0; ; pages++) {
    const page = await index.page(0, place, 20);
    met.push(...page.map(({ user }) => user));
    if (page.length < 20) break;
    place = page.at(-1)!;
    // The one at the place, one before it and one behind it are seen.
    const seenNow = [place.user, met[0]!, users[(pages * 37) % users.length]!];
    await redis.commands.zadd(keys.users(0), "GT", ...seenNow.flatMap((user) => [5_000 + pages, user]));
  }
  expect([...new Set(met)].sort()).toEqual([...users].sort());
});
