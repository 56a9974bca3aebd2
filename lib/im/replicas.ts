/** The ack level `replicated:<n>`: an answer waits until n replicas have what it stands for. */

import { AppError } from "../errors.ts";
import type { RedisClient } from "../redis/index.ts";

/** How long replicas may take before the outcome counts as unknown. */
const WAIT_MS = 1_000;

/**
 * Resolves when `count` replicas have all that was written on this connection so far; at once for 0. Throws UNKNOWN_OUTCOME when
 * they do not have it in time: it is written, and a repetition is safe.
 */
export async function awaitReplicas(redis: RedisClient, count: number): Promise<void> {
  if (count === 0) return;
  const reached = await redis.wait(count, WAIT_MS);
  if (reached < count) throw new AppError("UNKNOWN_OUTCOME", `Only ${reached} of ${count} replicas hold it yet`);
}
