/** The Redis of a campaign that breaks the queue alone, without a Skein around it: at ack level `disk`, back at once when killed. */

import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../lib/observability/index.ts";
import { startEmbeddedRedis } from "../../lib/redis/embedded.ts";

export interface PrivateRedis {
  readonly url: string;
  /** kill -9. It comes back by itself, with its data. */
  kill(): void;
  stop(): Promise<void>;
}

export async function startPrivateRedis(dataDir: string): Promise<PrivateRedis> {
  // A socket's path is short.
  const socketDir = mkdtempSync(join(tmpdir(), "skein-chaos-"));
  const redis = await startEmbeddedRedis({
    ...{ dataDir, socketDir, password: randomBytes(16).toString("hex"), ackLevel: "disk", log: silentLog },
    onStart: () => undefined,
    onGone(error) {
      throw error;
    },
  });
  return {
    url: redis.url,
    kill: () => process.kill(redis.pid(), "SIGKILL"),
    async stop() {
      await redis.stop();
      rmSync(socketDir, { recursive: true, force: true });
    },
  };
}
