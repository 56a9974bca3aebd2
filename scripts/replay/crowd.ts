/**
 * Everyone in the logs: each nick a user whose devices have a WebSocket each, spread over the gateways, all in this process. What a
 * client hands on goes to the stage of its conversation; the sockets' own comings and goings are counted.
 */

import type { Client, Cursor } from "../../lib/client/index.ts";
import { createApi, inParallel } from "../load/api.ts";
import { Device } from "./device.ts";
import type { Stage } from "./stage.ts";

/** A user has the first so many of them. The first is always online. */
export const DEVICES = ["phone", "tablet"] as const;

export interface CrowdCounts {
  /** Lost connections, and timelines that did not join up after one. */
  reconnects: number;
  resyncs: number;
  /** How often somebody was seen to begin typing. */
  typingSeen: number;
}

export interface Crowd {
  /** Of the user's device, or of the first one while that is asleep. */
  client(user: string, device?: number): Client;
  /** The name of the device that has the client now, or had it. */
  deviceOf(client: Client): string;
  /** All of the users' devices follow the conversation from its joining on, whether or not they heard of it. */
  follow(users: readonly string[], cursor: Cursor): void;
  sleep(user: string, device: number): void;
  wake(user: string, device: number): void;
  /** Resolves when every device is connected. */
  wakeAll(): Promise<void>;
  readonly counts: CrowdCounts;
  /** Refusals that no client comes back from: none in health. */
  readonly ended: readonly string[];
  close(): void;
}

export interface CrowdOptions {
  /** http://host:port of every gateway. */
  readonly urls: readonly string[];
  readonly serviceKey: string;
  readonly users: readonly string[];
  /** Of each user. */
  readonly devices: readonly string[];
  readonly stages: ReadonlyMap<string, Stage>;
  onConnected(count: number): void;
}

/** Resolves when every socket is open and authenticated. */
export async function gather({ urls, serviceKey, users, devices, stages, onConnected }: CrowdOptions): Promise<Crowd> {
  const api = createApi({ url: urls[0]!, serviceKey });
  const crowd = new Map<string, readonly Device[]>();
  const counts: CrowdCounts = { reconnects: 0, resyncs: 0, typingSeen: 0 };
  const ended: string[] = [];
  const names = new WeakMap<Client, string>();
  let connected = 0;

  function listen(user: string, name: string, client: Client): void {
    names.set(client, name);
    let isFirst = true;
    client.on("entry", ({ conversation, entry }) => {
      stages.get(conversation)?.received(user, name, entry, performance.now());
    });
    client.on("read", ({ conversation, user: reader, seq }) => {
      if (reader === user) stages.get(conversation)?.read(user, name, seq);
    });
    client.on("typing", ({ on }) => {
      if (on) counts.typingSeen += 1;
    });
    client.on("online", () => {
      if (!isFirst) counts.reconnects += 1;
      isFirst = false;
    });
    client.on("resync", () => {
      counts.resyncs += 1;
    });
    client.on("ended", ({ error }) => ended.push(`${user}: ${error.message}`));
  }

  const deviceOf = (user: string, device: number) => crowd.get(user)![device]!;

  function wake(user: string, device: number): void {
    const found = deviceOf(user, device);
    if (found.client) return;
    for (const stage of stages.values()) stage.woke(user, found.name, performance.now());
    found.wake();
  }

  await inParallel(users, async (user, i) => {
    const token = await api.token(user);
    const own = urls.map((_, n) => socketUrl(urls[(i + n) % urls.length]!));
    crowd.set(
      user,
      devices.map(
        (name) => new Device({ user, name, urls: own, token, onClient: (client) => listen(user, name, client) }),
      ),
    );
    await Promise.all(crowd.get(user)!.map((device) => device.wake().ready()));
    connected += 1;
    onConnected(connected);
  });
  return {
    client: (user, device = 0) => deviceOf(user, device).client ?? deviceOf(user, 0).client!,
    deviceOf: (client) => names.get(client)!,
    follow(followers, cursor) {
      for (const user of followers) for (const device of crowd.get(user)!) device.follow(cursor);
    },
    sleep(user, device) {
      const found = deviceOf(user, device);
      if (!found.client) return;
      found.sleep();
      for (const stage of stages.values()) stage.slept(user, found.name);
    },
    wake,
    async wakeAll() {
      await inParallel([...crowd.values()].flat(), async ({ user, name }) => {
        const device = devices.indexOf(name);
        wake(user, device);
        await deviceOf(user, device).client!.ready();
      });
    },
    counts,
    ended,
    close() {
      for (const device of [...crowd.values()].flat()) device.sleep();
    },
  };
}

export function socketUrl(url: string): string {
  return `${url.replace(/^http/, "ws")}/v1/ws`;
}
