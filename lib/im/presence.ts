/**
 * Who is online: a user with a connection of any device. Nothing is kept of it but since when, and when the user was seen last.
 *
 *   first connection ─► online ── last one ended ─► leaving ── 5 s ─► offline
 *                          ▲                            │
 *                          └───────── came back ────────┘
 *
 * Whoever wants to hear of it subscribes at his gateway; the gateway has itself listed with the user for some minutes at a time,
 * so nothing of it outlives a gateway. One that dies takes its users with it: it is missed (`sweepGateways`), and their routes go.
 */

import type { Clock } from "../clock.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import offlineLua from "../redis/lua/im-offline.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import type { Blocks } from "./blocks.ts";
import { appendFrames, notification } from "./notify.ts";
import type { PresenceState } from "./requests.ts";
import { detachFrom } from "./routes.ts";
import { imUsers } from "./topics.ts";

/** A gateway is listed for so long; it has itself listed anew well before. */
export const WATCH_MS = 10 * 60_000;
/** Users per look into a partition's leavers, and of a dead gateway. */
const SWEEP_COUNT = 100;
/** Looks of one sweep: a whole gateway's users leave together. What is left waits a second. */
const SWEEP_ROUNDS_MAX = 100;
/** Users of a gateway whose route was not written again for longer have left it: routes are written every 12 h. */
const GATEWAY_USER_MS = 24 * 3_600_000;

const goOffline = defineScript({
  name: "imOffline",
  lua: [append, stateLua, offlineLua],
  keys: ["routes", "presence", "leaving", "usersTopic", "users"],
  args: ["user", "eventId"],
  decode: (reply) => (reply === null ? undefined : Number(reply)),
});

export interface Presence {
  /**
   * Lists the gateway with these users, and answers as `by` may see them. `hidden`: those who have blocked him; he is shown
   * nothing and hears nothing of them.
   */
  watch(
    by: string,
    users: readonly string[],
    gateway: string,
  ): Promise<{ presence: PresenceState[]; hidden: string[] }>;
  /** Lists the gateway anew. */
  renew(users: readonly string[], gateway: string): Promise<void>;
  /** Tells the gateways that want to hear of it. At most once. */
  tell(state: PresenceState): Promise<void>;
  /** `from` hears no more of the user, on any connection. */
  hide(user: string, from: string): Promise<void>;
  /** Takes the partition's leavers that are due for offline, and tells. Any number of processes may. */
  sweep(partition: number): Promise<void>;
  /** Removes the routes to gateways that are gone. */
  sweepGateways(): Promise<void>;
}

/** `isErased`: such a user is nobody's to watch. */
export function createPresence(
  redis: RedisClient,
  keys: Keys,
  clock: Clock,
  blocks: Blocks,
  isErased: (user: string) => Promise<boolean> = async () => false,
): Presence {
  async function stateOf(user: string): Promise<PresenceState> {
    const [online, seen] = await redis.hmget(keys.presence(user), "online", "seen");
    const lastSeen = Number(seen ?? online ?? 0);
    return { user, online: Boolean(online), ...(lastSeen > 0 ? { lastSeen } : {}) };
  }

  async function sendTo(gateway: string, user: string, list: string, frame: string): Promise<void> {
    const isThere = await appendFrames(redis, keys, gateway, [`${user} 0 ${list}`, frame]);
    if (!isThere) await redis.zrem(keys.watchers(user), gateway);
  }

  async function renew(users: readonly string[], gateway: string): Promise<void> {
    const until = clock.now() + WATCH_MS;
    await Promise.all(
      users.map(async (user) => {
        if (await isErased(user)) return;
        await Promise.all([
          redis.zadd(keys.watchers(user), until, gateway),
          redis.pexpire(keys.watchers(user), WATCH_MS),
        ]);
      }),
    );
  }

  const watchersOf = (user: string) => redis.zrangebyscore(keys.watchers(user), `${clock.now()}`, "+inf");

  async function tell(state: PresenceState): Promise<void> {
    const frame = notification("presence", JSON.stringify(state));
    await Promise.all((await watchersOf(state.user)).map((gateway) => sendTo(gateway, state.user, "~", frame)));
  }

  async function takeOffline(partition: number, user: string): Promise<void> {
    const lastSeen = await goOffline(redis, {
      routes: keys.routes(user),
      presence: keys.presence(user),
      leaving: keys.leaving(partition),
      usersTopic: keys.topic(imUsers.name, partition),
      users: keys.users(partition),
      user,
      eventId: newId(clock.now()),
    });
    if (lastSeen !== undefined) await tell({ user, online: false, lastSeen });
  }

  async function removeGateway(gateway: string): Promise<void> {
    for (;;) {
      const users = await redis.zrange(keys.gatewayUsers(gateway), "0", `${SWEEP_COUNT - 1}`);
      if (users.length === 0) break;
      await Promise.all(users.map((user) => detachFrom(redis, keys, user, gateway)));
      await redis.zrem(keys.gatewayUsers(gateway), ...users);
    }
    await redis.zrem(keys.gateways(), gateway);
  }

  return {
    tell,
    renew,
    async watch(by, users, gateway) {
      // Listed first: what changes after the look is heard.
      await renew(users, gateway);
      const [states, hasBlocked] = await Promise.all([
        Promise.all(users.map(stateOf)),
        Promise.all(users.map((user) => blocks.has(user, by))),
      ]);
      return {
        presence: states.map((state, i) => (hasBlocked[i] ? { user: state.user, online: false } : state)),
        hidden: users.filter((_, i) => hasBlocked[i]),
      };
    },
    async hide(user, from) {
      const routes = Object.values(await redis.hgetall(keys.routes(from))).map((value) => value.split(" "));
      await Promise.all(routes.map(([gateway, number]) => sendTo(gateway!, user, `~-${number}`, "")));
    },
    async sweep(partition) {
      for (let round = 0; round < SWEEP_ROUNDS_MAX; round++) {
        const due = await redis.zrangebyscore(
          keys.leaving(partition),
          "-inf",
          `${clock.now()}`,
          "LIMIT",
          0,
          SWEEP_COUNT,
        );
        await Promise.all(due.map((user) => takeOffline(partition, user)));
        if (due.length < SWEEP_COUNT) return;
      }
    },
    async sweepGateways() {
      for (const gateway of await redis.zrange(keys.gateways(), "0", "-1")) {
        await redis.zremrangebyscore(keys.gatewayUsers(gateway), "-inf", clock.now() - GATEWAY_USER_MS);
        if ((await redis.exists(keys.gateway(gateway))) === 0) await removeGateway(gateway);
      }
    },
  };
}
