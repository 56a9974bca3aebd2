/** `skein topics`: every topic, the product's and those that services declared, how long it is and how far its groups have come. */

import { defineCommand } from "citty";
import type { Queue, TopicDescription } from "../../lib/mq/index.ts";
import { jsonArgument } from "./arguments.ts";
import { openRunningQueue } from "./running.ts";
import { describeMs, print, renderTable } from "./table.ts";

export const topics = defineCommand({
  meta: { name: "topics", description: "Print topics: length, groups, the largest lag, dead letters" },
  args: { json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    print(await describeAll(running.queue), args.json, render);
  },
});

/** Every topic that is known, one after the other. */
export async function describeAll(queue: Queue): Promise<TopicDescription[]> {
  const described: TopicDescription[] = [];
  for (const { topic } of await queue.catalog.topics()) {
    described.push(await queue.describe(await queue.catalog.topicOf(topic)));
  }
  return described;
}

function render(described: readonly TopicDescription[]): string {
  const rows = described.map(({ topic, length, groups }) => {
    const most = (numbers: readonly number[]) => Math.max(0, ...numbers);
    const lag = most(groups.map((group) => group.lag));
    const oldest = lag === 0 ? "" : describeMs(most(groups.map(({ oldestMs }) => oldestMs)));
    const deadLetters = groups.reduce((total, group) => total + group.deadLetters, 0);
    return [topic, String(length), String(groups.length), String(lag), oldest, String(deadLetters)];
  });
  return renderTable(["topic", "length", "groups", "lag", "oldest", "dead"], rows);
}
