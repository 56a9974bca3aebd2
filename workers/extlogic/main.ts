/** Extlogic: the heavy and outward work behind the queue, at its own pace. Webhooks of declared groups, checks by HTTP. */

import { createOutbound } from "../../lib/http/outbound.ts";
import { createService } from "../../lib/service.ts";
import type { Worker } from "../context.ts";
import { createBroadcastRunner } from "./broadcast.ts";
import { createHttpChecks } from "./checks.ts";
import { createWebhooks } from "./webhooks.ts";
import { createWinbackKeeper } from "./winback.ts";

export const worker: Worker = {
  role: "extlogic",
  async build({ config, secrets, clock, log, metrics, redis, keys, queue }) {
    const outbound = createOutbound({ allowPrivate: config.outboundPrivate });
    return [
      createService(
        "outbound",
        async () => undefined,
        async () => outbound.close(),
      ),
      createHttpChecks({ queue, outbound, secrets, clock }),
      createWebhooks({ queue, outbound, clock, log, metrics }),
      createBroadcastRunner({ redis: redis.commands, keys, clock, log }),
      ...(config.winback.days > 0 ? [createWinbackKeeper({ ...config.winback, redis, keys, clock, log })] : []),
    ];
  },
};
