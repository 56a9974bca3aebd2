/** A process that owns an embedded Redis, for tests that kill it: `bun embedded-process.ts <data dir> <socket folder>`. Prints Redis' pid. */

import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { startEmbeddedRedis } from "../../lib/redis/embedded.ts";

const [dataDir, socketDir] = process.argv.slice(2);
const redis = await startEmbeddedRedis({
  dataDir: dataDir!,
  socketDir: socketDir!,
  password: "of-a-test",
  ackLevel: "disk",
  log: silentLog,
  onStart: () => undefined,
  onGone: () => undefined,
});
console.log(redis.pid());
await systemClock.sleep(60_000);
