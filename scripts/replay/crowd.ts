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
  /** The user's device, or the first one while that is asleep. */
  device(user: string, device?: number): Device;
  /** Of that device. */
  client(user: string, device?: number): Client;
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
export async function gather(options: CrowdOptions): Promise<Crowd> {
  const { urls, serviceKey, users, devices, stages, onConnected } = options;
  const api = createApi({ url: urls[0]!, serviceKey });
  const crowd = new Map<string, readonly Device[]>();
  const counts: CrowdCounts = { reconnects: 0, resyncs: 0, typingSeen: 0 };
  const ended: string[] = [];
  let connected = 0;
  await inParallel(users, async (user, i) => {
    const token = await api.token(user);
    const own = devices.map((name, k) => {
      // Devices of a user lie on different gateways; the others take over when one does not answer.
      const addresses = urls.map((_, n) => socketUrl(urls[(i + k + n) % urls.length]!));
      const onClient = (client: Client) => listen(client, user, name, { stages, counts, ended });
      return new Device({ user, name, urls: addresses, token, onClient });
    });
    crowd.set(user, own);
    await Promise.all(own.map((device) => device.wake().ready()));
    connected += 1;
    onConnected(connected);
  });
  return { ...handle(crowd, stages), counts, ended };
}

function handle(crowd: ReadonlyMap<string, readonly Device[]>, stages: CrowdOptions["stages"]) {
  const all = () => [...crowd.values()].flat();
  const deviceOf = (user: string, device: number) => crowd.get(user)![device]!;
  const awake = (user: string, device = 0) => {
    const own = deviceOf(user, device);
    return own.client ? own : deviceOf(user, 0);
  };

  function rouse(device: Device): Client {
    if (device.client) return device.client;
    for (const stage of stages.values()) stage.woke(device.user, device.name, performance.now());
    return device.wake();
  }

  return {
    device: awake,
    client: (user: string, device?: number) => awake(user, device).client!,
    follow(users: readonly string[], cursor: Cursor) {
      for (const user of users) for (const device of crowd.get(user)!) device.follow(cursor);
    },
    sleep(user: string, device: number) {
      const found = deviceOf(user, device);
      if (!found.client) return;
      found.sleep();
      for (const stage of stages.values()) stage.slept(user, found.name);
    },
    wake: (user: string, device: number) => void rouse(deviceOf(user, device)),
    async wakeAll() {
      await inParallel(all(), (device) => rouse(device).ready());
    },
    close() {
      for (const device of all()) device.sleep();
    },
  };
}

function listen(
  client: Client,
  user: string,
  device: string,
  { stages, counts, ended }: Pick<Crowd, "counts"> & { stages: CrowdOptions["stages"]; ended: string[] },
): void {
  let isFirst = true;
  client.on("entry", ({ conversation, entry }) => {
    stages.get(conversation)?.received(user, device, entry, performance.now());
  });
  client.on("read", ({ conversation, user: reader, seq }) => {
    if (reader === user) stages.get(conversation)?.read(user, device, seq);
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

export function socketUrl(url: string): string {
  return `${url.replace(/^http/, "ws")}/v1/ws`;
}
