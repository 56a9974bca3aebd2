/** The table of routes for services, and how they come into the app. */

import type { App, Authenticator } from "../../lib/http/index.ts";
import type { ServiceKeyStore } from "./service-key-store.ts";
import { serviceKeyRoutes } from "./service-keys.ts";
import type { ServiceRoute } from "./service-route.ts";

export interface ServiceParts {
  readonly serviceKeys: ServiceKeyStore;
}

export function createServiceRoutes({ serviceKeys }: ServiceParts): readonly ServiceRoute[] {
  return [...serviceKeyRoutes(serviceKeys)];
}

export function mountServiceRoutes(app: App, auth: Authenticator, routes: readonly ServiceRoute[]): void {
  for (const route of routes) route.mount(app, auth);
}
