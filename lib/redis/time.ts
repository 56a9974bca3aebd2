/** Redis' own time: what leases, due times and windows are judged by. */

import type { RedisClient } from "./client.ts";

/** Unix ms. In a Cluster, of some node. Rejects with the Redis error. */
export async function redisTimeMs(client: RedisClient): Promise<number> {
  const [seconds, micros] = await client.time();
  return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
}
