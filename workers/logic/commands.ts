/** What lower layers ask of logic through `im.commands`, for they may not call it. */

import { imCommands } from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";

/** Entries that stay hot however much is archived (design.md §10). */
const HOT_ENTRIES = 1_000;

export function createCommands(redis: RedisClient, keys: Keys, queue: Queue): Service {
  /** Trims the hot window behind the archive; the last message stays, for lists show it. */
  async function trim(conversation: string, epoch: string, through: number): Promise<void> {
    const place = await redis.hget(keys.members(conversation), "#");
    if (place === null) return;
    // Of another epoch nothing follows: its seqs are other entries than the ones that lie here now.
    if (place.split(" ")[4] !== epoch) return;
    const [head, , , lastMessage] = place.split(" ").map(Number);
    const keepFrom = Math.min(through + 1, lastMessage || through + 1, head! - HOT_ENTRIES + 1);
    if (keepFrom > 1) await redis.xtrim(keys.log(conversation), "MINID", `${keepFrom}-0`);
  }

  return queue.consume(imCommands, {
    group: "logic",
    mode: "ordered",
    handle: ({ data }) => trim(data.conversation, data.epoch, data.through),
  });
}
