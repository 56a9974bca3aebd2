/**
 * The queue as a library, without the chat: orders are placed and paid, each order's steps in order, many orders at once.
 *
 *   bun workers/examples/library/ordered.ts redis://127.0.0.1:6379
 *
 * A payment that fails is tried again in place; it holds up its own order and no other one.
 */

import * as v from "valibot";
import { connectQueue, defineTopic } from "../../../lib/mq/index.ts";

const STEPS = ["placed", "paid", "shipped"] as const;
const ORDERS = 20;

const orders = defineTopic("example.orders", {
  schema: v.strictObject({ order: v.number(), step: v.picklist(STEPS) }),
});

await using queue = await connectQueue({ url: process.argv[2] ?? "redis://127.0.0.1:6379", member: "warehouse-1" });

const done = new Map<number, string[]>();
let declined = 1;
const warehouse = queue.consume(orders, {
  group: "warehouse",
  mode: "ordered",
  backoff: [200],
  async handle({ data: { order, step }, attempt }) {
    // The bank says no once: order 7 waits 200 ms, the other nineteen do not notice.
    if (order === 7 && step === "paid" && declined-- > 0) throw new Error("declined");
    done.set(order, [...(done.get(order) ?? []), attempt > 1 ? `${step} (attempt ${attempt})` : step]);
  },
});
await warehouse.start();

// The key is what order is kept by. The dedupId makes a repeated publication harmless.
for (const step of STEPS) {
  await queue.publishMany(
    orders,
    Array.from({ length: ORDERS }, (_, order) => ({
      type: `order.${step}`,
      key: `order-${order}`,
      dedupId: `${order}/${step}`,
      data: { order, step },
    })),
  );
}

const isShipped = () => [...done.values()].filter((steps) => steps.length === STEPS.length).length === ORDERS;
while (!isShipped()) await Bun.sleep(20);
await warehouse.stop(AbortSignal.timeout(5_000));
console.log(`${ORDERS} orders placed, paid and shipped, each in order`);
console.log(`order 7: ${done.get(7)!.join(", ")}`);
