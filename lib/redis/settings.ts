/**
 * What a Redis says about itself: the facts that checks.ts judges, read from every master of the deployment. CONFIG may be
 * forbidden (managed services); what only CONFIG tells is then undefined and cannot be verified.
 */

import { Cluster, type Redis } from "ioredis";
import type { RedisConnections } from "./client.ts";

export interface NodeSettings {
  /** host:port or the socket's path. */
  readonly node: string;
  readonly version: string;
  readonly maxmemoryPolicy: string;
  readonly isAofOn: boolean;
  /** The replicas that have caught up once and stream since. */
  readonly replicas: number;
  /** Its clock minus ours, ms. */
  readonly clockOffsetMs: number;
  /** Undefined: CONFIG is forbidden. */
  readonly config: ReadonlyMap<string, string> | undefined;
}

const CONFIG_NAMES = ["appendfsync", "no-appendfsync-on-rewrite", "aof-use-rdb-preamble", "bind", "unixsocket"];

/** Reads all masters. Cost: 3 commands each. Rejects with the Redis error when one does not answer. */
export async function readSettings(redis: RedisConnections): Promise<readonly NodeSettings[]> {
  const { commands } = redis;
  const masters = commands instanceof Cluster ? commands.nodes("master") : [commands];
  return Promise.all(masters.map(readNode));
}

async function readNode(node: Redis): Promise<NodeSettings> {
  const sentMs = Date.now();
  const time = await node.time();
  const receivedMs = Date.now();
  const [info, config] = await Promise.all([node.info(), readConfigOf(node)]);
  const field = (name: string) => new RegExp(`^${name}:(.*?)\r?$`, "m").exec(info)?.[1] ?? "";
  const nodeMs = Number(time[0]) * 1_000 + Number(time[1]) / 1_000;
  return {
    node: node.options.path ?? `${node.options.host}:${node.options.port}`,
    version: field("redis_version"),
    maxmemoryPolicy: field("maxmemory_policy"),
    isAofOn: field("aof_enabled") === "1",
    replicas: info.match(/^slave\d+:.*state=online/gm)?.length ?? 0,
    clockOffsetMs: Math.round(nodeMs - (sentMs + receivedMs) / 2),
    config,
  };
}

async function readConfigOf(node: Redis): Promise<ReadonlyMap<string, string> | undefined> {
  try {
    const flat = (await node.config("GET", ...(CONFIG_NAMES as [string, ...string[]]))) as string[];
    const found = new Map<string, string>();
    for (let i = 0; i + 1 < flat.length; i += 2) found.set(flat[i]!, flat[i + 1]!);
    return found;
  } catch (error) {
    // NOPERM by an ACL, "unknown command" where the service has renamed it away.
    if (/NOPERM|unknown command|unknown subcommand/i.test((error as Error).message)) return undefined;
    throw error;
  }
}
