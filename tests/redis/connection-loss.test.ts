import { expect, test } from "bun:test";
import { outcomeOf } from "../../lib/redis/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore } from "../support/redis.ts";
import { startTestRedis } from "../support/redis-server.ts";

test("commands and blocked reads under way when Redis is killed end as unknown, and the connections serve again", async () => {
  const server = await startTestRedis();
  await using _server = { [Symbol.asyncDispose]: () => server.stop() };
  await using store = await openTestStore("loss", { url: server.url });
  const { commands } = store.redis;
  const reader = store.redis.blocking("reader");
  for (let life = 0; life < 3; life++) {
    await eventually(() => reader.ping());
    server.kill("SIGSTOP");
    const underWay = [
      reader.xread("BLOCK", 5_000, "STREAMS", `${store.prefix}:s`, "$"),
      commands.incr(`${store.prefix}:a`),
      commands.incr(`${store.prefix}:b`),
    ];
    const ended = Promise.allSettled(underWay);
    await Bun.sleep(20);
    server.kill("SIGKILL");
    await server.restart();
    for (const result of await ended) {
      expect(result.status).toBe("rejected");
      expect(outcomeOf((result as PromiseRejectedResult).reason)).toBe("unknown");
    }
    await eventually(() => commands.incr(`${store.prefix}:c`));
  }
});
