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
  await membership.load(membership.missing([conversation], 1), 1);
  expect(membership.missing([conversation], 1)).toEqual([]);
  await chat.conversations.remove("ann", conversation, "bob");

  expect(membership.missing([conversation], 2)).toEqual([conversation]);
  await membership.load([conversation], 2);

  expect([...membership.of(conversation).users]).toEqual(["ann"]);
  expect(evicted).toEqual([conversation]);
});
