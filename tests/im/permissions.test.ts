/** The permission table, cell by cell: each action in each type of conversation by each role ends as the table says. */

import { describe, expect, test } from "bun:test";
import { AppError } from "../../lib/errors.ts";
import {
  ACTIONS,
  type Action,
  type ConversationType,
  createAmendments,
  mayRole,
  type Role,
} from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

const TYPES = ["direct", "group", "channel"] as const satisfies ConversationType[];
const ROLES = ["owner", "admin", "member"] as const satisfies Role[];

interface Stage {
  readonly chat: Chat;
  readonly conversation: string;
  /** A message of the actor's, and one of somebody else's. */
  readonly own: number;
  readonly foreign: number;
}

/** Users are named by their roles; `other` is a member whom all outrank, `successor` one who could become the owner. */
async function setStage(chat: Chat, type: ConversationType, actor: string): Promise<Stage> {
  const members = type === "direct" ? ["other"] : ["admin", "member", "other", "successor"];
  const creator = type === "direct" ? actor : "owner";
  const { conversation } = await chat.conversations.create(creator, { type, members });
  const { id } = conversation;
  const promote = (user: string, role: Role) => chat.conversations.update("owner", id, user, { role });
  if (type === "direct")
    return { chat, conversation: id, own: await say(chat, actor, id), foreign: await say(chat, "other", id) };
  // Everybody may speak in a channel who is an admin at that moment.
  for (const user of ["admin", "member", "other"]) await promote(user, "admin");
  const own = await say(chat, actor, id);
  const foreign = await say(chat, "other", id);
  for (const user of ["member", "other"]) await promote(user, "member");
  return { chat, conversation: id, own, foreign };
}

async function say(chat: Chat, user: string, conversation: string): Promise<number> {
  const sent = await chat.send(user, conversation, "hello");
  if (!sent.ok) throw sent.error;
  return sent.value.seq;
}

/** What the action does. More than one: each must end as the table says. */
const ACTS: Record<Action, readonly ((stage: Stage, actor: string) => Promise<unknown>)[]> = {
  speak: [
    ({ chat, conversation }, actor) => say(chat, actor, conversation),
    ({ chat, conversation, own }, actor) => chat.amendments.edit(actor, { conversation, seq: own }, { text: "new" }),
    ({ chat, conversation, foreign }, actor) =>
      chat.amendments.react(actor, { conversation, seq: foreign }, "👍", true),
  ],
  recallOwn: [({ chat, conversation, own }, actor) => chat.amendments.recall(actor, { conversation, seq: own })],
  recallAny: [
    ({ chat, conversation, foreign }, actor) => chat.amendments.recall(actor, { conversation, seq: foreign }),
    // One's own when the window is over.
    ({ chat, conversation, own }, actor) =>
      createAmendments({ ...chat, recallMs: -1 }).recall(actor, { conversation, seq: own }),
  ],
  invite: [({ chat, conversation }, actor) => chat.conversations.add(actor, conversation, ["new"])],
  leave: [
    async ({ chat, conversation }, actor) => {
      // An owner leaves last: so somebody else is it now.
      if (actor === "owner") await chat.conversations.update(actor, conversation, "successor", { role: "owner" });
      await chat.conversations.remove(actor, conversation, actor);
    },
  ],
  kick: [({ chat, conversation }, actor) => chat.conversations.remove(actor, conversation, "other")],
  muteMember: [
    ({ chat, conversation }, actor) =>
      chat.conversations.update(actor, conversation, "other", { mutedUntil: Date.now() + 60_000 }),
  ],
  giveRole: [
    ({ chat, conversation }, actor) => chat.conversations.update(actor, conversation, "other", { role: "admin" }),
  ],
  transfer: [
    ({ chat, conversation }, actor) => chat.conversations.update(actor, conversation, "other", { role: "owner" }),
  ],
  changeSettings: [
    ({ chat, conversation }, actor) => chat.conversations.change(actor, conversation, { title: "new" }),
    ({ chat, conversation }, actor) => chat.conversations.change(actor, conversation, { join: "open" }),
  ],
  dissolve: [({ chat, conversation }, actor) => chat.conversations.dissolve(actor, conversation)],
};

const outcome = (act: Promise<unknown>) =>
  act.then(
    () => "ok",
    (error: unknown) => {
      if (!(error instanceof AppError)) throw error;
      return error.code;
    },
  );

describe.each(TYPES)("in a %s", (type) => {
  describe.each(ROLES.filter((role) => type !== "direct" || role === "member"))("as %s", (role) => {
    test.each(ACTIONS)("%s", async (action) => {
      await using store = await openTestStore("may");
      for (const act of ACTS[action]) {
        const stage = await setStage(makeChat(store), type, role);
        const before = (await stage.chat.rows(stage.conversation)).length;
        expect(await outcome(act(stage, role))).toBe(mayRole(action, type, role) ? "ok" : "FORBIDDEN");
        if (!mayRole(action, type, role)) expect(await stage.chat.rows(stage.conversation)).toHaveLength(before);
      }
    });
  });

  test.each(ACTIONS)("as a stranger, to whom it does not exist: %s", async (action) => {
    await using store = await openTestStore("may");
    for (const act of ACTS[action]) {
      const stage = await setStage(makeChat(store), type, "member");
      expect(await outcome(act(stage, "stranger"))).toBe("NOT_MEMBER");
    }
  });
});

describe("whatever the table says", () => {
  // Who acts, on whom, and whether rank allows it.
  test.each([
    ["admin", "owner", "FORBIDDEN"],
    ["admin", "admin2", "FORBIDDEN"],
    ["admin", "member", "ok"],
    ["owner", "admin", "ok"],
  ])("%s kicks and mutes %s: %s", async (actor, user, expected) => {
    await using store = await openTestStore("may");
    for (const type of ["group", "channel"] as const) {
      const chat = makeChat(store);
      const { conversation } = await chat.conversations.create("owner", {
        type,
        members: ["admin", "admin2", "member"],
      });
      const { id } = conversation;
      for (const one of ["admin", "admin2"]) await chat.conversations.update("owner", id, one, { role: "admin" });
      const mutedUntil = Date.now() + 60_000;
      expect(await outcome(chat.conversations.update(actor, id, user, { mutedUntil }))).toBe(expected);
      expect(await outcome(chat.conversations.remove(actor, id, user))).toBe(expected);
    }
  });

  test("nobody changes his own role, and the last owner leaves last", async () => {
    await using store = await openTestStore("may");
    const chat = makeChat(store);
    const id = await chat.group("owner", "member");
    expect(await outcome(chat.conversations.update("owner", id, "owner", { role: "member" }))).toBe("FORBIDDEN");
    expect(await outcome(chat.conversations.remove("owner", id, "owner"))).toBe("FORBIDDEN");
    await chat.conversations.remove("member", id, "member");
    expect(await outcome(chat.conversations.remove("owner", id, "owner"))).toBe("ok");
  });
});
