/** What users put off, over the real queue and its timers: when it fires, what races with that, and what the user is told. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import * as v from "valibot";
import { imPush, imReminders, type NotificationName, ReminderSchema, read } from "../../lib/im/index.ts";
import { createCommands } from "../../workers/logic/commands.ts";
import { createReminderConsumer } from "../../workers/logic/reminders.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";

type World = Awaited<ReturnType<typeof openWorld>>;

const HOUR_MS = 3_600_000;

/** Logic and the scheduler; `gateway` stands for one that has a connection of whoever is `online`. */
async function openWorld() {
  const t = await openTestQueue("agenda", { partitions: 4 });
  const { keys, redis } = t.store;
  const chat = makeChat(t.store);
  await redis.commands.xadd(keys.gateway("g1"), "1-1", "- 0", "{}");
  await t.run(createCommands(chat, t.queue));
  await t.run(createReminderConsumer(chat, t.queue));
  await t.run(t.queue.createTimers());
  return {
    ...t,
    chat,
    async online(user: string) {
      await redis.commands.hset(keys.routes(user), "c1", "g1 1");
      await redis.commands.xadd(keys.routeChanges(), "*", "u", user);
    },
    /** What the gateway was given to write, of one kind. */
    async told(method: NotificationName): Promise<Record<string, Record<string, unknown>>[]> {
      const entries = await redis.commands.xrange(keys.gateway("g1"), "-", "+");
      const frames = entries.map(([, [, frame]]) => JSON.parse(frame!) as { method?: string; params: never });
      return frames.filter((frame) => frame.method === method).map(({ params }) => params);
    },
    async pushes(user: string): Promise<unknown[]> {
      const entries = await redis.commands.xrange(keys.topic(imPush.name, keys.partitionOf(user)), "-", "+");
      return entries
        .map(([, [, data]]) => JSON.parse(data!) as { users: string[] })
        .filter(({ users }) => users[0] === user);
    },
    async [Symbol.asyncDispose]() {
      await t[Symbol.asyncDispose]();
    },
  };
}

let world: World;
let people = 0;
/** Each test has users of its own. */
const somebody = () => `user-${++people}`;

