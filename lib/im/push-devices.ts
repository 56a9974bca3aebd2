/**
 * How a user's devices are woken: per device one registration, an address at a push provider. State of the user, under the
 * user's partition; what it is good for is the pusher's to know. Its addresses are secrets and leave by `of` alone.
 *
 * Delivery knows who has any from its cached routes (routes.ts), so every change is told by the log of route changes.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import dropLua from "../redis/lua/im-push-drop.lua" with { type: "text" };
import type { PushAddress } from "./push-requests.ts";
import { announceRoutes } from "./routes.ts";

/** Per user. One burst is pushed to all of them in one transaction. */
const PUSH_DEVICES_MAX = 20;

const dropRegistration = defineScript({
  name: "imPushDrop",
  lua: dropLua,
  keys: ["push"],
  args: ["device", "id"],
  decode: (reply) => reply === 1,
});

export interface PushRegistration {
  /** Another one each time that the device registers. */
  readonly id: string;
  readonly address: PushAddress;
}

export interface PushDevices {
  /** By device. */
  of(user: string): Promise<ReadonlyMap<string, PushRegistration>>;
  /** Registers the device, anew when it is registered. INVALID beyond 20 devices. */
  register(user: string, device: string, address: PushAddress): Promise<PushRegistration>;
  /** Idempotent. */
  remove(user: string, device: string): Promise<void>;
  /** Removes this very registration: one that has taken its place stays. Says whether it was there. */
  drop(user: string, device: string, id: string): Promise<boolean>;
}

export function createPushDevices(redis: RedisClient, keys: Keys, clock: Clock): PushDevices {
  return {
    async of(user) {
      const stored = await redis.hgetall(keys.push(user));
      return new Map(Object.entries(stored).map(([device, text]) => [device, toRegistration(text)]));
    },
    async register(user, device, address) {
      const id = newId(clock.now());
      const push = keys.push(user);
      const isNew = (await redis.hset(push, device, `${id} ${JSON.stringify(address)}`)) === 1;
      // Counted behind the write: of many at once too many may be refused, but none is let in beyond what a transaction carries.
      if (isNew && (await redis.hlen(push)) > PUSH_DEVICES_MAX) {
        await dropRegistration(redis, { push, device, id });
        const message = `at most ${PUSH_DEVICES_MAX} devices can have push`;
        throw new AppError("INVALID", `device: ${message}`, { issues: [{ path: "device", message }] });
      }
      await announceRoutes(redis, keys, user);
      return { id, address };
    },
    async remove(user, device) {
      if ((await redis.hdel(keys.push(user), device)) > 0) await announceRoutes(redis, keys, user);
    },
    async drop(user, device, id) {
      const wasThere = await dropRegistration(redis, { push: keys.push(user), device, id });
      if (wasThere) await announceRoutes(redis, keys, user);
      return wasThere;
    },
  };
}

function toRegistration(text: string): PushRegistration {
  const end = text.indexOf(" ");
  return { id: text.slice(0, end), address: JSON.parse(text.slice(end + 1)) as PushAddress };
}
