/**
 * Every script of the chat, twice over: with a key of a wrong type planted at each of its keys it refuses and the keyspace is
 * unchanged; executed a second time with the same arguments it changes nothing more.
 */

import { describe, expect, test } from "bun:test";
import { createTrim, read } from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { digestOf } from "../support/queue.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

interface Stage {
  readonly store: TestStore;
  readonly chat: Chat;
  readonly conversation: string;
  /** Of ann and bob. */
  readonly direct: string;
}

/** A group of ann (owner), bob and cid with a message of ann's at 1, to which bob reacted, and one of bob's at 3. */
async function setStage(): Promise<Stage> {
  const store = await openTestStore("im-scripts", { partitions: 1 });
  const chat = makeChat(store);
  const conversation = await chat.group("ann", "bob", "cid");
  await chat.send("ann", conversation, "one");
  await chat.amendments.react("bob", { conversation, seq: 1 }, "👍", true);
  await chat.send("bob", conversation, "three");
  const { conversation: direct } = await chat.conversations.create("ann", { type: "direct", members: ["bob"] });
  return { store, chat, conversation, direct: direct.id };
}

const key = {
  conv: ({ chat, conversation }: Stage) => chat.keys.conversation(conversation),
  members: ({ chat, conversation }: Stage) => chat.keys.members(conversation),
  newSilenced: ({ chat }: Stage) => chat.keys.silenced("new"),
  directMembers: ({ chat, direct }: Stage) => chat.keys.members(direct),
  silenced: ({ chat, direct }: Stage) => chat.keys.silenced(direct),
  newConv: ({ chat }: Stage) => chat.keys.conversation("new"),
  newMembers: ({ chat }: Stage) => chat.keys.members("new"),
  log: ({ chat, conversation }: Stage) => chat.keys.log(conversation),
  folds: ({ chat, conversation }: Stage) => chat.keys.folds(conversation),
  reactors: ({ chat, conversation }: Stage) => chat.keys.reactors(conversation, 1),
  events: ({ chat, conversation }: Stage) => chat.keys.topic("im.events", chat.keys.partitionOf(conversation)),
};

interface Row {
  readonly keys: readonly (keyof typeof key)[];
  run(stage: Stage): Promise<unknown>;
}

const SCRIPTS: Record<string, Row> = {
  create: {
    keys: ["newConv", "newMembers", "newSilenced", "events"],
    run: ({ chat }) => chat.conversations.create("ann", { id: "new", type: "group", members: ["bob", "cid"] }),
  },
  members: {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => chat.conversations.add("ann", conversation, ["dan"]),
  },
  settings: {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => chat.conversations.change("ann", conversation, { title: "new" }),
  },
  block: {
    keys: ["directMembers", "silenced"],
    run: ({ chat }) => chat.blocks.add("ann", "bob"),
  },
  summary: {
    keys: ["conv", "members", "log", "folds"],
    run: ({ chat, conversation }) => chat.conversations.state("ann", conversation),
  },
  read: {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => read(chat, "cid", conversation, 3),
  },
  "amend: edit": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.edit("ann", { conversation, seq: 1 }, { text: "new" }),
  },
  "amend: recall": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.recall("ann", { conversation, seq: 1 }),
  },
  "amend: react": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.react("cid", { conversation, seq: 1 }, "👍", true),
  },
  "amend: unreact": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.react("bob", { conversation, seq: 1 }, "👍", false),
  },
  page: {
    keys: ["log", "folds"],
    run({ chat, conversation }) {
      const range = { conversation, epoch: "", after: 0, before: 9, limit: 9, newest: false, messagesOnly: false };
      return chat.timeline.read({ ...range, parts: ["content"] });
    },
  },
  trim: {
    keys: ["members", "log", "folds"],
    async run({ chat, conversation }) {
      const { epoch } = (await chat.conversations.state("ann", conversation))!;
      await createTrim(chat.redis, chat.keys, 1)(conversation, epoch, 2);
    },
  },
};

describe("a wrong type at a key changes nothing", () => {
  for (const [name, { keys, run }] of Object.entries(SCRIPTS)) {
    for (const planted of keys) {
      test(`${name}: ${planted}`, async () => {
        const stage = await setStage();
        await using store = stage.store;
        const at = key[planted](stage);
        await store.redis.commands.multi().del(at).set(at, "planted").exec();
        const before = await stateOf(store);
        const error = await run(stage).then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        expect(error).toBeInstanceOf(Error);
        expect(await stateOf(store)).toEqual(before);
      });
    }
  }
});

describe("executed twice it has the effect of once", () => {
  for (const [name, { run }] of Object.entries(SCRIPTS)) {
    test(name, async () => {
      const stage = await setStage();
      await using store = stage.store;
      await run(stage);
      const once = await stateOf(store);
      await run(stage);
      expect(await stateOf(store)).toEqual(once);
    });
  }
});

/** All keys but those of users, which are no script's. */
async function stateOf(store: TestStore): Promise<Record<string, string>> {
  return Object.fromEntries(Object.entries(await digestOf(store)).filter(([name]) => !name.includes(":user:")));
}
