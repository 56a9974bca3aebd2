/**
 * What a role gets to work with, and what it gives back. A unit (unit.ts) is one process that runs one or more roles; they
 * share its connections and metrics, while log, queue and rpc are bound to the role, so that the layer table holds inside a
 * shared process as well.
 */

import { type Clock, systemClock } from "../lib/clock.ts";
import type { Config } from "../lib/config.ts";
import { socketFolder } from "../lib/data-dir.ts";
import { AppError } from "../lib/errors.ts";
import { imTopics } from "../lib/im/index.ts";
import { imRelay, openQueue, type Queue } from "../lib/mq/index.ts";
import { type Check, createLog, createMetrics, type Log, type Metrics } from "../lib/observability/index.ts";
import {
  assertRedisIsSafe,
  claimInstallation,
  createKeys,
  createMetricSnapshots,
  createRedisCheck,
  type Keys,
  type MetricSnapshots,
  openRedis,
  type RedisConnections,
} from "../lib/redis/index.ts";
import {
  assertMayConsume,
  assertMayPublish,
  type LocalServices,
  openRpcNode,
  type Role,
  type RpcNode,
} from "../lib/rpc/index.ts";
import { deriveSecret, loadSecrets, type Secrets } from "../lib/secrets.ts";
import type { Service } from "../lib/service.ts";

export interface WorkerContext {
  readonly config: Config;
  readonly secrets: Secrets;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** The metrics of this process beside those of all others. */
  readonly snapshots: MetricSnapshots;
  readonly redis: RedisConnections;
  readonly keys: Keys;
  /** Stable across restarts by the supervisor, unique among live ones: `<host>.<supervisor's pid>.<unit>.<role>`. */
  readonly instance: string;
  /** Refuses what the layer table forbids to this role. */
  readonly queue: Queue;
  readonly rpc: RpcNode;
  /** What the unit as a whole needs to be ready; a role that answers /readyz shows them. */
  readonly checks: readonly Check[];
}

export interface Worker {
  readonly role: Role;
  /** Services start in this order and stop in reverse. Nothing runs before they start. */
  build(context: WorkerContext): Promise<Service[]>;
}

export interface UnitContext {
  readonly log: Log;
  /** What runs in the unit beside its roles, before and after them. */
  readonly services: readonly Service[];
  forRole(role: Role): WorkerContext;
  close(): Promise<void>;
}

/**
 * Opens what the roles of one process share. `instance` names the unit. Throws AppError OVERLOADED when Redis is away, INVALID
 * when it cannot keep the promises of the ack level or belongs to an installation with another number of partitions.
 */
export async function openUnitContext(config: Config, instance: string): Promise<UnitContext> {
  if (config.redisUrl === undefined) {
    throw new AppError("INVALID", "SKEIN_REDIS_URL is missing: units are started by `bun run workers`, which sets it");
  }
  const log = createLog({ role: "unit" }, config.logLevel);
  const secrets = loadSecrets(config);
  const metrics = createMetrics(instance);
  const redis = await openRedis(config.redisUrl, instance, log);
  const keys = createKeys(config.prefix, config.partitions);
  try {
    for (const { ok, severity, name, found, remedy } of await assertRedisIsSafe(redis, config)) {
      if (!ok) log[severity === "refuse" ? "error" : "warn"]({ check: name, found, remedy }, "redis setting");
    }
    await claimInstallation(redis, keys, systemClock.now());
  } catch (error) {
    await redis.close();
    throw error;
  }
  const checks = [createRedisCheck(redis, config)];
  const snapshots = createMetricSnapshots({ redis, keys, unit: instance, metrics, clock: systemClock, log });
  const listen = { directory: socketFolder(config.dataDir), host: config.rpcHost };
  const local: LocalServices = new Map();
  return {
    log,
    services: [snapshots.service],
    forRole(role) {
      const member = `${instance}.${role}`;
      const roleLog = createLog({ role }, config.logLevel);
      const shared = { redis, keys, clock: systemClock, log: roleLog, metrics };
      const may = {
        publish: (topic: string) => assertMayPublish(role, topic),
        consume: (topic: string, group: string) => assertMayConsume(role, topic, group),
      };
      return {
        ...shared,
        config,
        secrets,
        snapshots,
        instance: member,
        queue: openQueue({
          ...shared,
          member,
          may,
          topics: [...imTopics, imRelay],
          tokenSecret: deriveSecret(secrets, "pull tokens"),
        }),
        rpc: openRpcNode({ ...shared, role, instance: member, secret: secrets.internalSecret, listen, local }),
        checks,
      };
    },
    close: () => redis.close(),
  };
}
