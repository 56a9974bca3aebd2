/** Winning back users who were not seen for long: who, once per period by any number of processes, and what is told. */

import { expect, test } from "bun:test";
import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import { attach, createWinback, imPush, imUsers, type WinbackOptions } from "../../lib/im/index.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

const DAY_MS = 86_400_000;
const OPTIONS: WinbackOptions = {
  idleMs: 30 * DAY_MS,
  periodMs: 7 * DAY_MS,
  push: { title: "Tea", text: 'is "ready"' },
};

async function openStage() {
  const store = await openTestStore("im-winback", { partitions: 1 });
  const { redis, keys } = store;
  const ago = (days: number) => Date.now() - days * DAY_MS;
  return {
    store,
    keys,
    commands: redis.commands,
    see: (user: string, days: number) => redis.commands.zadd(keys.users(0), ago(days), user),
    wonBack: (user: string, days: number) => redis.commands.zadd(keys.winback(0), ago(days), user),
    open: (options: Partial<WinbackOptions> = {}) =>
      createWinback(redis.commands, keys, systemClock, { ...OPTIONS, ...options }),
    events: () => read(store, imUsers.name),
    notices: () => read(store, imPush.name),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

async function read({ redis, keys }: TestStore, topic: string) {
  const rows = await redis.commands.xrange(keys.topic(topic, 0), "-", "+");
  return rows
    .map(([, [header, data]]) => ({
      type: header!.split(" ")[1]!,
      key: header!.split(" ")[2]!,
      data: JSON.parse(data!),
    }))
    .filter(({ type }) => type !== "im.user.online");
}

test("who was not seen for long is won back with an event and a push, others are not", async () => {
  await using stage = await openStage();
  await stage.see("long", 31);
  await stage.see("recent", 29);
  await stage.see("back", 40);
  await attach(stage.commands, stage.keys, systemClock, {
    ...{ user: "back", connection: "k", gateway: "g", number: 1, device: "" },
  });
  await stage.see("online", 40);
  await stage.commands.hset(stage.keys.presence("online"), "online", 1);
  expect(await stage.open().sweep(0)).toBe(1);
  const [event, ...others] = await stage.events();
  expect(others).toEqual([]);
  expect(event).toMatchObject({ type: "im.user.winback", key: "long", data: { user: "long" } });
  expect(v.is(imUsers.schema, event!.data)).toBe(true);
  const [notice] = await stage.notices();
  expect(notice).toMatchObject({ type: "im.push.notice", key: "long", data: { users: ["long"], ...OPTIONS.push } });
  expect(v.is(imPush.schema, notice!.data)).toBe(true);
});

test("once per period, whoever sweeps and how many at once", async () => {
  await using stage = await openStage();
  const users = Array.from({ length: 50 }, (_, i) => `user-${i}`);
  for (const user of users) await stage.see(user, 60);
  await stage.wonBack("user-0", 6);
  await stage.wonBack("user-1", 8);
  const counts = await Promise.all([1, 2, 3].map(() => stage.open({ push: undefined }).sweep(0)));
  expect(counts.reduce((sum, count) => sum + count, 0)).toBe(49);
  expect((await stage.events()).map(({ key }) => key).sort()).toEqual(users.filter((user) => user !== "user-0").sort());
  expect(await stage.notices()).toEqual([]);
  // The period of all of them is over, and of the first as well.
  await Promise.all(users.map((user) => stage.wonBack(user, 8)));
  expect(await stage.open().sweep(0)).toBe(50);
  expect(await stage.open().sweep(0)).toBe(0);
});

test("a sweep looks at so many and the next one goes on behind them, then from the beginning", async () => {
  await using stage = await openStage();
  const rows = Array.from({ length: 4_500 }, (_, i) => [Date.now() - 60 * DAY_MS, `user-${i}`]);
  await stage.commands.zadd(stage.keys.users(0), ...rows.flat().map(String));
  const winback = stage.open({ push: undefined });
  const counts = [await winback.sweep(0), await winback.sweep(0), await winback.sweep(0)];
  expect(counts).toEqual([2_000, 2_000, 500]);
  await stage.see("user-new", 59);
  expect(await winback.sweep(0)).toBe(0);
  expect([await winback.sweep(0), await winback.sweep(0)]).toEqual([0, 1]);
});

test("notes of which nothing follows any more are removed", async () => {
  await using stage = await openStage();
  await stage.wonBack("gone", 15);
  await stage.wonBack("kept", 6);
  await stage.open().sweep(0);
  expect(await stage.commands.zrange(stage.keys.winback(0), "0", "-1")).toEqual(["kept"]);
});
