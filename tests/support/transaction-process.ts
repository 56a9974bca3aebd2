/**
 * A member of a group in a process of its own, to be killed by tests, that does nothing but consume transactions:
 * `bun tests/support/transaction-process.ts <redis url> <prefix> <partitions> <member> <mode> <kind>`. Of each message it adds its
 * number to `sum` and 1 to its field of `counts`, own keys of its partition, and publishes three more: `now` under its key, `later`
 * delayed under its key, and `far` under a key of some other partition. It writes one line when it has started.
 */

import { systemClock } from "../../lib/clock.ts";
import { type DeliveryContext, defineTopic, type Message, openQueue } from "../../lib/mq/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { Numbered } from "./queue.ts";

const [url, prefix, partitions, member, mode, kind] = process.argv.slice(2) as string[];
const redis = await openRedis(url!, member!, silentLog);
const queue = openQueue({
  redis,
  keys: createKeys(prefix!, Number(partitions)),
  clock: systemClock,
  log: silentLog,
  metrics: createMetrics(),
  member: member!,
});
const topicOf = (name: string) => defineTopic(name, { schema: Numbered });
const [now, later, far] = [topicOf("now"), topicOf("later"), topicOf("far")];

async function handle(messages: readonly Message<Numbered>[], { commit }: DeliveryContext): Promise<void> {
  await Bun.sleep(3 * Math.random());
  await commit({
    writes: messages.flatMap(({ data: { n } }) => [
      ["INCRBY", "sum", n],
      ["HINCRBY", "counts", n, 1],
    ]),
    publish: messages.flatMap(({ key, data }) => [
      { topic: now, input: { type: "now", key, data } },
      { topic: later, input: { type: "later", key, data, deliverAt: Date.now() + 20 } },
      { topic: far, input: { type: "far", key: `far-${data.n}`, data } },
    ]),
  });
}

const base = { group: "g", mode: mode as "ordered" | "concurrent", leaseMs: 1_000, batchMax: 5 };
await queue
  .consume(
    defineTopic("t", { schema: Numbered }),
    kind === "single"
      ? { ...base, handle: (message, context) => handle([message], context) }
      : { ...base, handleBatch: handle },
  )
  .start();
console.log("started");
