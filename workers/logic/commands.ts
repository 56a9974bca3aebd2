/** What lower layers ask of logic through `im.commands`, for they may not call it. */

import { createTrim, imCommands } from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";

export function createCommands(redis: RedisClient, keys: Keys, queue: Queue): Service {
  const trim = createTrim(redis, keys);
  return queue.consume(imCommands, {
    group: "logic",
    mode: "ordered",
    handle: ({ data }) => trim(data.conversation, data.epoch, data.through),
  });
}
