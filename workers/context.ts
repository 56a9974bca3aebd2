/**
 * What every role is built from. One per process: its roles share connections, metrics and the in-process way of calling each
 * other; queue and RPC are bound to the role, so that the layer table holds for each.
 */

import { type Clock, systemClock } from "../lib/clock.ts";
import type { Config } from "../lib/config.ts";
import { AppError } from "../lib/errors.ts";
import { openQueue, type Queue } from "../lib/mq/index.ts";
import { createLog, createMetrics, type Log, type Metrics } from "../lib/observability/index.ts";
import { createKeys, type Keys, openRedis, type RedisConnections } from "../lib/redis/index.ts";
import {
  assertMayConsume,
  assertMayPublish,
  type LocalServices,
  openRpcNode,
  type Role,
  type RpcNode,
} from "../lib/rpc/index.ts";
import { loadSecrets, type Secrets } from "../lib/secrets.ts";
import type { Service } from "../lib/service.ts";

export interface WorkerContext {
  readonly config: Config;
  readonly secrets: Secrets;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly redis: RedisConnections;
  readonly keys: Keys;
  /** Stable across restarts by the supervisor: the member's name in consumer groups and in the registry. */
  readonly instance: string;
  readonly queue: Queue;
  readonly rpc: RpcNode;
}

export interface Worker {
  readonly role: Role;
  /** The role's services, in the order of their start. */
  build(context: WorkerContext): Promise<Service[]>;
}

export interface Unit {
  contextOf(role: Role): WorkerContext;
  close(): Promise<void>;
}

/** Opens what the roles of this process share. `instance` names the process; a role's own name is behind it. */
export async function openUnit(config: Config, instance: string): Promise<Unit> {
  const log = createLog({ role: instance }, config.logLevel);
  if (config.redisUrl === undefined)
    throw new AppError("INVALID", "SKEIN_REDIS_URL is missing: units do not start a Redis");
  const secrets = loadSecrets(config);
  const redis = await openRedis(config.redisUrl, instance, log);
  const keys = createKeys(config.prefix, config.partitions);
  const metrics = createMetrics();
  const local: LocalServices = new Map();
  return {
    contextOf(role) {
      const own = {
        config,
        secrets,
        clock: systemClock,
        log: log.child({ role }),
        metrics,
        redis,
        keys,
        instance: `${instance}.${role}`,
      };
      const may = {
        publish: (topic: string) => assertMayPublish(role, topic),
        consume: (topic: string, group: string) => assertMayConsume(role, topic, group),
      };
      const listen = { directory: config.socketDir, host: config.rpcHost };
      return {
        ...own,
        queue: openQueue({ ...own, member: own.instance, may }),
        rpc: openRpcNode({ ...own, role, secret: secrets.internalSecret, listen, local }),
      };
    },
    close: () => redis.close(),
  };
}
