/**
 * Notifications that are no events: of passing things (typing, presence) and of what concerns one user's own devices. They go to
 * the gateways of these users as ready frames, at most once, and are stored nowhere else.
 */

import type { Keys, RedisClient } from "../redis/index.ts";
import type { Route, RouteCache } from "./routes.ts";

/** Entries a gateway's stream may hold; one that is farther behind tells its sockets to sync. */
export const GATEWAY_STREAM_MAX = 20_000;

/** All that the chat tells users unasked. Whoever documents it (the gateway) and whoever receives it (lib/client) must know each. */
export type NotificationName =
  | "message"
  | "message.edited"
  | "message.recalled"
  | "message.reaction"
  | "message.hidden"
  | "member"
  | "read"
  | "delivered"
  | "typing"
  | "presence"
  | "conversation"
  | "conversation.muted"
  | "reminder"
  | "scheduled";

/** A notification's frame; `params` is JSON. */
export function notification(method: NotificationName, params: string): string {
  return `{"jsonrpc":"2.0","method":"${method}","params":${params}}`;
}

/**
 * Appends [targets, frame, …] to a gateway's stream. False when there is no such gateway: it creates its own stream and lets it
 * expire.
 */
export async function appendFrames(
  redis: RedisClient,
  keys: Keys,
  gateway: string,
  pairs: readonly string[],
): Promise<boolean> {
  const stream = keys.gateway(gateway);
  const entry = await redis.xadd(stream, "NOMKSTREAM", "MAXLEN", "~", GATEWAY_STREAM_MAX, "*", ...pairs);
  return entry !== null;
}

export interface Notifier {
  /** Writes the frame to every connection of these users but one. Resolves to those of them who have none that it went to. */
  toUsers(users: readonly string[], frame: string, except?: string): Promise<string[]>;
}

export function createNotifier(redis: RedisClient, keys: Keys, routes: RouteCache): Notifier {
  /** Resolves to whether the gateway is there. */
  async function send(gateway: string, connections: readonly Route[], frame: string): Promise<boolean> {
    const numbers = connections.map(({ number }) => number).join(",");
    const isThere = await appendFrames(redis, keys, gateway, [`- 0 ${numbers}`, frame]);
    if (!isThere) await routes.forgetGateway(gateway);
    return isThere;
  }

  return {
    async toUsers(users, frame, except) {
      await routes.refresh();
      // A refresh by others while these load may drop some again: looked at until all are there.
      for (let missing = users; missing.length > 0; missing = users.filter((user) => !routes.has(user))) {
        await routes.load(missing);
      }
      /** Connections, and whose they are. */
      const byGateway = new Map<string, Map<Route, string>>();
      for (const user of users) {
        for (const route of routes.of(user)) {
          if (route.connection === except) continue;
          const found = byGateway.get(route.gateway);
          if (found) found.set(route, user);
          else byGateway.set(route.gateway, new Map([[route, user]]));
        }
      }
      const reached = new Set<string>();
      const tell = async (gateway: string, found: ReadonlyMap<Route, string>) => {
        if (await send(gateway, [...found.keys()], frame)) for (const user of found.values()) reached.add(user);
      };
      await Promise.all(Array.from(byGateway, ([gateway, found]) => tell(gateway, found)));
      return users.filter((user) => !reached.has(user));
    },
  };
}
