/**
 * Test preload (bunfig.toml): one real redis-server for the whole run, on a free loopback port, with AOF off (tests that need
 * durability start their own). After the run it fails when a key lies outside the tests' prefixes.
 */

import { afterAll, setDefaultTimeout } from "bun:test";
import { startTestRedis } from "./redis-server.ts";

/** Waiting is by `eventually` (20 s cap); only a test that hangs comes near this. */
setDefaultTimeout(120_000);

const server = await startTestRedis();
process.env.TEST_REDIS_URL = server.url;

afterAll(async () => {
  const strays = await server.keysOutside("t-");
  await server.stop();
  if (strays.length > 0) throw new Error(`keys outside a test's prefix: ${strays.slice(0, 10).join(", ")}`);
});
