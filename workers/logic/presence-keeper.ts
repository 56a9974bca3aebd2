/**
 * Takes users for offline who have been without a connection for a while, and finds gateways that died with theirs. Every
 * instance of logic does; the scripts let one of them have the effect.
 */

import type { Clock } from "../../lib/clock.ts";
import { createBlocks, createPresence } from "../../lib/im/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import { createRepeating, type Service } from "../../lib/service.ts";

/** What it adds to the 5 s that a user may be without a connection. */
const SWEEP_MS = 1_000;
/** A gateway's stream expires 15 s after its last heartbeat; looking more often finds it no sooner. */
const GATEWAYS_MS = 5_000;

interface KeeperParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
}

export function createPresenceKeeper({ redis, keys, clock, log }: KeeperParts): Service[] {
  const presence = createPresence(redis, keys, clock, createBlocks(redis, keys, clock));
  const report = (error: unknown) => log.debug({ error }, "presence was not looked after");

  async function sweep(): Promise<void> {
    for (let partition = 0; partition < keys.partitions; partition++) await presence.sweep(partition);
  }

  return [
    createRepeating("presence of users", { clock, everyMs: SWEEP_MS, act: sweep, report }),
    createRepeating("presence on gateways", { clock, everyMs: GATEWAYS_MS, act: presence.sweepGateways, report }),
  ];
}
