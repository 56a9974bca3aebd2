/** Wins users back who were not seen for long. Every instance of extlogic looks; the scripts let one of them have the effect. */

import type { Clock } from "../../lib/clock.ts";
import type { Config } from "../../lib/config.ts";
import { createWinback } from "../../lib/im/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import type { Keys, RedisConnections } from "../../lib/redis/index.ts";
import { createRepeating, type Service } from "../../lib/service.ts";

const DAY_MS = 24 * 3_600_000;
/** Each sweep looks at up to 2 000 users a partition: at 16 partitions a million idle users are walked through in half an hour. */
const SWEEP_MS = 60_000;

type WinbackParts = Config["winback"] & {
  readonly redis: RedisConnections;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
};

export function createWinbackKeeper({ days, periodDays, title, text, redis, keys, clock, log }: WinbackParts): Service {
  const winback = createWinback(redis.commands, keys, clock, {
    idleMs: days * DAY_MS,
    periodMs: periodDays * DAY_MS,
    push: text === "" ? undefined : { title, text },
  });
  async function sweep(): Promise<void> {
    for (let partition = 0; partition < keys.partitions; partition++) await winback.sweep(partition);
  }
  return createRepeating("win-back", {
    ...{ clock, everyMs: SWEEP_MS, act: sweep },
    report: (error) => log.warn({ error }, "a sweep for users to win back failed; the next one goes on"),
  });
}
