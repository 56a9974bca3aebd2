/** Logic: the only writer of chat state. Serves its RPC methods and runs the groups delivery, inbox and logic (commands). */

import { archiveContract } from "../../lib/archive/index.ts";
import { AppError } from "../../lib/errors.ts";
import { imCommands, imEvents, imPush, logicContract } from "../../lib/im/index.ts";
import { createTrimmer } from "../../lib/mq/index.ts";
import { ackLevelInForce } from "../../lib/redis/index.ts";
import type { Worker } from "../context.ts";
import { createCommands } from "./commands.ts";
import { createDelivery } from "./delivery.ts";
import { createInboxConsumer } from "./inbox.ts";
import { createMethods } from "./methods.ts";

/** How often finished entries of the chat's topics are trimmed. */
const TRIM_EVERY_MS = 10_000;

export const worker: Worker = {
  role: "logic",
  async build({ config, redis, keys, clock, metrics, queue, rpc }) {
    const archive = rpc.client(archiveContract);
    const replicas = config.ackLevel.startsWith("replicated:")
      ? Number(config.ackLevel.slice("replicated:".length))
      : 0;
    // WAIT names no key, so a Cluster may ask another master than the one that holds the commit.
    if (replicas > 0 && redis.topology === "cluster") {
      throw new AppError("INVALID", "SKEIN_ACK_LEVEL: replicated:<n> is not available on a Cluster; use disk");
    }
    const methods = createMethods({
      redis: redis.commands,
      keys,
      clock,
      metrics,
      replicas,
      makeRoom: (partition) => queue.makeRoom(imEvents, partition),
      recallMs: config.recallSeconds * 1_000,
      readArchive: async (range) => (await archive.history(range)).entries,
      status: async () => ({ ackLevel: await ackLevelInForce(redis, config), redis: redis.topology }),
    });
    const parts = { redis: redis.commands, keys, clock, queue, metrics };
    return [
      createInboxConsumer(parts),
      createDelivery(parts),
      createCommands(redis.commands, keys, queue),
      createTrimmer(queue, [imEvents, imPush, imCommands], TRIM_EVERY_MS),
      rpc.serve(logicContract, methods),
    ];
  },
};
