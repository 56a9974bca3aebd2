import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { attach, detach, imPush } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { startServices } from "../../lib/service.ts";
import { createDelivery } from "../../workers/logic/delivery.ts";
import { createInboxConsumer } from "../../workers/logic/inbox.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

/** Delivery and inbox over a real queue; gateways are their streams, which is all that delivery sees of them. */
async function setup(store: TestStore, { hasInbox = true } = {}) {
  const { redis, keys, metrics } = store;
  const chat = makeChat(store);
  const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "logic.1" });
  const parts = { redis: redis.commands, keys, clock: systemClock, queue, metrics };
  const running = await startServices([...(hasInbox ? [createInboxConsumer(parts)] : []), createDelivery(parts)]);
  return {
    chat,
    queue,
    async gateway(node: string) {
      await redis.commands.xadd(keys.gateway(node), "*", "-", "");
    },
    attach: (user: string, gateway: string, number: number) =>
      attach(redis.commands, keys, systemClock, {
        user,
        connection: `${gateway}-${number}`,
        gateway,
        number,
        device: "",
      }),
    /** What the gateway is to write: [targets, frame] in order, with a list that stands for the one before written out. */
    async frames(node: string): Promise<[string, { method: string; params: Record<string, unknown> }][]> {
      const entries = await redis.commands.xrange(keys.gateway(node), "-", "+");
      return entries.slice(1).flatMap(([, fields]) => {
        const pairs: [string, { method: string; params: Record<string, unknown> }][] = [];
        let list = "";
        for (let i = 0; i < fields.length; i += 2) {
          const [conversation, seq, shown] = fields[i]!.split(" ") as [string, string, string];
          const [own, except] = shown.split("!");
          list = own === "=" ? list : own!;
          const targets = `${conversation} ${seq} ${list}${except === undefined ? "" : `!${except}`}`;
          pairs.push([targets, JSON.parse(fields[i + 1]!)]);
        }
        return pairs;
      });
    },
    [Symbol.asyncDispose]: () => running.stop(),
  };
}

