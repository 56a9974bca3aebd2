/**
 * A member of an ordered or concurrent group in a process of its own, to be killed or paused by tests:
 * `bun tests/support/queue-member.ts <redis url> <prefix> <partitions> <member> <mode> <lease ms> <handling ms>`. What its
 * handler sees it appends to the list `<prefix>:seen` as `<member> <key> <n> <token>`, a sink that refuses tokens below the
 * highest it saw of the key: what was in hand when a member was paused may arrive any time later. It writes one line when it
 * has started.
 */

import { systemClock } from "../../lib/clock.ts";
import { defineTopic, openQueue } from "../../lib/mq/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { Numbered } from "./queue.ts";

const SINK = `
  if tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0) > tonumber(ARGV[2]) then return 0 end
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  return redis.call('RPUSH', KEYS[1], ARGV[3])`;

const [url, prefix, partitions, member, mode, leaseMs, handlingMs] = process.argv.slice(2) as string[];
const redis = await openRedis(url!, member!, silentLog);
const queue = openQueue({
  redis,
  keys: createKeys(prefix!, Number(partitions)),
  clock: systemClock,
  log: silentLog,
  metrics: createMetrics(),
  member: member!,
});
await queue
  .consume(defineTopic("t", { schema: Numbered }), {
    group: "g",
    mode: mode as "ordered" | "concurrent",
    leaseMs: Number(leaseMs),
    async handle({ key, data }, { token }) {
      const line = `${member} ${key} ${data.n} ${token}`;
      await redis.commands.eval(SINK, 2, `${prefix}:seen`, `${prefix}:fence`, key, token, line);
      if (key === "deadly") process.kill(process.pid, "SIGKILL");
      if (Number(handlingMs) > 0) await Bun.sleep(Number(handlingMs));
    },
  })
  .start();
console.log("started");
