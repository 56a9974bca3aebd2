/** Redis' append-only file behind an erasure, also when Redis was at it already. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { eraserOf } from "../support/erasure.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestQueue } from "../support/queue.ts";
import { startTestRedis } from "../support/redis-server.ts";

const ANN = "ann-of-before";

test("an erasure that is done has Redis begin its append-only file anew: no file of it holds the user or his words", async () => {
  const redis = await startTestRedis({ appendfsync: "everysec" });
  const files = () => {
    const folder = join(redis.directory, "appendonlydir");
    return readdirSync(folder).map((name) => readFileSync(join(folder, name)));
  };
  const holds = (text: string) => files().some((bytes) => bytes.includes(text));
  {
    await using world = await openTestQueue("erasure-log", { url: redis.url });
    const chat = makeChat(world.store);
    await chat.send(ANN, await chat.group(ANN, "bob"), "canary");
    await eventually(() => expect([holds(ANN), holds("canary")]).toEqual([true, true]));
    const { commands } = world.store.redis;
    const bgrewriteaof = commands.bgrewriteaof.bind(commands);
    let tries = 0;
    commands.bgrewriteaof = () => {
      tries += 1;
      if (tries > 1) return bgrewriteaof();
      const text = "ERR Background append only file rewriting already in progress";
      return Promise.reject(Object.assign(new Error(text), { name: "ReplyError" }));
    };
    await eraserOf(chat, world.queue).erase(ANN);
    expect(tries).toBe(2);
    await eventually(() => expect([holds(ANN), holds("canary")]).toEqual([false, false]));
  }
  await redis.stop();
});
