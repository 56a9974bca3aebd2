/**
 * Who is alive: instances register in Redis under their service's name, renew a lease by heartbeat, and are gone when the
 * lease ends or they deregister. Leases are judged by Redis TIME.
 *
 * A directory is a reader's cached view. While Redis is away the view goes on being used; and when Redis is back, leases may
 * have run out only because nobody could renew them, so for one lease a missing instance is not yet believed to be dead.
 */

import * as v from "valibot";
import type { Clock } from "../clock.ts";
import { newId } from "../id.ts";
import type { Log } from "../observability/index.ts";
import { defineScript, type Keys, type RedisConnections } from "../redis/index.ts";
import deregisterLua from "../redis/lua/rpc-deregister.lua" with { type: "text" };
import registerLua from "../redis/lua/rpc-register.lua" with { type: "text" };
import resolveLua from "../redis/lua/rpc-resolve.lua" with { type: "text" };
import { createService, type Service } from "../service.ts";

export const HEARTBEAT_MS = 1_000;
/** Four heartbeats: one lost heartbeat or a pause of a garbage collection does not make an instance dead. */
export const LEASE_MS = 4_000;
/** A heartbeat that failed is tried again soon, so that leases outlive a short absence of Redis. */
const HEARTBEAT_RETRY_MS = 250;
/** A view older than this is read again when it is used. */
export const VIEW_MS = 500;

const RecordSchema = v.object({ address: v.string(), load: v.number(), draining: v.boolean() });
type RegistryRecord = v.InferOutput<typeof RecordSchema>;

export interface Instance extends RegistryRecord {
  readonly name: string;
  /** Sortable by start; one process life of the name. */
  readonly incarnation: string;
}

export interface RegistryContext {
  readonly redis: RedisConnections;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
}

const register = defineScript({
  name: "rpcRegister",
  lua: registerLua,
  keys: ["registry"],
  args: ["instance", "incarnation", "leaseMs", "record"],
  decode: (reply) => reply === 1,
});

const deregister = defineScript({
  name: "rpcDeregister",
  lua: deregisterLua,
  keys: ["registry"],
  args: ["instance", "incarnation"],
  decode: (reply) => reply === 1,
});

const resolve = defineScript({
  name: "rpcResolve",
  lua: resolveLua,
  keys: ["registry"],
  args: [],
  decode: (reply) => {
    const values = reply as string[];
    const instances: Instance[] = [];
    for (let i = 0; i < values.length; i += 3) {
      // A record that cannot be read is of a newer version: not for us to call.
      const record = v.safeParse(v.pipe(v.string(), v.parseJson(), RecordSchema), values[i + 2]);
      if (record.success) instances.push({ name: values[i]!, incarnation: values[i + 1]!, ...record.output });
    }
    return instances;
  },
});

/** An instance's entry. `renew` writes what `describe` says now, without waiting for the next heartbeat. */
export interface Registration extends Service {
  renew(): Promise<void>;
}

/** Start rejects when Redis does not answer; afterwards heartbeats go on whatever happens, until stop. */
export function createRegistration(
  context: RegistryContext,
  service: string,
  instance: string,
  describe: () => RegistryRecord,
): Registration {
  const { redis, keys, clock, log } = context;
  const registry = keys.registry(service);
  const incarnation = newId(clock.now());
  const stopping = new AbortController();
  let beating: Promise<void> = Promise.resolve();
  let isReported = false;

  const renew = async () => {
    const record = JSON.stringify(describe());
    const held = await register(redis.commands, { registry, instance, incarnation, leaseMs: LEASE_MS, record });
    if (!held && !isReported) log.warn({ service, instance }, "a newer process holds this instance's name");
    isReported = !held;
  };
  const beat = async () => {
    let waitMs = HEARTBEAT_MS;
    for (;;) {
      await clock.sleep(waitMs, stopping.signal);
      if (stopping.signal.aborted) return;
      try {
        await renew();
        waitMs = HEARTBEAT_MS;
      } catch (error) {
        log.debug({ service, instance, error }, "heartbeat failed");
        waitMs = HEARTBEAT_RETRY_MS;
      }
    }
  };
  const started = createService(
    `registration of ${instance} as ${service}`,
    async () => {
      await renew();
      beating = beat();
    },
    async () => {
      stopping.abort();
      await beating;
      try {
        await deregister(redis.commands, { registry, instance, incarnation });
      } catch (error) {
        // The lease ends by itself.
        log.debug({ service, instance, error }, "could not deregister");
      }
    },
  );
  return { ...started, renew };
}

/** A cached view of one service. */
export interface Directory {
  /** The last known instances; the same array until the view changes. Undefined before the first refresh. */
  view(): readonly Instance[] | undefined;
  /** True when the view is older than VIEW_MS. */
  isStale(): boolean;
  /** Reads the registry; concurrent callers share one read. Never rejects: without Redis the view stays. */
  refresh(): Promise<void>;
}

export function createDirectory({ redis, keys, log }: RegistryContext, service: string): Directory {
  let instances: readonly Instance[] | undefined;
  let readAt = Number.NEGATIVE_INFINITY;
  let distrustUntil = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  const read = async () => {
    try {
      const found = await resolve(redis.commands, { registry: keys.registry(service) });
      const now = performance.now();
      // All gone at once is rather a Redis that lost the registry than the death of everyone.
      if (found.length === 0 && instances?.length && now > distrustUntil + LEASE_MS) distrustUntil = now + LEASE_MS;
      const kept = now < distrustUntil ? missingFrom(found, instances ?? []) : [];
      const next = [...found, ...kept];
      if (!instances || !isSame(instances, next)) instances = next;
    } catch (error) {
      distrustUntil = performance.now() + LEASE_MS;
      log.debug({ service, error }, "registry not read; the last view stays in use");
    } finally {
      readAt = performance.now();
      reading = undefined;
    }
  };
  return {
    view: () => instances,
    isStale: () => performance.now() - readAt > VIEW_MS,
    refresh() {
      reading ??= read();
      return reading;
    },
  };
}

function missingFrom(found: readonly Instance[], previous: readonly Instance[]): Instance[] {
  const names = new Set(found.map((instance) => instance.name));
  return previous.filter((instance) => !names.has(instance.name));
}

/** Load changes with every heartbeat and concerns nobody who keeps the view. */
function isSame(a: readonly Instance[], b: readonly Instance[]): boolean {
  const identity = (list: readonly Instance[]) =>
    list
      .map(({ name, incarnation, address, draining }) => `${name} ${incarnation} ${address} ${draining}`)
      .sort()
      .join("\n");
  return identity(a) === identity(b);
}
