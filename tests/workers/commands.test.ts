import { describe, expect, test } from "bun:test";
import { directConversationId } from "../../lib/id.ts";
import { imCommands, type SendCommand } from "../../lib/im/index.ts";
import { createCommands } from "../../workers/logic/commands.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestQueue } from "../support/queue.ts";

/** Logic's group of im.commands, and who asks something of it. */
async function setup() {
  const world = await openTestQueue("commands");
  const chat = makeChat(world.store);
  await world.run(createCommands(chat, world.queue));
  return {
    chat,
    /** Asks as shop, and waits until nothing is left to do and nothing was given up. */
    async ask(...commands: (Pick<SendCommand, "to"> & Partial<Omit<SendCommand, "to">>)[]) {
      const hello = { type: "send", by: "shop", clientId: "c1", messageType: "text", body: { text: "hello" } } as const;
      const cause = { kind: "broadcast", id: "b1" } as const;
      await world.queue.publishMany(
        imCommands,
        commands.map((command) => ({ type: "im.command", key: "shop", data: { ...hello, cause, ...command } })),
      );
      await eventually(async () => {
        const [group] = (await world.queue.describe(imCommands)).groups;
        expect(group).toMatchObject({ group: "logic", lag: 0, deadLetters: 0 });
      });
    },
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

describe("the command send", () => {
  test("to a user begins the direct conversation of the two; repeated, it is one message", async () => {
    await using world = await setup();
    await world.ask({ to: { user: "ann" } }, { to: { user: "ann" } });
    const state = await world.chat.conversations.state("ann", await directConversationId("shop", "ann"));
    expect(state).toMatchObject({ type: "direct", head: 1, unread: 1, lastMessage: { from: "shop" } });
  });

  test("to a conversation carries all that a live send may", async () => {
    await using world = await setup();
    const conversation = await world.chat.group("shop", "ann");
    await world.chat.send("ann", conversation, "is it there?");
    await world.ask({ to: { conversation }, messageType: "card", body: { item: 7 }, replyTo: 1, mentions: ["ann"] });
    const [, asked] = await world.chat.rows(conversation);
    expect(asked?.[3]).toMatchObject({ from: "shop", type: "card", body: { item: 7 }, replyTo: 1, mentions: ["ann"] });
  });

  test("obeys the rules of a live send; a refusal is an outcome and no dead letter", async () => {
    await using world = await setup();
    const foreign = await world.chat.group("ann");
    await world.chat.blocks.add("bob", "shop");
    await world.ask(
      { to: { conversation: foreign } },
      { to: { user: "bob" }, clientId: "c2" },
      { to: { user: "shop" }, clientId: "c3" },
      { to: { user: "ann" }, clientId: "c4" },
    );
    expect(await world.chat.rows(foreign)).toEqual([]);
    const headOf = async (user: string) =>
      (await world.chat.conversations.state("shop", await directConversationId("shop", user)))?.head;
    // With bob the conversation is there, and empty.
    expect(await Promise.all(["ann", "bob"].map(headOf))).toEqual([1, 0]);
  });
});
