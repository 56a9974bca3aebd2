/** The shared test Redis under a private prefix per test. */

import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, type Keys, openRedis, type RedisConnections } from "../../lib/redis/index.ts";

export interface TestStore extends AsyncDisposable {
  readonly url: string;
  readonly prefix: string;
  readonly partitions: number;
  readonly keys: Keys;
  readonly redis: RedisConnections;
  readonly metrics: ReturnType<typeof createMetrics>;
}

let count = 0;

/** `await using store = await openTestStore("mq-ordered")`: connections and keys that no other test sees; closed at the end. */
export async function openTestStore(
  name: string,
  { partitions = 4, url = process.env.TEST_REDIS_URL! } = {},
): Promise<TestStore> {
  count += 1;
  const prefix = `t-${name}-${process.pid}-${count}`.slice(0, 32);
  const redis = await openRedis(url, prefix, silentLog);
  return {
    url,
    prefix,
    partitions,
    keys: createKeys(prefix, partitions),
    redis,
    metrics: createMetrics(),
    [Symbol.asyncDispose]: () => redis.close(),
  };
}
