/**
 * A process that sends through lib/im as logic does, without RPC around it: the real committer on the real script. A window of
 * sends per partition makes scripts of that many sends, for the committer has one script per partition under way.
 */

import { systemClock } from "../../lib/clock.ts";
import { createChat, type SendInput, send } from "../../lib/im/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";

export interface DriverOrder {
  readonly url: string;
  readonly prefix: string;
  readonly partitions: number;
  readonly name: string;
  readonly conversations: readonly string[];
  readonly sender: string;
  /** Sends under way per partition. */
  readonly window: number;
  readonly textBytes: number;
  readonly warmMs: number;
  readonly measureMs: number;
}

export type DriverEvent =
  | { readonly type: "measuring" | "measured" }
  | {
      readonly type: "done";
      /** Within the measured time. */
      readonly committed: number;
      readonly seconds: number;
      /** From start to end, warming up and draining included. */
      readonly committedInAll: number;
      readonly failed: string | undefined;
    };

const tell = (event: DriverEvent) => process.send?.(event);

async function drive(order: DriverOrder): Promise<void> {
  const redis = await openRedis(order.url, order.name, silentLog);
  const keys = createKeys(order.prefix, order.partitions);
  const chat = createChat({
    ...{ redis: redis.commands, keys, clock: systemClock, metrics: createMetrics(), replicas: 0, recallMs: 0 },
    makeRoom: async () => undefined,
    readArchive: async () => [],
  });
  const byPartition: string[][] = Array.from({ length: order.partitions }, () => []);
  for (const id of order.conversations) byPartition[keys.partitionOf(id)]!.push(id);
  const body = { text: "x".repeat(order.textBytes) };
  let committed = 0;
  let attempts = 0;
  let failed: string | undefined;
  let isOver = false;

  const sender = async (conversations: readonly string[]) => {
    while (!isOver && failed === undefined) {
      const input: SendInput = {
        by: order.sender,
        connection: "c1",
        params: {
          conversation: conversations[Math.floor(Math.random() * conversations.length)]!,
          clientId: `${order.name}-${attempts++}`,
          type: "text",
          body,
        },
      };
      const result = await send(chat, input);
      if (result.ok) committed++;
      else failed = result.error.message;
    }
  };
  const senders = byPartition
    .filter((conversations) => conversations.length > 0)
    .flatMap((conversations) => Array.from({ length: order.window }, () => sender(conversations)));

  await Bun.sleep(order.warmMs);
  const before = committed;
  const startedMs = performance.now();
  tell({ type: "measuring" });
  await Bun.sleep(order.measureMs);
  const measured = { committed: committed - before, seconds: (performance.now() - startedMs) / 1_000 };
  tell({ type: "measured" });
  isOver = true;
  await Promise.all(senders);
  tell({ type: "done", ...measured, committedInAll: committed, failed });
  await redis.close();
  process.disconnect?.();
}

process.once("message", (order: DriverOrder) => void drive(order));
