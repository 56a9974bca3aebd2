/** BullMQ as its manual advises for throughput: addBulk, one worker with many jobs in hand, finished jobs removed. */

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { type ConsumeOrder, type Consumer, inWindow, type Publisher, type PublishOrder, TEXT } from "./mq-contract.ts";

const QUEUE = "bench";
const FINISHED = { removeOnComplete: true, removeOnFail: true } as const;

const connect = (url: string) => new Redis(url, { maxRetriesPerRequest: null });

export async function publishToBullmq(order: PublishOrder): Promise<Publisher> {
  const queue = new Queue(QUEUE, { connection: connect(order.url) });
  await queue.waitUntilReady();
  const job = { name: "bench.sent", data: { text: TEXT }, opts: FINISHED };
  return (messages) => inWindow(order, messages, (count) => queue.addBulk(Array.from({ length: count }, () => job)));
}

export async function consumeFromBullmq({ url, concurrency }: ConsumeOrder): Promise<Consumer> {
  return async (seen) => {
    const handle = async () => seen(0, 1);
    const worker = new Worker(QUEUE, handle, { connection: connect(url), concurrency });
    await worker.waitUntilReady();
  };
}