beforeAll(async () => {
  world = await openWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

const soon = (ms = 100) => Date.now() + ms;
const later = () => Date.now() + HOUR_MS;

async function idOf(reply: Promise<{ scheduled: string } | undefined>): Promise<string> {
  return (await reply)!.scheduled;
}

function schedule(by: string, conversation: string, deliverAt: number, more: Record<string, unknown> = {}) {
  const params = { conversation, clientId: "c1", type: "text", body: { text: "later" }, deliverAt, ...more };
  return world.chat.scheduled.schedule({ by, params });
}

/** Has one that waits come soon: scheduled for soon it might be refused as past, or come before it is looked for. */
async function bring(user: string, id: string, ms?: number): Promise<number> {
  const at = soon(ms);
  expect(await world.chat.scheduled.move(user, id, at)).toBe("ok");
  return at;
}

const listed = async (user: string) => (await world.chat.scheduled.list(user, { limit: 100 })).scheduled;
/** Of a scheduled message: its delayed message in the queue. */
async function recordOf(user: string, id: string): Promise<string> {
  const head = await world.store.redis.commands.hget(world.store.keys.agenda(user, "scheduled"), id);
  return head!.split(" ")[4]!;
}

const reminders = async (user: string) => (await world.chat.reminders.list(user, { limit: 100 })).reminders;

describe("a reminder", () => {
  test("comes when it is due, not before, to all connections and to no push", async () => {
    const user = somebody();
    await world.online(user);
    const wanted = soon(300);
    const { id, at } = await world.chat.reminders.create(user, { at: wanted, text: "tea" });
    // What has passed when it is kept is due then.
    expect(at).toBeGreaterThanOrEqual(wanted);
    expect(await reminders(user)).toMatchObject([{ id, at, text: "tea" }]);
    await eventually(async () => {
      const [told] = (await world.told("reminder")).filter(({ reminder }) => reminder?.id === id);
      expect(told?.reminder).toMatchObject({ id, state: "fired", at, text: "tea" });
      expect(v.is(ReminderSchema, told?.reminder)).toBe(true);
      expect(told?.reminder?.firedAt).toBeGreaterThanOrEqual(at);
    });
    expect(await world.pushes(user)).toEqual([]);
    expect(await reminders(user)).toMatchObject([{ id, state: "fired" }]);
  });

  test("of somebody without a connection becomes one push notice", async () => {
    const [user, other] = [somebody(), somebody()];
    const conversation = await world.chat.group(user, other);
    await world.chat.send(other, conversation, "look at this");
    await world.chat.reminders.create(user, { at: 0, text: "tea", conversation, seq: 1 });
    const notice = { users: [user], title: "Reminder", text: "tea", conversation, seq: 1 };
    await eventually(async () => expect(await world.pushes(user)).toMatchObject([notice]));
    expect(v.is(imPush.schema, (await world.pushes(user))[0])).toBe(true);
  });

  test("with unlessRead does not come to who has read by then, though it be at the last moment", async () => {
    const [user, other, slow] = [somebody(), somebody(), somebody()];
    const conversation = await world.chat.group(user, other, slow);
    await world.chat.send(other, conversation, "read me");
    const reminder = { at: later(), text: "unread", conversation, seq: 1, unlessRead: true };
    const made = await Promise.all([user, slow].map((one) => world.chat.reminders.create(one, reminder)));
    await read(world.chat, user, conversation, 1);
    for (const [i, one] of [user, slow].entries()) {
      expect(await world.chat.reminders.move(one, made[i]!.id, soon())).toBe("ok");
    }
    await eventually(async () => expect(await world.pushes(slow)).toHaveLength(1));
    await eventually(async () => expect(await reminders(user)).toEqual([]));
    expect(await world.pushes(user)).toEqual([]);
  });

  test("is refused when it names what cannot be", async () => {
    const [user, other] = [somebody(), somebody()];
    const conversation = await world.chat.group(other);
    const create = (more: Record<string, unknown>) =>
      refusal(world.chat.reminders.create(user, { at: later(), text: "t", ...more }));
    expect(await create({ seq: 1 })).toMatchObject({ code: "INVALID", issues: [{ path: "seq" }] });
    expect(await create({ conversation, seq: 1 })).toMatchObject({ code: "NOT_MEMBER" });
    await world.chat.conversations.add(other, conversation, [user]);
    expect(await create({ conversation, seq: 9 })).toMatchObject({ code: "INVALID", issues: [{ path: "seq" }] });
    expect(await create({ conversation, unlessRead: true })).toMatchObject({ issues: [{ path: "unlessRead" }] });
    expect(await create({ at: Date.now() + 41 * 24 * HOUR_MS })).toMatchObject({ issues: [{ path: "at" }] });
  });

  test("is made once per clientId, also by two at once; of other content it is a conflict", async () => {
    const user = somebody();
    const params = { at: later(), text: "tea", clientId: "r1" };
    const made = await Promise.all([1, 2, 3].map(() => world.chat.reminders.create(user, params)));
    expect(new Set(made.map(({ id }) => id)).size).toBe(1);
    expect(await reminders(user)).toHaveLength(1);
    const other = await refusal(world.chat.reminders.create(user, { ...params, text: "coffee" }));
    expect(other.code).toBe("CONFLICT");
    expect(
      (await world.queue.delayed.list({ topic: imReminders.name })).messages.filter(({ key }) => key === user),
    ).toHaveLength(1);
  });

  test("cancelled, it never comes; cancelled again it is cancelled; what is no more is not found", async () => {
    const user = somebody();
    await world.online(user);
    const { id } = await world.chat.reminders.create(user, { at: later(), text: "tea" });
    const { cancel, move } = world.chat.reminders;
    expect([await cancel(user, id), await cancel(user, id), await cancel(user, "nothing")]).toEqual([
      "ok",
      "ok",
      "not_found",
    ]);
    expect([await move(user, id, later()), await cancel(somebody(), id)]).toEqual(["not_found", "not_found"]);
    expect(await reminders(user)).toEqual([]);
  });

  test("moved to the past it comes now, once, and then it can be moved no more", async () => {
    const user = somebody();
    const { id } = await world.chat.reminders.create(user, { at: later(), text: "tea" });
    const at = later() + 1_000;
    expect(await world.chat.reminders.move(user, id, at)).toBe("ok");
    expect(await reminders(user)).toMatchObject([{ id, at }]);
    expect(await world.chat.reminders.move(user, id, 1)).toBe("ok");
    await eventually(async () => expect(await world.pushes(user)).toHaveLength(1));
    expect(await world.chat.reminders.move(user, id, later())).toBe("already_fired");
    expect(await world.chat.reminders.cancel(user, id)).toBe("already_fired");
    expect(await reminders(user)).toEqual([]);
  });

  test("asked for again by who is no member any more is the one that there is", async () => {
    const [owner, user] = [somebody(), somebody()];
    const conversation = await world.chat.group(owner, user);
    const params = { at: later(), text: "tea", conversation, clientId: "tea" };
    const first = await world.chat.reminders.create(user, params);
    await world.chat.conversations.remove(owner, conversation, user);
    expect(await world.chat.reminders.create(user, params)).toEqual(first);
    expect(await refusal(world.chat.reminders.create(user, { ...params, clientId: "more" }))).toMatchObject({
      code: "NOT_MEMBER",
    });
  });

  test("snoozed it comes again, and a waiting one is moved", async () => {
    const user = somebody();
    const { id } = await world.chat.reminders.create(user, { at: 0, text: "tea" });
    await eventually(async () => expect(await reminders(user)).toMatchObject([{ id, state: "fired" }]));
    expect(await world.chat.reminders.snooze(user, id, later())).toBe("ok");
    expect(await reminders(user)).toMatchObject([{ id, state: "waiting" }]);
    expect(await world.chat.reminders.snooze(user, id, soon())).toBe("ok");
    await eventually(async () => expect(await world.pushes(user)).toHaveLength(2));
    expect(await reminders(user)).toMatchObject([{ id, state: "fired" }]);
  });

  test("as many as there may be wait, and one more is refused", async () => {
    const user = somebody();
    const inputs = Array.from({ length: 1_000 }, (_, i) => ({ at: later() + i, text: `n${i}` }));
    const made = await Promise.all(inputs.map((input) => world.chat.reminders.create(user, input)));
    const more = () => world.chat.reminders.create(user, { at: later(), text: "more" });
    expect(await refusal(more())).toMatchObject({ code: "INVALID", issues: [{ path: "at" }] });
    expect(await world.chat.reminders.cancel(user, made[3]!.id)).toBe("ok");
    await more();
    const seen: string[] = [];
    for (let after: string | undefined, pages = 0; pages < 20; pages++) {
      const page = await world.chat.reminders.list(user, { after, limit: 97 });
      seen.push(...page.reminders.map(({ text }) => text));
      after = page.next;
      if (!after) break;
    }
    expect(seen.filter((text) => text !== "more")).toEqual(
      inputs.map(({ text }) => text).filter((text) => text !== "n3"),
    );
  });
});

describe("a scheduled message", () => {
  test("is sent when it is due, as a live one, and its sender hears of it", async () => {
    const [ann, bob] = [somebody(), somebody()];
    await world.online(ann);
    const conversation = await world.chat.group(ann, bob);
    await world.chat.send(bob, conversation, "is it there?");
    const deliverAt = later();
    const reply = await schedule(ann, conversation, deliverAt, { replyTo: 1, mentions: [bob] });
    expect(reply).toMatchObject({ deliverAt });
    expect(await listed(ann)).toMatchObject([{ id: reply!.scheduled, state: "waiting", conversation, deliverAt }]);
    const due = await bring(ann, reply!.scheduled, 200);
    await eventually(async () => {
      const [, row] = await world.chat.rows(conversation);
      expect(row?.[3]).toMatchObject({ from: ann, body: { text: "later" }, replyTo: 1, mentions: [bob] });
      expect(row?.[3].sentAt).toBeGreaterThanOrEqual(due);
    });
    await eventually(async () => {
      const [told] = (await world.told("scheduled")).filter(({ scheduled }) => scheduled?.id === reply!.scheduled);
      expect(told?.scheduled).toMatchObject({ state: "sent", seq: 2, conversation });
    });
    expect(await listed(ann)).toEqual([]);
    // The clientId is the message's: sent once more, it is there.
    const again = await world.chat.send(ann, conversation, "later", { clientId: "c1", replyTo: 1, mentions: [bob] });
    expect(again).toMatchObject({ ok: true, value: { seq: 2, duplicate: true } });
  });

  test("once per clientId, whatever happens meanwhile; of other content it is a conflict; the past is now", async () => {
    const [ann, bob] = [somebody(), somebody()];
    const conversation = await world.chat.group(bob, ann);
    const deliverAt = later();
    const replies = await Promise.all([1, 2, 3].map(() => schedule(ann, conversation, deliverAt)));
    expect(new Set(replies.map((reply) => reply!.scheduled)).size).toBe(1);
    expect((await refusal(schedule(ann, conversation, deliverAt, { body: { text: "other" } }))).code).toBe("CONFLICT");
    await world.chat.conversations.remove(bob, conversation, ann);
    expect(await schedule(ann, conversation, deliverAt)).toEqual(replies[0]);
    expect((await refusal(schedule(ann, conversation, deliverAt, { clientId: "c2" }))).code).toBe("NOT_MEMBER");
    expect(await schedule(bob, conversation, 1)).toBeUndefined();
  });

  test("what can be told is refused at once", async () => {
    const [ann, bob] = [somebody(), somebody()];
    const conversation = await world.chat.group(bob, ann);
    await world.chat.conversations.update(bob, conversation, ann, { mutedUntil: later() });
    expect((await refusal(schedule(ann, conversation, later()))).code).toBe("MUTED");
    const wrong: readonly [path: string, deliverAt: number, more: Record<string, unknown>][] = [
      ["replyTo", later(), { replyTo: 9 }],
      ["deliverAt", Date.now() + 41 * 24 * HOUR_MS, {}],
      ["expireAt", later(), { expireAt: 1 }],
    ];
    for (const [path, deliverAt, more] of wrong) {
      expect(await refusal(schedule(bob, conversation, deliverAt, more))).toMatchObject({ issues: [{ path }] });
    }
  });

  test.each([
    ["kicked", "NOT_MEMBER", (owner, who, where) => world.chat.conversations.remove(owner, where, who)],
    [
      "muted",
      "MUTED",
      (owner, who, where) => world.chat.conversations.update(owner, where, who, { mutedUntil: later() }),
    ],
    ["dissolved", "FORBIDDEN", (owner, _, where) => world.chat.conversations.dissolve(owner, where)],
  ] as [string, string, (owner: string, who: string, where: string) => Promise<unknown>][])(
    "whose sender was %s meanwhile is refused, and he hears of it",
    async (_, code, change) => {
      const [owner, who] = [somebody(), somebody()];
      await world.online(who);
      const conversation = await world.chat.group(owner, who);
      const id = await idOf(schedule(who, conversation, later()));
      await change(owner, who, conversation);
      await bring(who, id);
      await eventually(async () => expect(await listed(who)).toMatchObject([{ id, state: "refused", code }]));
      await eventually(async () => {
        const told = (await world.told("scheduled")).filter(({ scheduled }) => scheduled?.id === id);
        expect(told).toMatchObject([{ scheduled: { state: "refused", code, body: { text: "later" } } }]);
      });
      expect((await listed(who))[0]?.reason).toBeString();
      expect(await world.chat.scheduled.move(who, id, later())).toBe("already_fired");
      expect(await world.chat.scheduled.cancel(who, id)).toBe("ok");
      expect(await listed(who)).toEqual([]);
    },
  );

  test("to somebody who has blocked its sender meanwhile is refused", async () => {
    const [ann, bob] = [somebody(), somebody()];
    const { conversation } = await world.chat.conversations.create(ann, { type: "direct", members: [bob] });
    const id = await idOf(schedule(ann, conversation.id, later()));
    await world.chat.blocks.add(bob, ann);
    await bring(ann, id);
    await eventually(async () => expect(await listed(ann)).toMatchObject([{ id, code: "FORBIDDEN" }]));
    expect(await world.chat.rows(conversation.id)).toEqual([]);
  });

  test("whose message an operator has cancelled in the queue is cancelled", async () => {
    const ann = somebody();
    const id = await idOf(schedule(ann, await world.chat.group(ann), later()));
    expect(await world.queue.delayed.cancel(await recordOf(ann, id))).toBe("ok");
    expect(await listed(ann)).toEqual([]);
    expect(await world.chat.scheduled.move(ann, id, later())).toBe("not_found");
  });

  test("asked for when its time is over and it has expired is refused, unless it was sent in time", async () => {
    const ann = somebody();
    const conversation = await world.chat.group(ann);
    const past = Date.now() - HOUR_MS;
    const late = { clientId: "late", expireAt: past + 1 };
    expect(await refusal(schedule(ann, conversation, past, late))).toMatchObject({ issues: [{ path: "expireAt" }] });
    await world.chat.send(ann, conversation, "in time", { clientId: "late" });
    expect(await schedule(ann, conversation, past, late)).toBeUndefined();
  });

  test("that could not be sent before it expired is not sent", async () => {
    const ann = somebody();
    const conversation = await world.chat.group(ann);
    const id = await idOf(schedule(ann, conversation, later(), { expireAt: later() + 1_000 }));
    const [waiting] = await listed(ann);
    expect(await refusal(world.chat.scheduled.move(ann, id, waiting!.expireAt! + 1))).toMatchObject({
      code: "INVALID",
    });
    // As if the scheduler had been away for an hour: the record fires, and its time is over.
    const items = world.store.keys.agenda(ann, "scheduled");
    const content = JSON.parse((await world.store.redis.commands.hget(items, `${id}:`))!);
    await world.store.redis.commands.hset(items, `${id}:`, JSON.stringify({ ...content, expireAt: 1 }));
    expect(await world.queue.delayed.sendNow(await recordOf(ann, id))).toBe("ok");
    await eventually(async () => expect(await listed(ann)).toMatchObject([{ id, code: "REFUSED" }]));
    expect(await world.chat.rows(conversation)).toEqual([]);
  });
});

describe("races", () => {
  test("cancel, move and fire of the same moment: what the user is told is what happens", async () => {
    const user = somebody();
    const conversation = await world.chat.group(user);
    const ids = await Promise.all(
      Array.from({ length: 60 }, (_, i) => idOf(schedule(user, conversation, later(), { clientId: `c${i}` }))),
    );
    const [at] = await Promise.all(ids.map((id) => bring(user, id, 300)));
    await Bun.sleep(Math.max(0, at! - Date.now() - 2));
    const results = await Promise.all(
      ids.map(async (id, i) => {
        await Bun.sleep(i % 10);
        const act = i % 2 === 0 ? world.chat.scheduled.cancel(user, id) : world.chat.scheduled.move(user, id, later());
        return act;
      }),
    );
    const spared = results.filter((result) => result === "ok").length;
    expect(new Set(results).isSubsetOf(new Set(["ok", "already_fired"]))).toBe(true);
    await eventually(async () => expect(await world.chat.rows(conversation)).toHaveLength(60 - spared));
    const moved = results.filter((result, i) => result === "ok" && i % 2 === 1).length;
    await eventually(async () =>
      expect((await listed(user)).map(({ state }) => state)).toEqual(Array(moved).fill("waiting")),
    );
  });

  test("a message that comes to logic twice is one; a reminder that was snoozed meanwhile waits", async () => {
    const user = somebody();
    const conversation = await world.chat.group(user);
    const id = await idOf(schedule(user, conversation, later()));
    await bring(user, id);
    await eventually(async () => expect(await world.chat.rows(conversation)).toHaveLength(1));
    const record = await recordOf(user, id);
    const never = () => Promise.reject(new Error("it was sent twice"));
    await eventually(async () => expect(await listed(user)).toEqual([]));
    await world.chat.scheduled.fire(user, id, record, never);
    const { id: reminder } = await world.chat.reminders.create(user, { at: later(), text: "tea" });
    expect(await world.chat.reminders.fire(user, reminder, "another record")).toBeUndefined();
    expect(await reminders(user)).toMatchObject([{ state: "waiting" }]);
  });
});
