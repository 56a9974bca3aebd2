/** The largest group that there is, some hundred of its members online on two gateways: a message reaches all of these, and only these. */

import { expect, test } from "bun:test";
import { LIMITS } from "../../lib/im/index.ts";
import { inParallel } from "../../scripts/load/api.ts";
import { openTestChat } from "../support/chat.ts";
import type { ChatClient } from "../support/chat-client.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

const ONLINE = 200;
const BATCH = LIMITS.membersPerRequest;

/** Made before anybody reads the events: 100 additions, one after another through all of Skein, are what would take the time. */
async function largestGroup(store: TestStore, members: readonly string[]): Promise<string> {
  const chat = makeChat(store);
  const conversation = await chat.group(...members.slice(0, BATCH));
  for (let from = BATCH; from < members.length; from += BATCH) {
    await chat.conversations.add(members[0]!, conversation, members.slice(from, from + BATCH));
  }
  return conversation;
}

const heard = ({ notifications }: ChatClient): string[] =>
  notifications.filter(({ method }) => method === "message").map(({ params }) => params.message.body.text);

test("a message to a group of 10 000 reaches every connection of every member once, and nobody else", async () => {
  await using store = await openTestStore("gw-fanout");
  const members = Array.from({ length: LIMITS.membersPerGroup }, (_, i) => `member-${i}`);
  const [owner, gone, twice] = members as [string, string, string];
  const conversation = await largestGroup(store, members);
  await using chat = await openTestChat(store, { gateways: 2 });
  const [first, second] = chat.gateways;
  const path = `/v1/conversations/${conversation}/members`;
  expect((await chat.http(owner, "POST", path, { users: ["one-more"] })).status).toBe(400);
  expect((await chat.http(owner, "DELETE", `${path}/${gone}`)).ok).toBe(true);

  // Spread over the whole list, the first ones among them.
  const online = members.filter((_, i) => i === 2 || i % (members.length / ONLINE) === 0);
  const clients = await inParallel(online, (user, i) => chat.connect(user, i % 2 === 0 ? first : second));
  const others = [await chat.connect(gone, first), await chat.connect("stranger", second)];
  clients.push(await chat.connect(twice, first), await chat.connect(owner, second));
  const sender = clients[0]!;
  for (const text of ["one", "two"]) {
    await sender.request("message.send", { conversation, clientId: text, body: { text } });
  }

  await eventually(() => {
    for (const client of clients.slice(1)) expect(heard(client)).toEqual(["one", "two"]);
  });
  expect(heard(sender)).toEqual([]);
  for (const client of others) expect(heard(client)).toEqual([]);
  for (const client of [...clients, ...others]) client[Symbol.dispose]();
});
