/** The table of routes for services, and how they come into the app. */

import type { App, Authenticator } from "../../lib/http/index.ts";
import type { Broadcasts } from "../../lib/im/index.ts";
import { broadcastRoutes } from "./service-broadcasts.ts";
import { deadLetterRoutes } from "./service-dead-letters.ts";
import { delayedRoutes } from "./service-delayed.ts";
import { deliveryRoutes } from "./service-deliveries.ts";
import { type GroupParts, groupRoutes } from "./service-groups.ts";
import type { ServiceKeyStore } from "./service-key-store.ts";
import { serviceKeyRoutes } from "./service-keys.ts";
import { publishRoutes } from "./service-publish.ts";
import type { ServiceRoute } from "./service-route.ts";
import type { Tails } from "./service-tail.ts";
import { topicRoutes } from "./service-topics.ts";
import { traceRoutes } from "./service-trace.ts";
import { type TransactionParts, transactionRoutes } from "./service-transactions.ts";
import { type UserRouteParts, userRoutes } from "./service-users.ts";

export interface ServiceParts extends GroupParts, TransactionParts, UserRouteParts {
  readonly serviceKeys: ServiceKeyStore;
  readonly broadcasts: Broadcasts;
  readonly tails: Tails;
}

export function createServiceRoutes(parts: ServiceParts): readonly ServiceRoute[] {
  const { queue, serviceKeys, broadcasts, tails } = parts;
  return [
    ...topicRoutes(queue),
    ...publishRoutes(queue),
    ...groupRoutes(parts),
    ...deliveryRoutes(queue),
    ...deadLetterRoutes(queue),
    ...delayedRoutes(queue),
    ...transactionRoutes(parts),
    ...tails.routes,
    ...traceRoutes(queue),
    ...broadcastRoutes(broadcasts),
    ...serviceKeyRoutes(serviceKeys),
    ...userRoutes(parts),
  ];
}

export function mountServiceRoutes(app: App, auth: Authenticator, routes: readonly ServiceRoute[]): void {
  for (const route of routes) route.mount(app, auth);
}
