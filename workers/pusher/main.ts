/** Pusher: wakes the devices of users who have not seen what came for them. Runs the groups pusher and devices of im.push. */

import { archiveContract } from "../../lib/archive/index.ts";
import { createOutbound } from "../../lib/http/outbound.ts";
import { createPushDevices } from "../../lib/im/index.ts";
import { createService } from "../../lib/service.ts";
import type { Worker } from "../context.ts";
import { createDevicePusher } from "./devices.ts";
import { createLook } from "./look.ts";
import { createProviders } from "./providers.ts";
import { createPusher } from "./pusher.ts";

export const worker: Worker = {
  role: "pusher",
  async build({ config, secrets, clock, metrics, redis, keys, queue, rpc }) {
    const archive = rpc.client(archiveContract);
    const outbound = createOutbound({ allowPrivate: config.outboundPrivate });
    const providers = createProviders({ config, secrets, clock, outbound });
    const pushDevices = createPushDevices(redis.commands, keys, clock);
    const look = createLook({
      ...{ redis: redis.commands, keys, clock },
      readArchive: async (range) => (await archive.history(range)).entries,
    });
    return [
      createService(
        "push providers",
        async () => undefined,
        async () => {
          providers.close();
          outbound.close();
        },
      ),
      createDevicePusher({ clock, queue, metrics, pushDevices, look, providers }),
      createPusher({ redis: redis.commands, keys, clock, queue, pushDevices, look }),
    ];
  },
};
