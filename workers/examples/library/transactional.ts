/**
 * The queue as a library: state and message that change together, in the three ways there are.
 *
 *   bun workers/examples/library/transactional.ts redis://127.0.0.1:6379
 *
 * Stock lies in Redis beside the message: one script. Payments lie in the service's own database: a half message, which is asked for when
 * its producer dies in between. Revenue is counted by a consumer: ack, count and receipt in one script, so no crash counts twice.
 */

import { Database } from "bun:sqlite";
import * as v from "valibot";
import { connectQueue, defineTopic } from "../../../lib/mq/index.ts";

const SHOP = "shop-1";
const PRICE = 4;
const Order = v.strictObject({ order: v.number() });
const placed = defineTopic("example.placed", { schema: Order });
const paid = defineTopic("example.paid", { schema: Order });
const receipts = defineTopic("example.receipts", { schema: Order });

await using queue = await connectQueue({ url: process.argv[2] ?? "redis://127.0.0.1:6379", member: SHOP });

// 1. State in Redis, in the partition of the key: message and stock, both or neither. A repeat under the dedupId does neither again.
for (const order of [1, 2, 2, 3]) {
  const input = { type: "order.placed", key: SHOP, dedupId: `order-${order}`, data: { order } };
  await queue.publishWith(placed, input, [["HINCRBY", "stock", "tea", -1]]);
}

// 2. State elsewhere: prepare, commit your own transaction, then the message. Order 3's producer dies before it can say so …
const database = new Database(":memory:");
database.run("CREATE TABLE payments (paid_order INTEGER PRIMARY KEY)");
for (const order of [1, 2, 3]) {
  const half = await queue.transactions.prepare(
    paid,
    { type: "order.paid", key: SHOP, data: { order } },
    { producerGroup: "till", firstCheckMs: 200 },
  );
  database.run("INSERT INTO payments VALUES (?)", [order]);
  if (order !== 3) await queue.transactions.commit(half.id);
}
// … so the queue asks, and the database knows.
const till = queue.transactions.answerChecks("till", ({ message }) => {
  const { order } = JSON.parse(message.raw) as { order: number };
  return database.query("SELECT 1 FROM payments WHERE paid_order = ?").get(order) ? "commit" : "rollback";
});
await till.start();

// 3. Effects of a consumer: ack, writes and next messages in one script, whatever dies in between.
const accounts = queue.consume(paid, {
  group: "accounts",
  mode: "ordered",
  handle: (message, { commit }) =>
    commit({
      writes: [["HINCRBY", "revenue", "total", PRICE]],
      publish: [{ topic: receipts, input: { type: "receipt", key: message.key, data: message.data } }],
    }),
});
const sent: number[] = [];
const post = queue.consume(receipts, {
  group: "post",
  mode: "ordered",
  handle: ({ data }) => sent.push(data.order),
});
await accounts.start();
await post.start();

while (sent.length < 3) await Bun.sleep(20);
for (const service of [post, accounts, till]) await service.stop(AbortSignal.timeout(5_000));
const read = (name: string, field: string) => queue.redis.hget(queue.own(SHOP, name).key, field);
console.log(
  `stock ${await read("stock", "tea")}, revenue ${await read("revenue", "total")}, receipts ${sent.join(", ")}`,
);
