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
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import attachLua from "../redis/lua/im-attach.lua" with { type: "text" };
import detachLua from "../redis/lua/im-detach.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import { imUsers } from "./topics.ts";

/** Route changes kept; a reader farther behind drops its whole cache. 65 536 changes are some 3 MB. */
const CHANGES_MAX = 65_536;
/** Changes per read; more are fetched in a loop until the end of the log. */
const CHANGES_PER_READ = 1_000;
/** Users in a cache, some 300 bytes each. Beyond it the least recently loaded go. */
const CACHED_USERS_MAX = 200_000;
/** Longest life of a route without any change of the user's routes, should a detach be lost. */
const ROUTE_TTL_MS = 24 * 3_600_000;
/** Devices remembered per user. */
const DEVICES_MAX = 50;
/** A user whose last connection ended is offline after this: a phone that changes its network, or a drained gateway, is back by then. */
const GRACE_MS = 5_000;

export interface Route {
  readonly connection: string;
  readonly gateway: string;
  /** The gateway's own number of the connection, base 36. */
  readonly number: string;
}

const writeRoute = defineScript({
  name: "imAttach",
  lua: [append, stateLua, attachLua],
  keys: ["routes", "devices", "presence", "leaving", "usersTopic", "users"],
  args: ["user", "connection", "gateway", "number", "device", "ttlMs", "devicesMax", "eventId"],
  decode: (reply) => reply === 1,
});

const removeRoutes = defineScript({
  name: "imDetach",
  lua: [stateLua, detachLua],
  keys: ["routes", "devices", "presence", "leaving"],
  args: ["user", "connection", "gateway", "graceMs"],
  decode: (reply) => reply as number,
});

export interface Attachment {
  readonly user: string;
  readonly connection: string;
  readonly gateway: string;
  readonly number: number;
  /** "" when it has no name. */
  readonly device: string;
}

/** Resolves true when the user has come online by it. */
export async function attach(redis: RedisClient, keys: Keys, clock: Clock, route: Attachment): Promise<boolean> {
  const { user, connection, gateway, number, device } = route;
  const partition = keys.partitionOf(user);
  // First: a gateway that dies right after the route is written is found with its users.
  await Promise.all([
    redis.zadd(keys.gateways(), clock.now(), gateway),
    redis.zadd(keys.gatewayUsers(gateway), clock.now(), user),
  ]);
  const isNewlyOnline = await writeRoute(redis, {
    routes: keys.routes(user),
    devices: keys.devices(user),
    presence: keys.presence(user),
    leaving: keys.leaving(partition),
    usersTopic: keys.topic(imUsers.name, partition),
    users: keys.users(partition),
    user,
    connection,
    gateway,
    number: number.toString(36),
    device: device || "-",
    ttlMs: ROUTE_TTL_MS,
    devicesMax: DEVICES_MAX,
    eventId: newId(clock.now()),
  });
  await announceRoutes(redis, keys, user);
  return isNewlyOnline;
}

export async function detach(redis: RedisClient, keys: Keys, user: string, connection: string): Promise<void> {
  await remove(redis, keys, user, { connection, gateway: "" });
  await announceRoutes(redis, keys, user);
}

/** Removes the user's routes to a gateway that is gone. */
export async function detachFrom(redis: RedisClient, keys: Keys, user: string, gateway: string): Promise<void> {
  if ((await remove(redis, keys, user, { connection: "", gateway })) > 0) await announceRoutes(redis, keys, user);
}

function remove(redis: RedisClient, keys: Keys, user: string, which: { connection: string; gateway: string }) {
  return removeRoutes(redis, {
    routes: keys.routes(user),
    devices: keys.devices(user),
    presence: keys.presence(user),
    leaving: keys.leaving(keys.partitionOf(user)),
    user,
    ...which,
    graceMs: GRACE_MS,
  });
}

/** Tells all caches that the user's routes, or his devices with push, have changed. */
export async function announceRoutes(redis: RedisClient, keys: Keys, user: string): Promise<void> {
  await redis.xadd(keys.routeChanges(), "MAXLEN", "~", CHANGES_MAX, "*", "u", user);
}

/** What is cached of a user. */
interface Reach {
  readonly routes: readonly Route[];
  readonly hasPush: boolean;
}

const UNREACHED: Reach = { routes: [], hasPush: false };

export interface RouteCache {
  /** Reads the log of changes to its end. Calls of one tick share a read. Names the users whose routes changed to `onChange`. */
  refresh(): Promise<void>;
  /** Loads the routes of users that are not cached. Another caller's refresh may drop some: look again right before the use. */
  load(users: Iterable<string>): Promise<void>;
  has(user: string): boolean;
  /** The cached routes; empty when the user has none or was not loaded. */
  of(user: string): readonly Route[];
  /** Whether a device of the user has push, as cached with the routes; false when the user was not loaded. */
  hasPush(user: string): boolean;
  /** Drops the routes of a gateway that is gone, here and in Redis. */
  forgetGateway(gateway: string): Promise<void>;
}

/** `onChange` hears of each user whose cached routes are dropped; of undefined when all are. */
export function createRouteCache(
  redis: RedisClient,
  keys: Keys,
  onChange: (user: string | undefined) => void,
): RouteCache {
  const cache = new Map<string, Reach>();
  /** Users whose routes are being read. A change takes the mark away: what was asked before it is not to be cached after it. */
  const loading = new Map<string, symbol>();
  let position: string | undefined;
  let running: Promise<void> | undefined;
  let queued: Promise<void> | undefined;

  function drop(user: string): void {
    loading.delete(user);
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
    loading.clear();
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

  async function loadOne(user: string): Promise<void> {
    // Reads at once share it, or they would keep each other from being cached for ever.
    const mark = loading.get(user) ?? Symbol(user);
    loading.set(user, mark);
    try {
      const [routes, push] = await Promise.all([redis.hgetall(keys.routes(user)), redis.exists(keys.push(user))]);
      if (loading.get(user) === mark) cache.set(user, toReach(routes, push > 0));
    } finally {
      if (loading.get(user) === mark) loading.delete(user);
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
      // Nor does its failure reach who waits behind it.
      const next = () => {
        queued = undefined;
        return start();
      };
      queued ??= running.then(next, next);
      return queued;
    },
    async load(users) {
      const pending: Promise<void>[] = [];
      for (const user of users) if (!cache.has(user)) pending.push(loadOne(user));
      await Promise.all(pending);
    },
    has: (user) => cache.has(user),
    of: (user) => (cache.get(user) ?? UNREACHED).routes,
    hasPush: (user) => (cache.get(user) ?? UNREACHED).hasPush,
    async forgetGateway(gateway) {
      const gone: Promise<unknown>[] = [];
      for (const [user, { routes }] of cache) {
        if (!routes.some((route) => route.gateway === gateway)) continue;
        drop(user);
        gone.push(detachFrom(redis, keys, user, gateway));
      }
      await Promise.all(gone);
    },
  };
}

function toReach(stored: Record<string, string>, hasPush: boolean): Reach {
  const routes = Object.entries(stored).map(([connection, value]) => {
    const [gateway, number] = value.split(" ");
    return { connection, gateway: gateway!, number: number! };
  });
  // Most users by far: one object for all of them.
  return routes.length === 0 && !hasPush ? UNREACHED : { routes, hasPush };
}
