/** `skein topics`: how long each topic is and how far each group has come. */

import { defineCommand } from "citty";
import { systemClock } from "../../lib/clock.ts";
import { imCommands, imEvents, imPush } from "../../lib/im/index.ts";
import { openQueue, type TopicDescription } from "../../lib/mq/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { findRunning } from "./running.ts";
import { renderTable } from "./table.ts";

export const topics = defineCommand({
  meta: { name: "topics", description: "Print topics, their groups, lag and dead letters" },
  args: { json: { type: "boolean", default: false, description: "Print the descriptions as JSON" } },
  async run({ args }) {
    const { config, redisUrl } = findRunning();
    const redis = await openRedis(redisUrl, "skein-topics", silentLog);
    try {
      const keys = createKeys(config.prefix, config.partitions);
      const context = { redis, keys, clock: systemClock, log: silentLog, metrics: createMetrics() };
      const queue = openQueue({ ...context, member: `topics.${process.pid}` });
      const described: TopicDescription[] = [];
      for (const topic of [imEvents, imPush, imCommands]) described.push(await queue.describe(topic));
      console.log(args.json ? JSON.stringify(described, null, 2) : render(described));
    } finally {
      await redis.close();
    }
  },
});

function render(described: readonly TopicDescription[]): string {
  const rows = described.flatMap(({ topic, length, groups }) => [
    [topic, "", String(length), "", "", "", ""],
    ...groups.map(({ group, mode, lag, open, oldestMs, deadLetters }) => [
      ...["", group, mode, String(lag), String(open), lag === 0 ? "" : `${(oldestMs / 1_000).toFixed(1)} s`],
      String(deadLetters),
    ]),
  ]);
  return renderTable(["topic", "group", "length", "lag", "open", "oldest", "dead"], rows);
}
