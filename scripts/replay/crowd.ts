/**
 * Everyone in the logs: each nick a user with its own WebSocket, spread over the gateways, all in this process. What a client
 * hands on goes to the stage of its conversation; the sockets' own comings and goings are counted.
 */

import { type Client, type Cursor, connect } from "../../lib/client/index.ts";
import { createApi, inParallel } from "../load/api.ts";
import type { Stage } from "./stage.ts";

/** A send may outlive the restart of every process on its way; then the same clientId is tried again. */
const TIMEOUT_MS = 60_000;

export interface Crowd {
  client(user: string): Client;
  /** Lost connections, and timelines that did not join up after one. */
  readonly counts: { reconnects: number; resyncs: number };
  /** Refusals that no client comes back from: none in health. */
  readonly ended: readonly string[];
  close(): void;
}

export interface CrowdOptions {
  /** http://host:port of every gateway. */
  readonly urls: readonly string[];
  readonly serviceKey: string;
  readonly users: readonly string[];
  readonly stages: ReadonlyMap<string, Stage>;
  onConnected(count: number): void;
}

/** Resolves when every socket is open and authenticated. */
export async function gather({ urls, serviceKey, users, stages, onConnected }: CrowdOptions): Promise<Crowd> {
  const api = createApi({ url: urls[0]!, serviceKey });
  const clients = new Map<string, Client>();
  const counts = { reconnects: 0, resyncs: 0 };
  const ended: string[] = [];
  let connected = 0;
  await inParallel(users, async (user, i) => {
    // The first address is the user's own gateway; the others take over when it does not answer.
    const own = urls.map((_, n) => socketUrl(urls[(i + n) % urls.length]!));
    const client = connect({ url: own, token: await api.token(user), timeoutMs: TIMEOUT_MS, device: "replay" });
    clients.set(user, client);
    client.on("entry", ({ conversation, entry }) => stages.get(conversation)?.received(user, entry, performance.now()));
    await client.ready();
    client.on("online", () => {
      counts.reconnects += 1;
    });
    client.on("resync", () => {
      counts.resyncs += 1;
    });
    client.on("ended", ({ error }) => ended.push(`${user}: ${error.message}`));
    connected += 1;
    onConnected(connected);
  });
  return {
    client: (user) => clients.get(user)!,
    counts,
    ended,
    close() {
      for (const client of clients.values()) client.close();
    },
  };
}

/** The client follows the conversation from its joining on, whether or not it heard of it. */
export function followFrom(crowd: Crowd, users: readonly string[], cursor: Cursor): void {
  for (const user of users) crowd.client(user).follow(cursor);
}

function socketUrl(url: string): string {
  return `${url.replace(/^http/, "ws")}/v1/ws`;
}
