/**
 * The queue as a library: an order that nobody pays is cancelled after a while; paying takes the cancellation back.
 *
 *   bun workers/examples/library/delayed.ts redis://127.0.0.1:6379
 *
 * The record of a delayed message is the truth: never early by Redis' clock, fired once, and `cancel` says whether it came in time.
 */

import * as v from "valibot";
import { connectQueue, defineTopic } from "../../../lib/mq/index.ts";

const UNPAID_MS = 1_000;
const timeouts = defineTopic("example.timeouts", { schema: v.strictObject({ order: v.number() }) });

await using queue = await connectQueue({ url: process.argv[2] ?? "redis://127.0.0.1:6379", member: "orders-1" });

// At least one process of an installation runs the timers; in Skein the role `scheduler` does.
const timers = queue.createTimers();
await timers.start();

const cancelled: number[] = [];
const canceller = queue.consume(timeouts, {
  group: "canceller",
  mode: "ordered",
  handle: ({ data }) => cancelled.push(data.order),
});
await canceller.start();

const dueAt = Date.now() + UNPAID_MS;
const waiting = await queue.publishMany(
  timeouts,
  [1, 2, 3].map((order) => ({
    type: "order.timeout",
    key: `order-${order}`,
    data: { order },
    deliverAt: dueAt,
  })),
);

// Order 2 is paid in time; order 3 is given more of it.
console.log(`order 2 is paid: ${await queue.delayed.cancel(waiting[1]!.id)}`);
console.log(`order 3 has another second: ${await queue.delayed.move(waiting[2]!.id, dueAt + UNPAID_MS)}`);

while (cancelled.length < 2) await Bun.sleep(20);
console.log(`cancelled: orders ${cancelled.join(" and ")}`);
console.log(`order 1 is paid too late: ${await queue.delayed.cancel(waiting[0]!.id)}`);
for (const service of [canceller, timers]) await service.stop(AbortSignal.timeout(5_000));
