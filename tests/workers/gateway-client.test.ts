/** The client library against real gateways: what an app sees when the gateway under it goes. */

import { expect, test } from "bun:test";
import { connect, type Kept, type Store } from "../../lib/client/index.ts";
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
  let stopped: Promise<void> | undefined;
  for (let i = 0; i < total; i++) {
    sends.push((i % 2 === 0 ? ada : bob).send(conversation, `no ${i}`));
    if (i % 50 === 49) await Promise.all(sends);
    if (i === total / 2) stopped = chat.gateways[0]!.stop();
  }
  await Promise.all(sends);
  const expected = Array.from({ length: total }, (_, i) => i + 1);
  await eventually(() => {
    expect(seen.ada).toEqual(expected);
    expect(seen.bob).toEqual(expected);
  });
  // Before its Redis is taken from it.
  await stopped;
  ada.close();
  bob.close();
});

test("an app that is reloaded over and over in the middle of its sends: every message once, in the order of the sends", async () => {
  await using store = await openTestStore("gc-lives");
  await using chat = await openTestChat(store);
  const conversation = await chat.group("ada", "bob");
  const url = `${chat.url.replace("http", "ws")}/v1/ws`;
  const token = await chat.token("ada");
  let kept: string | undefined;
  const memory: Store = {
    load: () => (kept === undefined ? undefined : (JSON.parse(kept) as Kept)),
    save: (now) => {
      kept = JSON.stringify(now);
    },
  };
  const seen = new Map<number, string>();
  const written: string[] = [];
  const lives = 12;
  for (let life = 1; life <= lives; life++) {
    const client = connect({ url, token, store: memory });
    client.on("message", ({ message: { seq, body } }) => {
      // A place that is a second old makes some come again, never others.
      expect(seen.get(seq) ?? body.text).toBe(body.text!);
      seen.set(seq, body.text!);
    });
    for (let i = 0; i < 10; i++) {
      const text = `${life}.${i}`;
      written.push(text);
      client.send(conversation, text).catch(() => undefined);
      // Some lives end before their session is open, some in the middle of their sends.
      if (life % 3 > 0) await Bun.sleep(life % 3);
    }
    if (life === lives) await eventually(() => expect(client.unsent()).toEqual([]));
    client.close();
  }
  const page = await chat.http("ada", "GET", `/v1/conversations/${conversation}/messages?limit=200`);
  const { messages } = (await page.json()) as { messages: { seq: number; body: { text: string } }[] };
  expect(messages.map(({ body }) => body.text)).toEqual(written);
  for (const [seq, text] of seen) expect(messages[seq - 1]!.body.text).toBe(text);
});
