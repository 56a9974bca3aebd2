import { expect, test } from "bun:test";
import { createMembership } from "../../lib/im/index.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

const event = (key: string, sequence: number, type: string, users: string[]) =>
  ({ key, sequence, type, raw: JSON.stringify({ entry: { users } }) }) as unknown as Parameters<
    ReturnType<typeof createMembership>["apply"]
  >[0];

test("members follow the events behind what was loaded, and skip those that it holds already", async () => {
  await using store = await openTestStore("membership");
  const chat = makeChat(store);
  const conversation = await chat.group("ann", "bob");
  await chat.conversations.add("ann", conversation, ["cid"]);
  await chat.conversations.remove("ann", conversation, "cid");
  const membership = createMembership(store.redis.commands, store.keys);
  await membership.load([conversation], 1);

  membership.apply(event(conversation, 1, "im.member.added", ["cid"]));
  expect([...membership.of(conversation).users]).toEqual(["ann", "bob"]);
  membership.apply(event(conversation, 3, "im.member.added", ["dan"]));
  membership.apply(event(conversation, 4, "im.member.removed", ["bob"]));
  expect([...membership.of(conversation).users]).toEqual(["ann", "dan"]);
});

test("what was loaded under another lease is loaded anew: others consumed events in between", async () => {
  await using store = await openTestStore("membership");
  const chat = makeChat(store);
  const conversation = await chat.group("ann", "bob");
  const evicted: string[] = [];
  const membership = createMembership(store.redis.commands, store.keys, (id) => evicted.push(id));
  await membership.load(membership.missing([event(conversation, 1, "im.message.created", [])], 1), 1);
  expect(membership.missing([event(conversation, 1, "im.message.created", [])], 1)).toEqual([]);
  await chat.conversations.remove("ann", conversation, "bob");

  expect(membership.missing([event(conversation, 1, "im.message.created", [])], 2)).toEqual([conversation]);
  await membership.load([conversation], 2);

  expect([...membership.of(conversation).users]).toEqual(["ann"]);
  expect(evicted).toEqual([conversation]);
});

test("a conversation that begins is known without a look at Redis, and follows what comes next", async () => {
  await using store = await openTestStore("membership");
  const membership = createMembership(store.redis.commands, store.keys);
  const created = {
    ...event("new", 0, "im.conversation.created", []),
    sequence: undefined,
    raw: JSON.stringify({ members: ["ann", "bob"] }),
  };
  const added = event("new", 1, "im.member.added", ["cid"]);

  expect(membership.missing([created, added], 1)).toEqual([]);
  for (const one of [created, added]) membership.apply(one);
  expect([...membership.of("new").users]).toEqual(["ann", "bob", "cid"]);

  // Nothing of what followed is forgotten when the same is seen again under the same lease.
  expect(membership.missing([created], 1)).toEqual([]);
  expect([...membership.of("new").users]).toEqual(["ann", "bob", "cid"]);
});
