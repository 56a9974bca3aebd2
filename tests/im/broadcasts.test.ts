/**
 * Broadcasts as extlogic runs them, without logic: whom a command is published for, at what pace, and what pausing, cancelling and dying
 * runners change of it. What logic would have counted, the test counts.
 */

import { expect, test } from "bun:test";
import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import {
  type BroadcastInput,
  broadcastCounts,
  createBroadcasts,
  createUserIndex,
  imCommands,
  runBroadcasts,
  type SendCommand,
} from "../../lib/im/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { openRedis } from "../../lib/redis/index.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { loseAnswers } from "../support/lost-answers.ts";
import { openTestStore } from "../support/redis.ts";

const TO_ALL: BroadcastInput = {
  ...{ id: "b", by: "skein", type: "text", body: { text: 'to "all"' }, perSecond: 5_000, audience: { all: true } },
};

async function openStage(partitions = 4) {
  const store = await openTestStore("im-broadcasts", { partitions });
  const { redis, keys } = store;
  const commands = redis.commands;
  const broadcasts = createBroadcasts(commands, keys, systemClock);
  const parts = { redis: commands, keys, clock: systemClock, log: silentLog };
  const each = Array.from({ length: partitions }, (_, partition) => partition);

  const published = async () => {
    const pages = await Promise.all(each.map((p) => commands.xrange(keys.topic(imCommands.name, p), "-", "+")));
    return pages.flat().map(([, [header, data]]) => {
      const command = JSON.parse(data!) as SendCommand & { to: { user: string } };
      expect(v.is(imCommands.schema, command)).toBe(true);
      expect(header!.split(" ").slice(1, 3)).toEqual(["im.command.send", command.to.user]);
      return command;
    });
  };
  const recipients = async () => (await published()).map(({ to }) => to.user).sort();
  /** Logic has sent all that is published. */
  const answer = async (id = "b", outcome = "sent") => {
    for (const p of each) {
      const counts = await commands.hgetall(keys.own(p, broadcastCounts(id)));
      const { total = "0", ...answers } = counts;
      const answered = Object.values(answers).reduce((sum, count) => sum + Number(count), 0);
      if (Number(total) > answered)
        await commands.hincrby(keys.own(p, broadcastCounts(id)), outcome, Number(total) - answered);
    }
  };
  const runToEnd = (id = "b") =>
    eventually(async () => {
      await runBroadcasts(parts);
      await answer(id);
      expect((await broadcasts.get(id)).state).toBe("done");
    });
  return {
    ...{ store, keys, commands, broadcasts, parts, published, recipients, answer, runToEnd },
    know: (users: readonly string[]) =>
      createUserIndex(commands, keys).note(new Map(users.map((user) => [user, 1_000]))),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

const users = (count: number, name = "user") => Array.from({ length: count }, (_, i) => `${name}-${i}`).sort();

test("all users that are known get a command each, the broadcaster does not", async () => {
  await using stage = await openStage();
  await stage.know([...users(700), "skein", "ops"]);
  await stage.broadcasts.create({ ...TO_ALL, by: "ops", type: "card", body: { color: "red" } });
  await stage.runToEnd();
  expect(await stage.recipients()).toEqual(users(700));
  expect((await stage.published())[0]).toMatchObject({
    ...{ type: "send", by: "ops", clientId: "broadcast.b", messageType: "card", body: { color: "red" } },
    cause: { kind: "broadcast", id: "b" },
  });
  const { total, sent, refused, startedAt, endedAt } = await stage.broadcasts.get("b");
  expect({ total, sent, refused }).toEqual({ total: 700, sent: 700, refused: {} });
  expect(endedAt).toBeGreaterThanOrEqual(startedAt!);
});

test("of all users those who are seen while they are walked are neither missed nor asked for twice", async () => {
  await using stage = await openStage(2);
  await stage.know(users(900));
  await stage.broadcasts.create({ ...TO_ALL, perSecond: 1_500 });
  await eventually(async () => {
    await runBroadcasts(stage.parts);
    await stage.answer();
    for (const user of users(900).filter(() => Math.random() < 0.05)) {
      await stage.commands.zadd(stage.keys.users(stage.keys.partitionOf(user)), "GT", Date.now(), user);
    }
    expect((await stage.broadcasts.get("b")).state).toBe("done");
  });
  expect(await stage.recipients()).toEqual(users(900));
});

test("a list and the members of a conversation", async () => {
  await using stage = await openStage();
  const { broadcasts } = stage;
  const created = await broadcasts.create({ ...TO_ALL, audience: { users: [...users(40), "skein", "user-1"] } });
  expect(created).toMatchObject({ isNew: true, broadcast: { state: "running", audience: { users: 41 } } });
  await stage.runToEnd();
  expect(await stage.recipients()).toEqual(users(40));
  const conversation = await makeChat(stage.store).group("ann", "bob", "cid");
  await broadcasts.create({ ...TO_ALL, id: "c", by: "ann", audience: { conversation } });
  await stage.runToEnd("c");
  expect(await stage.recipients()).toEqual([...users(40), "bob", "cid"].sort());
  expect((await broadcasts.list()).map(({ id, state }) => [id, state])).toEqual([
    ["c", "done"],
    ["b", "done"],
  ]);
  // Of those that have ended nothing is left but what is told of them.
  const kept = (await stage.commands.keys(`${stage.keys.prefix}*list:*`)) as string[];
  expect(kept).toEqual([]);
});

test("the same id is the same broadcast, with other content a conflict; who is too much is told", async () => {
  await using stage = await openStage();
  const { broadcasts } = stage;
  const wanted = { ...TO_ALL, audience: { users: ["ann", "bob"] } };
  expect(await broadcasts.create(wanted)).toMatchObject({ isNew: true });
  expect(await broadcasts.create({ ...wanted, audience: { users: ["bob", "ann"] } })).toMatchObject({ isNew: false });
  for (const other of [{ by: "ops" }, { perSecond: 1 }, { audience: { users: ["ann", "cid"] } }, { type: "card" }]) {
    expect(await codeOf(broadcasts.create({ ...wanted, ...other }))).toBe("CONFLICT");
  }
  expect(await codeOf(broadcasts.create({ ...TO_ALL, id: "c", audience: { conversation: "none" } }))).toBe("NOT_FOUND");
  for (let i = 1; i < 20; i++) await broadcasts.create({ ...TO_ALL, id: `more-${i}` });
  expect(await codeOf(broadcasts.create({ ...TO_ALL, id: "c" }))).toBe("RATE_LIMITED");
  await broadcasts.order("more-1", "cancel");
  expect(await broadcasts.create({ ...TO_ALL, id: "c" })).toMatchObject({ isNew: true });
});

test("paused, resumed and cancelled: each may be said again, and of one that has ended the truth is told", async () => {
  await using stage = await openStage();
  const { broadcasts } = stage;
  await stage.know(users(400));
  await broadcasts.create(TO_ALL);
  const some = async () => {
    await runBroadcasts(stage.parts);
    return (await broadcasts.get("b")).total;
  };
  await eventually(async () => expect(await some()).toBeGreaterThan(0));
  for (let i = 0; i < 2; i++) expect(await broadcasts.order("b", "pause")).toMatchObject({ state: "paused" });
  const { total } = await broadcasts.get("b");
  await stage.answer();
  await Bun.sleep(20);
  expect(await some()).toBe(total);
  for (let i = 0; i < 2; i++) expect(await broadcasts.order("b", "resume")).toMatchObject({ state: "running" });
  await eventually(async () => expect(await some()).toBeGreaterThan(total));
  for (let i = 0; i < 2; i++) expect(await broadcasts.order("b", "cancel")).toMatchObject({ state: "cancelled" });
  const ended = await broadcasts.get("b");
  expect(ended.endedAt).toBeGreaterThan(0);
  await Bun.sleep(20);
  expect(await some()).toBe(ended.total);
  expect(await codeOf(broadcasts.order("b", "resume"))).toBe("CONFLICT");
  expect(await broadcasts.order("b", "pause").catch((error: AppError) => error.state)).toBe("cancelled");
  expect(await codeOf(broadcasts.order("nothing", "pause"))).toBe("NOT_FOUND");

  await broadcasts.create({ ...TO_ALL, id: "d" });
  await stage.runToEnd("d");
  expect(await broadcasts.order("d", "cancel").catch((error: AppError) => error.state)).toBe("done");
});

test("one that is paused does not run, and for longer than it lives is not open any more", async () => {
  await using stage = await openStage();
  await stage.broadcasts.create(TO_ALL);
  expect(await runBroadcasts(stage.parts)).toBe(1);
  await stage.broadcasts.order("b", "pause");
  expect(await runBroadcasts(stage.parts)).toBe(0);
  const open = () => stage.commands.scard(stage.keys.openBroadcasts());
  expect(await open()).toBe(1);
  await stage.commands.del(stage.keys.broadcast("b"));
  expect(await runBroadcasts(stage.parts)).toBe(0);
  expect(await open()).toBe(0);
});

test("no faster than its rate, and no further ahead of logic than half a second of it", async () => {
  await using stage = await openStage();
  await stage.know(users(2_000));
  const startedMs = Date.now();
  await stage.broadcasts.create({ ...TO_ALL, perSecond: 400 });
  // At full pace, and nobody looks for some time whether logic has answered.
  const later = Date.now() + 60_000;
  await stage.commands.hset(stage.keys.broadcast("b"), "pace", 400, "counted", later);
  const totalOf = async () => (await stage.broadcasts.get("b")).total;
  await eventually(async () => {
    await runBroadcasts(stage.parts);
    expect(await totalOf()).toBe(200);
  });
  expect(Date.now() - startedMs).toBeGreaterThanOrEqual(490);
  // Logic has answered nothing: nothing more is published, whatever the rate allows.
  for (let i = 0; i < 3; i++) {
    await Bun.sleep(20);
    await runBroadcasts(stage.parts);
  }
  expect(await totalOf()).toBe(200);
  await stage.answer();
  await stage.commands.hset(stage.keys.broadcast("b"), "counted", 0);
  await eventually(async () => {
    await runBroadcasts(stage.parts);
    expect(await totalOf()).toBeGreaterThan(200);
  });
});

test("slower while commands wait for logic, and up to its rate while they do not", async () => {
  await using stage = await openStage();
  // More than can be published meanwhile, however long each step takes: at its end it has no pace any more.
  await stage.know(users(4_000));
  await stage.broadcasts.create({ ...TO_ALL, perSecond: 1_000 });
  const paceIs = (check: (pace: number) => void, isAnswered: boolean) =>
    eventually(async () => {
      await runBroadcasts(stage.parts);
      if (isAnswered) await stage.answer();
      // As if a look were due already.
      await stage.commands.hset(stage.keys.broadcast("b"), "counted", 0);
      check(Number(await stage.commands.hget(stage.keys.broadcast("b"), "pace")));
    });
  await paceIs((pace) => expect(pace).toBe(1_000), true);
  await paceIs((pace) => expect(pace).toBe(100), false);
  await stage.answer();
  await paceIs((pace) => expect(pace).toBeGreaterThan(500), true);
});

test("it is done when all are answered, refusals by their code", async () => {
  await using stage = await openStage();
  await stage.know(users(50));
  await stage.broadcasts.create(TO_ALL);
  await eventually(async () => {
    await runBroadcasts(stage.parts);
    expect((await stage.broadcasts.get("b")).total).toBe(50);
  });
  for (let i = 0; i < 5; i++) {
    await runBroadcasts(stage.parts);
    await Bun.sleep(60);
  }
  expect(await stage.broadcasts.get("b")).toMatchObject({ state: "running", sent: 0 });
  await stage.answer("b", "FORBIDDEN");
  await stage.runToEnd();
  expect(await stage.broadcasts.get("b")).toMatchObject({ sent: 0, refused: { FORBIDDEN: 50 } });
});

test.each(["mqErrandClaim", "imBroadcastPublish", "mqErrandNote", "imUsersPage"])(
  "runners that die behind %s are followed by others, several at once: each user once",
  async (script) => {
    await using stage = await openStage(2);
    await stage.know(users(1_500));
    await stage.broadcasts.create(TO_ALL);
    for (let deaths = 0; deaths < 5; deaths++) {
      const redis = await openRedis(stage.store.url, "dying", silentLog);
      loseAnswers(redis.commands, script)(1);
      await runBroadcasts({ ...stage.parts, redis: redis.commands }).catch(() => undefined);
      await redis.close();
      await stage.answer();
      // Its lease would run out after a while.
      await stage.commands.hset(stage.keys.broadcast("b"), "lease", 0);
      await Promise.all([1, 2].map(() => runBroadcasts(stage.parts)));
    }
    await stage.runToEnd();
    expect(await stage.recipients()).toEqual(users(1_500));
    expect(await stage.broadcasts.get("b")).toMatchObject({ total: 1_500, sent: 1_500 });
  },
);

async function codeOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "none",
    (error: unknown) => (error instanceof AppError ? error.code : String(error)),
  );
}
