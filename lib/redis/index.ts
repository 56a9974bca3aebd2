/**
 * Storage. Connections (client.ts), every key (keys.ts), scripts (script.ts and lua/), what an error lets the caller conclude
 * (outcome.ts), whether a server can keep our promises (checks.ts), the metrics of all processes (metric-snapshots.ts), and a
 * server of our own (embedded.ts). This room stores; it does not decide.
 *
 *   const redis = await openRedis(config.redisUrl, "logic", log);
 *   const keys = createKeys(config.prefix, config.partitions);
 *   await redis.commands.hget(keys.conversation(id), "head");
 */

export {
  ackLevelInForce,
  assertRedisIsSafe,
  checkRedis,
  claimInstallation,
  createRedisCheck,
  type Finding,
  replicasOf,
  type Severity,
} from "./checks.ts";
export {
  BLOCK_MS,
  beginLogsAnew,
  mastersOf,
  openRedis,
  parseRedisUrl,
  type RedisClient,
  type RedisConnections,
  type RedisTopology,
} from "./client.ts";
export { AGENDA_KINDS, type AgendaKind, BURSTS, createKeys, type Keys } from "./keys.ts";
export { createMetricSnapshots, type MetricSnapshots } from "./metric-snapshots.ts";
export { outcomeOf, type RedisOutcome, toAppError } from "./outcome.ts";
export { defineScript, type Script } from "./script.ts";
export { redisTimeMs } from "./time.ts";
