/**
 * The yardstick of the queue: one stream, the bare commands, nothing remembered and nothing checked. The publisher sends the same
 * XADD over and over as bytes made in advance (a client library would be the bottleneck, not Redis); the consumer reads with
 * XREADGROUP and acknowledges each batch with one XACK.
 */

import { Redis } from "ioredis";
import { type ConsumeOrder, type Consumer, DATA, inWindow, type Publisher, type PublishOrder } from "./mq-contract.ts";

const STREAM = "raw";
/** As lib/mq reads. */
const COUNT = 250;
const BLOCK_MS = 1_000;
/** The first byte of each XADD reply, an entry id of digits: `$15\r\n…`. */
const DOLLAR = 0x24;

export async function publishRaw(order: PublishOrder): Promise<Publisher> {
  const parts = ["XADD", STREAM, "*", "d", DATA];
  const command = `*${parts.length}\r\n${parts.map((part) => `$${part.length}\r\n${part}\r\n`).join("")}`;
  const call = Buffer.from(command.repeat(order.batch));
  const answers: { left: number; resolve: () => void }[] = [];
  const unsent: Uint8Array[] = [];
  const { hostname, port } = new URL(order.url);
  const flush = () => {
    while (unsent.length > 0) {
      const [first] = unsent;
      const written = socket.write(first!);
      if (written < first!.length) {
        unsent[0] = first!.subarray(Math.max(0, written));
        return;
      }
      unsent.shift();
    }
  };
  const socket = await Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      data(_, chunk) {
        for (let at = chunk.indexOf(DOLLAR); at >= 0; at = chunk.indexOf(DOLLAR, at + 1)) {
          const [first] = answers;
          first!.left -= 1;
          if (first!.left > 0) continue;
          answers.shift();
          first!.resolve();
        }
      },
      drain: flush,
    },
  });
  return (messages) =>
    inWindow(order, messages, (count) => {
      unsent.push(call.subarray(0, (call.length / order.batch) * count));
      flush();
      return new Promise<void>((resolve) => answers.push({ left: count, resolve }));
    });
}

type Reply = [stream: string, entries: [id: string, fields: string[]][]][] | null;

export async function consumeRaw({ url, groups }: ConsumeOrder): Promise<Consumer> {
  return async (seen) => {
    for (let group = 0; group < groups; group++) void readGroup(new Redis(url), group, seen);
  };
}

async function readGroup(redis: Redis, index: number, seen: (group: number, count: number) => void): Promise<void> {
  const group = `group-${index}`;
  await redis.xgroup("CREATE", STREAM, group, "0", "MKSTREAM");
  for (;;) {
    const reply = (await redis.xreadgroup(
      ...(["GROUP", group, "m", "COUNT", COUNT, "BLOCK", BLOCK_MS, "STREAMS"] as const),
      STREAM,
      ">",
    )) as Reply;
    if (!reply) continue;
    const ids = reply[0]![1].map(([id]) => id);
    // Not awaited: the next read goes out with it. Redis executes them in this order.
    void redis.xack(STREAM, group, ...ids).then((count) => seen(index, count));
  }
}
