/**
 * Where a user's sockets are: connection -> gateway. Gateways attach and detach through logic; delivery resolves.
 *
 *   attach    write the route, then append the user to the log of route changes, then answer. Only then does the gateway
 *             open the session, so what a client syncs afterwards and what it is pushed leave no hole between them.
 *   resolve   routes are cached; before each use the log is read to its end and what changed is dropped from the cache. An
 *             event read after a session opened therefore sees its route. One small read per batch, none per message.
 *
 * A gateway that died leaves routes behind: its delivery stream is gone, and `forgetGateway` removes what is seen of them.
 */

import type { Clock } from "../clock.ts";
import type { Keys, RedisClient } from "../redis/index.ts";

/** Route changes kept; a reader farther behind drops its whole cache. 65 536 changes are some 3 MB. */
const CHANGES_MAX = 65_536;
/** Changes per read; more are fetched in a loop until the end of the log. */
const CHANGES_PER_READ = 1_000;
/** Users in a cache, some 300 bytes each. Beyond it the least recently loaded go. */
const CACHED_USERS_MAX = 200_000;
/** Longest life of a route without any change of the user's routes, should a detach be lost. */
const ROUTE_TTL_S = 24 * 3_600;

export interface Route {
  readonly connection: string;
  readonly gateway: string;
  /** The gateway's own number of the connection, base 36. */
  readonly number: string;
}

export async function attach(
  redis: RedisClient,
  keys: Keys,
  clock: Clock,
  route: { user: string; connection: string; gateway: string; number: number; device: string },
): Promise<void> {
  const key = keys.routes(route.user);
  const value = `${route.gateway} ${route.number.toString(36)} ${route.device || "-"} ${clock.now()}`;
  await Promise.all([redis.hset(key, route.connection, value), redis.expire(key, ROUTE_TTL_S)]);
  await announce(redis, keys, route.user);
}

export async function detach(redis: RedisClient, keys: Keys, user: string, connection: string): Promise<void> {
  await redis.hdel(keys.routes(user), connection);
  await announce(redis, keys, user);
}

async function announce(redis: RedisClient, keys: Keys, user: string): Promise<void> {
  await redis.xadd(keys.routeChanges(), "MAXLEN", "~", CHANGES_MAX, "*", "u", user);
}

const NO_ROUTES: readonly Route[] = [];

export interface RouteCache {
  /** Reads the log of changes to its end. Calls of one tick share a read. Names the users whose routes changed to `onChange`. */
  refresh(): Promise<void>;
  /** Loads the routes of users that are not cached. By the time it resolves, another caller's refresh may have dropped some. */
  load(users: Iterable<string>): Promise<void>;
  has(user: string): boolean;
  /** The cached routes; empty when the user has none or was not loaded. */
  of(user: string): readonly Route[];
  /** Drops the routes of a gateway that is gone, here and in Redis. */
  forgetGateway(gateway: string): Promise<void>;
}

/** `onChange` hears of each user whose cached routes are dropped; of undefined when all are. */
export function createRouteCache(
  redis: RedisClient,
  keys: Keys,
  onChange: (user: string | undefined) => void,
): RouteCache {
  const cache = new Map<string, readonly Route[]>();
  let position: string | undefined;
  let running: Promise<void> | undefined;
  let queued: Promise<void> | undefined;

  function drop(user: string): void {
    if (cache.delete(user)) onChange(user);
  }

  /** Before a batch, never within it: what a batch loads it may rely on. */
  function evict(): void {
    for (const user of cache.keys()) {
      if (cache.size <= CACHED_USERS_MAX) return;
      drop(user);
    }
  }

  async function startOver(): Promise<void> {
    const [last] = await redis.xrevrange(keys.routeChanges(), "+", "-", "COUNT", 1);
    position = last?.[0] ?? "0-0";
    cache.clear();
    onChange(undefined);
  }

  async function readChanges(): Promise<void> {
    evict();
    if (position === undefined) return startOver();
    for (;;) {
      // From the position itself: that it is still there proves that nothing behind it was trimmed.
      const rows: [id: string, fields: string[]][] = await redis.xrange(
        keys.routeChanges(),
        position === "0-0" ? "-" : position,
        "+",
        "COUNT",
        CHANGES_PER_READ,
      );
      if (position !== "0-0" && rows[0]?.[0] !== position) {
        return startOver();
      }
      for (const [id, fields] of rows) {
        if (id !== position) drop(fields[1]!);
        position = id;
      }
      if (rows.length < CHANGES_PER_READ) return;
    }
  }

  function start(): Promise<void> {
    running = readChanges().finally(() => {
      running = undefined;
    });
    return running;
  }

  return {
    refresh() {
      if (!running) return start();
      // Not joined with a read that is under way: it may have been answered before this caller's events were read.
      queued ??= running.then(() => {
        queued = undefined;
        return start();
      });
      return queued;
    },
    async load(users) {
      const pending: Promise<void>[] = [];
      for (const user of users) {
        if (cache.has(user)) continue;
        pending.push(
          redis.hgetall(keys.routes(user)).then((routes) => {
            cache.set(user, toRoutes(routes));
          }),
        );
      }
      await Promise.all(pending);
    },
    has: (user) => cache.has(user),
    of: (user) => cache.get(user) ?? NO_ROUTES,
    async forgetGateway(gateway) {
      const gone: Promise<unknown>[] = [];
      for (const [user, routes] of cache) {
        const dead = routes.filter((route) => route.gateway === gateway);
        if (dead.length === 0) continue;
        drop(user);
        gone.push(redis.hdel(keys.routes(user), ...dead.map((route) => route.connection)));
      }
      await Promise.all(gone);
    },
  };
}

function toRoutes(stored: Record<string, string>): readonly Route[] {
  const routes = Object.entries(stored).map(([connection, value]) => {
    const [gateway, number] = value.split(" ");
    return { connection, gateway: gateway!, number: number! };
  });
  return routes.length === 0 ? NO_ROUTES : routes;
}
