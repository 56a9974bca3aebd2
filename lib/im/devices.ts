/**
 * A user's devices: those that have a connection, those that had one, and those that are pushed to. A device is what its
 * connections called it; a connection that gave no name is one of its own, under the connection's id, as long as it lives.
 */

import type { Keys, RedisClient } from "../redis/index.ts";
import { appendFrames } from "./notify.ts";
import type { PushDevices } from "./push-devices.ts";
import type { Device } from "./requests.ts";

export interface Devices {
  /** Online ones first, then the last seen, then those that were never connected under their name and are pushed to. */
  list(user: string): Promise<Device[]>;
  /** Forgets the device, its push too, and closes its connections for good (4503). Idempotent. */
  remove(user: string, device: string): Promise<void>;
  /** Closes all of the user's connections for good. Answers with how many routes there were. */
  endAll(user: string, reason: string): Promise<number>;
}

interface Connection {
  readonly connection: string;
  readonly gateway: string;
  readonly number: string;
  readonly device: string;
  readonly since: number;
}

export function createDevices(redis: RedisClient, keys: Keys, pushDevices: PushDevices): Devices {
  async function connectionsOf(user: string): Promise<Connection[]> {
    const routes = await redis.hgetall(keys.routes(user));
    return Object.entries(routes).map(([connection, value]) => {
      const [gateway, number, name, since] = value.split(" ");
      const device = name === "-" ? connection : name!;
      return { connection, gateway: gateway!, number: number!, device, since: Number(since) };
    });
  }

  async function end(connections: readonly Connection[], reason: string): Promise<void> {
    const byGateway = Map.groupBy(connections, ({ gateway }) => gateway);
    await Promise.all(
      Array.from(byGateway, ([gateway, own]) => {
        const numbers = own.map(({ number }) => number).join(",");
        return appendFrames(redis, keys, gateway, [`- 0 x ${numbers}`, reason]);
      }),
    );
  }

  return {
    async list(user) {
      const [connections, known, pushed] = await Promise.all([
        connectionsOf(user),
        redis.hgetall(keys.devices(user)),
        pushDevices.of(user),
      ]);
      const online = Map.groupBy(connections, ({ device }) => device);
      const offline = Object.entries(known).filter(([device]) => !online.has(device));
      const unseen = [...pushed.keys()].filter((device) => !online.has(device) && !(device in known));
      const withPush = (device: string) => (pushed.has(device) ? { push: pushed.get(device)!.address.kind } : {});
      return [
        ...Array.from(online, ([id, own]) => ({
          id,
          online: true,
          connections: own.length,
          connectedAt: Math.min(...own.map(({ since }) => since)),
          ...withPush(id),
        })).sort((a, b) => b.connectedAt - a.connectedAt),
        ...offline
          .map(([id, seen]) => ({ id, online: false, connections: 0, lastSeen: Number(seen), ...withPush(id) }))
          .sort((a, b) => b.lastSeen - a.lastSeen),
        ...unseen.map((id) => ({ id, online: false, connections: 0, ...withPush(id) })),
      ];
    },
    async remove(user, device) {
      const own = (await connectionsOf(user)).filter((one) => one.device === device);
      await end(own, "this device was removed");
      await Promise.all([redis.hdel(keys.devices(user), device), pushDevices.remove(user, device)]);
    },
    async endAll(user, reason) {
      const all = await connectionsOf(user);
      await end(all, reason);
      return all.length;
    },
  };
}
