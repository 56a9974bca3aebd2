import { expect, test } from "bun:test";
import { createErasures } from "../../lib/im/index.ts";
import { createMethods } from "../../workers/logic/methods.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";
import { refusal } from "../support/refusal.ts";

test("at replicated:1 without a replica every change ends as unknown, though it is written, and what only reads is answered", async () => {
  await using store = await openTestStore("replicated");
  const chat = makeChat(store, undefined, { replicas: 1 });
  const conversation = await chat.group("ann", "bob");
  const methods = createMethods({
    chat,
    searchArchive: async () => [],
    erasures: createErasures({ redis: chat.redis, keys: chat.keys, secret: new Uint8Array(32) }),
    registerPush: async () => ({}),
    pushPublicKey: "",
    status: async () => ({ ackLevel: "replicated:1", redis: "single" }),
  });
  const gateway = { caller: "gateway" } as const;
  // Side by side: each waits a second for a replica that does not come.
  const [renamed, added] = await Promise.all([
    refusal(methods.updateConversation({ by: "ann", params: { conversation, title: "Team" } }, gateway)),
    refusal(methods.addMembers({ by: "ann", params: { conversation, users: ["cat"] } }, gateway)),
  ]);
  expect([renamed.code, added.code]).toEqual(["UNKNOWN_OUTCOME", "UNKNOWN_OUTCOME"]);
  const found = await methods.getConversation({ by: "cat", params: { conversation } }, gateway);
  expect(found.conversation).toMatchObject({ title: "Team", memberCount: 3 });
});