describe("delivery", () => {
  test("a message goes once to each gateway that holds a member's connection, in order, without the sending connection", async () => {
    await using store = await openTestStore("delivery");
    await using world = await setup(store);
    const { chat } = world;
    await world.gateway("g1");
    await world.gateway("g2");
    await world.attach("ann", "g1", 1);
    await world.attach("ann", "g2", 2);
    await world.attach("bob", "g2", 36);
    const conversation = await chat.group("ann", "bob", "cid");

    for (const text of ["one", "two", "three"]) await chat.send("ann", conversation, text, { connection: "g1-1" });

    await eventually(async () => {
      const messages = (await world.frames("g2")).filter(([, { method }]) => method === "message");
      expect(messages.map(([targets, { params }]) => [targets, (params.message as { body: unknown }).body])).toEqual([
        [`${conversation} 1 2,10`, { text: "one" }],
        [`${conversation} 2 2,10`, { text: "two" }],
        [`${conversation} 3 2,10`, { text: "three" }],
      ]);
    });
    expect((await world.frames("g1")).filter(([, { method }]) => method === "message")).toEqual([]);
  });

  test("a connection attached before a send is in its fan-out; a detached one is not", async () => {
    await using store = await openTestStore("delivery");
    await using world = await setup(store);
    const { chat } = world;
    await world.gateway("g1");
    const conversation = await chat.group("ann", "bob");
    for (let i = 1; i <= 20; i++) {
      await world.attach("bob", "g1", i);
      await chat.send("ann", conversation, `${i}`);
      await eventually(async () =>
        expect((await world.frames("g1")).at(-1)?.[0]).toBe(`${conversation} ${i} ${i.toString(36)}`),
      );
      await detach(chat.redis, chat.keys, "bob", `g1-${i}`);
    }
    await chat.send("ann", conversation, "to nobody");

    await eventually(async () => {
      const [last] = await store.redis.commands.xrevrange(
        store.keys.topic("im.push", store.keys.partitionOf(conversation)),
        "+",
        "-",
      );
      expect(last?.[1][1]).toContain('"seq":21');
    });
    expect((await world.frames("g1")).at(-1)?.[0]).toStartWith(`${conversation} 20 `);
  });

  test("who was added is told of the conversation and hears what follows; who was removed hears the end and nothing more", async () => {
    await using store = await openTestStore("delivery");
    await using world = await setup(store);
    const { chat } = world;
    await world.gateway("g1");
    await world.attach("ann", "g1", 1);
    await world.attach("bob", "g1", 2);
    await world.attach("cid", "g1", 3);
    const conversation = await chat.group("ann", "bob");
    await chat.send("ann", conversation, "before");
    await chat.conversations.add("ann", conversation, ["cid"]);
    await chat.send("ann", conversation, "with cid");
    await chat.conversations.remove("ann", conversation, "bob");
    await chat.send("ann", conversation, "without bob");

    await eventually(async () => {
      const heard = (number: string) => async () =>
        (await world.frames("g1"))
          .filter(([targets]) => targets.split(" ")[2]!.split(",").includes(number))
          .map(([, { method, params }]) =>
            method === "message" ? (params.message as { body: { text: string } }).body.text : method,
          );
      expect(await heard("1")()).toEqual(["conversation", "before", "member", "with cid", "member", "without bob"]);
      expect(await heard("2")()).toEqual(["conversation", "before", "member", "with cid", "conversation"]);
      expect(await heard("3")()).toEqual(["member", "conversation", "with cid", "member", "without bob"]);
    });
  });

  test("who connects after his joining was delivered finds it in his list, however far behind the list's own group is", async () => {
    await using store = await openTestStore("delivery-listed");
    await using world = await setup(store, { hasInbox: false });
    const { conversations, inbox, group } = world.chat;
    // Whoever committed it died before he did it himself.
    inbox.touch = async () => undefined;
    await world.gateway("g1");
    await world.attach("ann", "g1", 1);
    const conversation = await group("ann", "bob");
    await conversations.add("ann", conversation, ["cid"]);
    const heard = (method: string) => async () =>
      expect((await world.frames("g1")).map(([, frame]) => frame.method)).toContain(method);
    await eventually(heard("member"));
    const listOf = async (user: string) => (await inbox.page(user, 10)).conversations;
    for (const user of ["ann", "bob", "cid"]) expect(await listOf(user)).toEqual([conversation]);
    await conversations.remove("ann", conversation, "cid");
    await eventually(async () => expect(await listOf("cid")).toEqual([]));
  });

  test("members without any connection are named to im.push, once per message", async () => {
    await using store = await openTestStore("delivery");
    await using world = await setup(store);
    const { chat } = world;
    await world.gateway("g1");
    await world.attach("ann", "g1", 1);
    const conversation = await chat.group("ann", "bob", "cid");
    await chat.send("ann", conversation, "hello");

    await eventually(async () => {
      const found = await store.redis.commands.xrange(
        store.keys.topic(imPush.name, store.keys.partitionOf(conversation)),
        "-",
        "+",
      );
      expect(found.map(([, fields]) => JSON.parse(fields[1]!))).toMatchObject([
        { conversation, seq: 1, users: ["bob", "cid"] },
      ]);
    });
  });

  test("a dead gateway that one partition finds out leaves nobody of another out", async () => {
    await using store = await openTestStore("delivery", { partitions: 16 });
    await using world = await setup(store);
    const { chat } = world;
    await world.gateway("g1");
    const conversations = await Promise.all(Array.from({ length: 16 }, () => chat.group("ann")));
    const rounds = 20;
    for (let round = 0; round < rounds; round++) {
      // Each joins another conversation, at nearly the same time, with a connection that lives and one on the same dead gateway.
      const joining = conversations.map((conversation, i) => ({ conversation, user: `user-${round}-${i}`, number: i }));
      for (const { user, number } of joining) {
        await world.attach(user, "g1", number);
        await world.attach(user, `dead-${round}`, number);
      }
      await Promise.all(
        joining.map(async ({ conversation, user, number }) => {
          await Bun.sleep(number % 4);
          await chat.conversations.add("ann", conversation, [user]);
        }),
      );
    }
    await Promise.all(conversations.map((conversation) => chat.send("ann", conversation, "to all")));

    await eventually(async () => {
      const frames = await world.frames("g1");
      const messages = frames.filter(([, { method }]) => method === "message");
      expect(messages.map(([targets]) => targets.split(",").length)).toEqual(new Array(16).fill(rounds));
    });
  });

  test("a gateway that is gone: its routes are forgotten and its members are offline", async () => {
    await using store = await openTestStore("delivery");
    await using world = await setup(store);
    const { chat } = world;
    await world.attach("bob", "dead", 1);
    const conversation = await chat.group("ann", "bob");
    await chat.send("ann", conversation, "lost hint");

    await eventually(async () => {
      expect(await store.redis.commands.exists(store.keys.routes("bob"))).toBe(0);
    });
    expect(await store.redis.commands.exists(store.keys.gateway("dead"))).toBe(0);
  });
});

test("inbox: activity moves a conversation up its members' lists", async () => {
  await using store = await openTestStore("delivery");
  await using world = await setup(store);
  const { chat } = world;
  const first = await chat.group("ann", "bob");
  const second = await chat.group("ann", "bob");
  await Bun.sleep(2);
  await chat.send("ann", first, "up");

  await eventually(async () => {
    expect((await chat.inbox.page("bob", 10)).conversations).toEqual([first, second]);
  });
});
