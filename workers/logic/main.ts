/** Logic: the only writer of chat state. Serves its RPC methods and runs the groups delivery, inbox and logic (commands). */

import { archiveContract } from "../../lib/archive/index.ts";
import { AppError } from "../../lib/errors.ts";
import { createChat, createErasures, ERASURES_PURPOSE, imEvents, logicContract } from "../../lib/im/index.ts";
import { ackLevelInForce, replicasOf } from "../../lib/redis/index.ts";
import { deriveSecret, vapidPublicKey } from "../../lib/secrets.ts";
import type { Worker } from "../context.ts";
import { createCommands } from "./commands.ts";
import { createDelivery } from "./delivery.ts";
import { createEraser } from "./eraser.ts";
import { createHook } from "./hook.ts";
import { createInboxConsumer } from "./inbox.ts";
import { createMethods } from "./methods.ts";
import { createPresenceKeeper } from "./presence-keeper.ts";
import { registerPush } from "./push-registration.ts";
import { createReminderConsumer } from "./reminders.ts";

export const worker: Worker = {
  role: "logic",
  async build({ config, secrets, redis, keys, clock, log, metrics, queue, rpc }) {
    const archive = rpc.client(archiveContract);
    const replicas = replicasOf(config.ackLevel);
    // WAIT names no key, so a Cluster may ask another master than the one that holds the commit.
    if (replicas > 0 && redis.topology === "cluster") {
      throw new AppError("INVALID", "SKEIN_ACK_LEVEL: replicated:<n> is not available on a Cluster; use disk");
    }
    const hook = config.hook && createHook(config.hook, { clock, log, metrics });
    const erasures = createErasures({ redis: redis.commands, keys, secret: deriveSecret(secrets, ERASURES_PURPOSE) });
    const chat = createChat({
      redis: redis.commands,
      keys,
      clock,
      metrics,
      replicas,
      makeRoom: (partition) => queue.makeRoom(imEvents, partition),
      recallMs: config.recallSeconds * 1_000,
      readArchive: async (range) => (await archive.history(range)).entries,
      isErased: erasures.has,
      ...(hook ? { judge: hook.judge } : {}),
    });
    const methods = createMethods({
      chat,
      searchArchive: async (search) => (await archive.search(search)).found,
      erasures,
      registerPush: (user, params) => registerPush({ ...chat, secrets, config }, user, params),
      pushPublicKey: vapidPublicKey(secrets.vapidKey),
      status: async () => ({ ackLevel: await ackLevelInForce(redis, config), redis: redis.topology }),
    });
    const parts = { redis: redis.commands, keys, clock, queue, metrics };
    return [
      ...(hook ? [hook.service] : []),
      createInboxConsumer(parts),
      createDelivery(parts),
      ...createPresenceKeeper({ redis: redis.commands, keys, clock, log }),
      createCommands(chat, queue),
      createReminderConsumer(chat, queue),
      createEraser({ chat, queue, archive, log }),
      rpc.serve(logicContract, methods),
    ];
  },
};
