/**
 * How a user's devices are woken: per device one registration, an address at a push provider. State of the user, under the
 * user's partition; what it is good for is the pusher's to know. Its addresses are secrets and leave by `of` alone.
 *
 * A browser or a phone has one address, whoever is logged in. Who registers it is its holder from then on: what comes for the one
 * before, who did not say that he left, is not shown to him. A webhook's URL may serve many.
 *
 * Delivery knows who has any from its cached routes (routes.ts), so every change is told by the log of route changes.
 */

import { createHash } from "node:crypto";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import dropLua from "../redis/lua/im-push-drop.lua" with { type: "text" };
import type { PushAddress } from "./push-requests.ts";
import { announceRoutes } from "./routes.ts";

/** Per user. One burst is pushed to all of them in one transaction. */
const PUSH_DEVICES_MAX = 20;

/** Of an address that is neither registered again, as apps do whenever they start, nor used: it is as good as gone. */
const HOLDER_LIFE_MS = 60 * 24 * 60 * 60 * 1_000;

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
  /** Registers the device, anew when it is registered, and takes its address from whoever had it. INVALID beyond 20 devices. */
  register(user: string, device: string, address: PushAddress): Promise<PushRegistration>;
  /** Whether nobody else has registered this address since. */
  holds(user: string, device: string, address: PushAddress): Promise<boolean>;
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
      const holder = holderOf(address);
      // First: between the two the one before loses his registration. The other way round, the new one could.
      if (holder) await redis.set(keys.pushHolder(holder), digestOf(`${user}/${device}`), "PX", HOLDER_LIFE_MS);
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
    async holds(user, device, address) {
      const holder = holderOf(address);
      if (!holder) return true;
      const found = await redis.getex(keys.pushHolder(holder), "PX", HOLDER_LIFE_MS);
      return found === null || found === digestOf(`${user}/${device}`);
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

/** Names the address's holder; undefined of one that may be many users'. */
function holderOf(address: PushAddress): string | undefined {
  if (address.kind === "webhook") return undefined;
  return digestOf(`${address.kind} ${address.kind === "webpush" ? address.subscription.endpoint : address.token}`);
}

/** Nobody may find another text with the same digest: it would take a stranger's pushes away. */
const digestOf = (text: string) => createHash("sha256").update(text).digest("base64url");

function toRegistration(text: string): PushRegistration {
  const end = text.indexOf(" ");
  return { id: text.slice(0, end), address: JSON.parse(text.slice(end + 1)) as PushAddress };
}
