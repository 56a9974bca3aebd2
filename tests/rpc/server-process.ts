/** A server of testContract in a process of its own; prints a line when it serves. Its settings are its argument. */

import { systemClock } from "../../lib/clock.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { openRpcNode } from "../../lib/rpc/index.ts";
import { echoHandlers, SECRET, testContract } from "./support.ts";

const { instance, url, prefix, directory } = JSON.parse(process.argv[2]!) as Record<string, string>;
const redis = await openRedis(url!, instance!, silentLog);
const node = openRpcNode({
  ...{ role: "logic", instance: instance!, redis, keys: createKeys(prefix!, 4), secret: SECRET, clock: systemClock },
  ...{ log: silentLog, metrics: createMetrics(), listen: { directory: directory!, host: "" }, local: new Map() },
});
const service = node.serve(testContract, echoHandlers(instance!));
await service.start();
process.on("SIGTERM", async () => {
  await service.stop(AbortSignal.timeout(2_000));
  await redis.close();
  process.exit(0);
});
console.log("ready");
