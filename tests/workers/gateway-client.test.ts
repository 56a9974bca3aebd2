/** The client library against real gateways: what an app sees when the gateway under it goes. */

import { expect, test } from "bun:test";
import { connect } from "../../lib/client/index.ts";
import { openTestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore } from "../support/redis.ts";

test("a gateway drains under two clients that chat: every message once, in order, for both", async () => {
  await using store = await openTestStore("gc-drain");
  await using chat = await openTestChat(store, { gateways: 2 });
  const conversation = await chat.group("ada", "bob");
  const url = chat.gateways.map((gateway) => `${gateway.url.replace("http", "ws")}/v1/ws`);
  const response = await chat.http("ada", "GET", `/v1/conversations/${conversation}`);
  const { epoch } = ((await response.json()) as { conversation: { epoch: string } }).conversation;
  const cursors = [{ conversation, epoch, seq: 0 }];
  const ada = connect({ url, token: await chat.token("ada"), cursors });
  const bob = connect({ url, token: await chat.token("bob"), cursors });
  const seen = { ada: [] as number[], bob: [] as number[] };
  ada.on("message", ({ message }) => seen.ada.push(message.seq));
  bob.on("message", ({ message }) => seen.bob.push(message.seq));
  await Promise.all([ada.ready(), bob.ready()]);

  const total = 300;
  const sends: Promise<unknown>[] = [];
  for (let i = 0; i < total; i++) {
    sends.push((i % 2 === 0 ? ada : bob).send(conversation, `no ${i}`));
    if (i % 50 === 49) await Promise.all(sends);
    if (i === total / 2) void chat.gateways[0]!.stop();
  }
  await Promise.all(sends);
  const expected = Array.from({ length: total }, (_, i) => i + 1);
  await eventually(() => {
    expect(seen.ada).toEqual(expected);
    expect(seen.bob).toEqual(expected);
  }, 20_000);
  ada.close();
  bob.close();
});
