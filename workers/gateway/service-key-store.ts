/**
 * The service keys beside the bootstrap key: their scopes and digests in Redis, never a key itself. Every gateway asks the store and
 * remembers an answer for CACHE_MS, so a revoked key is refused everywhere after that; while Redis is away nobody passes.
 */

import { randomBytes } from "node:crypto";
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { invalid, type Scope, type ServiceKey, serviceKeyDigest } from "../../lib/http/index.ts";
import { newId } from "../../lib/id.ts";
import { type Keys, type RedisClient, toAppError } from "../../lib/redis/index.ts";

/** Every one of them is read to list them. */
const KEYS_MAX = 1_000;
/** Between a revocation and its effect; without a memory each request of a service would cost a command. */
const CACHE_MS = 1_000;
/** Ids remembered, invented ones included. */
const CACHED_MAX = 2_000;
const SECRET_BYTES = 32;

/** What a list shows of a key. */
export interface ListedKey {
  readonly id: string;
  readonly scopes: readonly Scope[];
  /** Unix ms. */
  readonly created: number;
}

export interface ServiceKeyStore {
  find(id: string): Promise<ServiceKey | undefined>;
  list(): Promise<ListedKey[]>;
  /** The only time that the key is seen. Throws CONFLICT when the id is taken, INVALID when there are too many. */
  create(id: string | undefined, scopes: readonly Scope[]): Promise<{ id: string; key: string }>;
  /** Throws NOT_FOUND. */
  revoke(id: string): Promise<void>;
}

interface ServiceKeyStoreParts {
  readonly commands: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  /** The bootstrap key: its id is taken. */
  readonly serviceKey: string;
}

type Stored = ServiceKey & { readonly created: number };

export function createServiceKeyStore({ commands, keys, clock, serviceKey }: ServiceKeyStoreParts): ServiceKeyStore {
  const at = keys.serviceKeys();
  const [, bootstrapId] = serviceKey.split("_");
  const cache = new Map<string, { readonly key: Promise<ServiceKey | undefined>; readonly readAt: number }>();

  async function read(id: string): Promise<ServiceKey | undefined> {
    try {
      const stored = await commands.hget(at, id);
      return stored === null ? undefined : (JSON.parse(stored) as Stored);
    } catch (error) {
      cache.delete(id);
      throw toAppError(error);
    }
  }

  return {
    find(id) {
      const now = performance.now();
      const cached = cache.get(id);
      if (cached && now - cached.readAt < CACHE_MS) return cached.key;
      if (!cached && cache.size >= CACHED_MAX) cache.delete(cache.keys().next().value!);
      const key = read(id);
      cache.set(id, { key, readAt: now });
      return key;
    },
    async list() {
      const stored = await settled(commands.hgetall(at));
      return Object.entries(stored)
        .map(([id, text]) => ({ id, ...(JSON.parse(text) as Stored) }))
        .map(({ id, scopes, created }) => ({ id, scopes, created }))
        .sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
    },
    async create(given, scopes) {
      const id = given ?? newId(clock.now());
      const key = `sk_${id}_${randomBytes(SECRET_BYTES).toString("base64url")}`;
      const stored: Stored = { digest: await serviceKeyDigest(key), scopes, created: clock.now() };
      const isNew = id !== bootstrapId && (await settled(commands.hsetnx(at, id, JSON.stringify(stored)))) === 1;
      if (!isNew) throw new AppError("CONFLICT", `The service key ${id} exists; revoke it first, or take another id`);
      if ((await settled(commands.hlen(at))) > KEYS_MAX) {
        await settled(commands.hdel(at, id));
        throw invalid("id", `cannot be added: there are ${KEYS_MAX} service keys, the most there may be`);
      }
      cache.delete(id);
      return { id, key };
    },
    async revoke(id) {
      cache.delete(id);
      if ((await settled(commands.hdel(at, id))) === 0) throw new AppError("NOT_FOUND");
      // One that was asked for meanwhile may have been read before.
      cache.delete(id);
    },
  };
}

async function settled<T>(command: Promise<T>): Promise<T> {
  try {
    return await command;
  } catch (error) {
    throw toAppError(error);
  }
}
