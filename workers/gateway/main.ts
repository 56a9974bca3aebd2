/** Gateway: terminates connections. HTTP API, WebSocket sessions, and what arrives for them on its own delivery stream. */

import { createAuthenticator, createLimiter } from "../../lib/http/index.ts";
import { newId } from "../../lib/id.ts";
import { createBroadcasts, createErasures, ERASURES_PURPOSE, LIMITS, logicContract } from "../../lib/im/index.ts";
import { toAppError } from "../../lib/redis/index.ts";
import { checkSecretOf, deriveSecret } from "../../lib/secrets.ts";
import { createService } from "../../lib/service.ts";
import type { Worker } from "../context.ts";
import { createChecks } from "./checks.ts";
import { createDeliveries } from "./deliveries.ts";
import { createRoutes } from "./routes.ts";
import { createServiceKeyStore } from "./service-key-store.ts";
import { createServiceRoutes } from "./service-routes.ts";
import { createTails } from "./service-tail.ts";
import { Sessions } from "./sessions.ts";
import { createServer } from "./upgrade.ts";

/** Typing, delivered cursors, presence: a client says such things every few seconds, and many at once when it opens. */
const SIGNALS_PER_SECOND = 20;
const SIGNALS_BURST = 100;

export const worker: Worker = {
  role: "gateway",
  async build({ config, secrets, clock, log, metrics, snapshots, redis, keys, instance, queue, rpc, checks }) {
    const { jwksUrl, host, port, origins, sendRate, sendBurst } = config;
    // Of one process life: the routes and the stream of the life before must not be taken for ours.
    const node = `${instance}-${newId(clock.now()).slice(-10)}`;
    const logic = rpc.client(logicContract);
    const serviceKeys = createServiceKeyStore({
      commands: redis.commands,
      keys,
      clock,
      serviceKey: secrets.serviceKey,
    });
    const erasures = createErasures({ redis: redis.commands, keys, secret: deriveSecret(secrets, ERASURES_PURPOSE) });
    const isErased = (user: string) =>
      erasures.has(user).catch((error: unknown) => {
        throw toAppError(error);
      });
    const auth = await createAuthenticator({ ...secrets, jwksUrl, clock, findServiceKey: serviceKeys.find, isErased });
    const limiters = {
      entry: createLimiter(sendRate, sendBurst),
      signal: createLimiter(SIGNALS_PER_SECOND, SIGNALS_BURST),
    };
    const limits = { ...LIMITS, sendRate, sendBurst };
    const sessions = new Sessions({ node, logic, auth, limiters, limits, clock, log, metrics });
    const deliveries = createDeliveries({ node, redis, keys, sessions, clock, log, metrics });
    const allChecks = createChecks({ checks, logic, rpc, deliveries, sessions });
    const tails = createTails(queue, log);
    const broadcasts = createBroadcasts(redis.commands, keys, clock);
    const serviceRoutes = createServiceRoutes({
      ...{ queue, logic, clock, serviceKeys, broadcasts, tails, allowPrivate: config.outboundPrivate },
      checkSecretOf: (producerGroup) => checkSecretOf(secrets, producerGroup),
    });
    const app = createRoutes({
      logic,
      auth,
      limiters,
      serviceRoutes,
      origins,
      checks: allChecks,
      snapshots,
      clock,
      log,
    });
    const server = createServer({ host, port, origins, app, auth, sessions, log });
    // Whoever waits for messages is let go before the server waits for its answers.
    const pulls = createService(
      "pulls",
      async () => undefined,
      () => queue.pull.dispose(),
    );
    return [deliveries, rpc.announce("gateway", node), server, tails.service, pulls];
  },
};
