/**
 * The one factory of Redis connections, for a single server, Sentinel and Cluster alike. Four kinds, by what they may wait
 * for:
 *
 *   commands    the request path. No offline queue and no resend: while Redis is away a command fails at once, and one that
 *               was under way ends as `unknown` (outcome.ts). The caller knows what is safe to repeat; ioredis does not.
 *   blocking    one per blocking reader, for a blocked read holds every command behind it. A silent socket is cut after
 *               BLOCK_MS + 2 s.
 *   subscriber  pub/sub.
 *   timers      BullMQ's, which waits and repeats by itself and copies the connection for its own blocking reads.
 *
 * URLs: redis://[:password@]host:port[/db], rediss://…, redis+unix://[:password@]localhost/path/to.sock,
 * redis+sentinel://[:password@]host:port,host:port/master, redis+cluster://[:password@]host:port,host:port.
 */

import { Cluster, Redis, type RedisOptions } from "ioredis";
import { AppError } from "../errors.ts";
import type { Log } from "../observability/index.ts";
import { corkWrites } from "./cork.ts";
import "./tracing.ts";
import { installScripts, scriptNames } from "./script.ts";
import { decodeStreamReads } from "./stream-replies.ts";

export type RedisClient = Redis | Cluster;
/** Replies keep their RESP2 shapes (ioredis' default), so that one reader serves every server version. */
type ConnectionOptions = Omit<RedisOptions, "replyMapping" | "Connector">;

/** Longest BLOCK of a read. Never 0: a half-open connection would block for ever. */
export const BLOCK_MS = 5_000;
const BLOCK_SILENCE_MS = BLOCK_MS + 2_000;
/** BullMQ blocks for 10 s at most. */
const TIMERS_SILENCE_MS = 12_000;
const CONNECT_TIMEOUT_MS = 2_000;
/**
 * A server silent for so long with commands under way is taken for dead: the socket is cut and they end as `unknown`. Replies come
 * in order, so one timer per socket says as much as ioredis' commandTimeout, a timer per command (5 µs of each send).
 */
const SILENCE_MS = 4_000;
const KEEP_ALIVE_MS = 10_000;
/** Reconnects come soon and never give up: 20 ms, 40 ms, … 1 s. */
const RECONNECT_MAX_MS = 1_000;
/** As the second reconnect. */
const REOPEN_MS = 40;
/**
 * How long until a server that is loading its file is asked again. ioredis waits for as long as the server estimates, 10 s at
 * most; the estimate of the first moments is years, and so a restart of 0.1 s became an outage of 10 s.
 */
const LOADING_LOOK_MS = 50;
/** 16 x 100 ms, ioredis' default, ends before a cluster node time-out (15 s default) has even named the dead master. */
const CLUSTER_REDIRECTIONS_MAX = 100;
const CLUSTER_FAILOVER_DELAY_MS = 200;

/** The servers that hold keys, each looked through for itself: SCAN asks one. */
export function mastersOf(client: RedisClient): Redis[] {
  return client instanceof Cluster ? client.nodes("master") : [client];
}

/**
 * Has every master that keeps an append-only file begin it anew: until then the file holds what was deleted, as it was written. Does
 * not wait for the end of it. One that may not be told to is its operator's, as copies and backups are. Throws OVERLOADED when one is
 * at it already: what it writes may be older than the deletion.
 */
export async function beginLogsAnew(client: RedisClient): Promise<void> {
  for (const node of mastersOf(client)) {
    if (!(await node.info("persistence")).includes("aof_enabled:1")) continue;
    try {
      await node.bgrewriteaof();
    } catch (error) {
      const { name, message } = error as Error;
      if (name !== "ReplyError") throw error;
      if (!message.includes("already in progress")) continue;
      throw new AppError("OVERLOADED", "Redis writes its append-only file anew already", { retryAfterMs: 1_000 });
    }
  }
}

export type RedisTopology = "single" | "sentinel" | "cluster";

export interface RedisConnections {
  readonly topology: RedisTopology;
  /** The shared connection of the request path; commands of one tick go out in one write. */
  readonly commands: RedisClient;
  /** A new connection for one blocking reader. The caller closes it with `disconnect()`. */
  blocking(name: string): RedisClient;
  /** A new connection for pub/sub. The caller closes it. */
  subscriber(name: string): RedisClient;
  /** A new connection for BullMQ. The caller closes it with `disconnect()`. */
  timers(name: string): RedisClient;
  close(): Promise<void>;
}

interface Target {
  readonly topology: RedisTopology;
  readonly nodes: { host: string; port: number }[];
  readonly options: ConnectionOptions;
}

/** Opens the request connection and waits until it is ready. Throws AppError OVERLOADED when Redis does not answer in time. */
export async function openRedis(
  url: string,
  name: string,
  log: Log,
  readyWithinMs = 10_000,
): Promise<RedisConnections> {
  const target = parseRedisUrl(url);
  const opened = new Set<RedisClient>();
  const open = (kind: string, options: ConnectionOptions, lazy = false) => {
    const client = connect(target, { ...options, connectionName: `${name}:${kind}`, lazyConnect: lazy });
    installScripts(client);
    reportErrors(client, kind, log);
    endUnansweredOnClose(client);
    opened.add(client);
    reopenUnlessClosed(client, () => opened.delete(client));
    return client;
  };
  const commands = open(
    "commands",
    {
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 1,
      socketTimeout: SILENCE_MS,
      enableAutoPipelining: target.topology === "cluster",
    },
    true,
  );
  if (commands instanceof Redis) corkWrites(commands);
  await whenReady(commands, readyWithinMs);
  return {
    topology: target.topology,
    commands,
    blocking(reader) {
      const client = open(reader, {
        maxRetriesPerRequest: null,
        autoResendUnfulfilledCommands: false,
        socketTimeout: BLOCK_SILENCE_MS,
      });
      if (client instanceof Redis) decodeStreamReads(client);
      return client;
    },
    subscriber: (reader) => open(reader, { maxRetriesPerRequest: null }),
    timers: (name) => open(name, { maxRetriesPerRequest: null, socketTimeout: TIMERS_SILENCE_MS }),
    async close() {
      for (const client of opened) client.disconnect();
    },
  };
}

function connect(target: Target, given: ConnectionOptions): RedisClient {
  const options: ConnectionOptions = {
    connectTimeout: CONNECT_TIMEOUT_MS,
    keepAlive: KEEP_ALIVE_MS,
    maxLoadingRetryTime: LOADING_LOOK_MS,
    retryStrategy: (times) => Math.min(20 * 2 ** Math.min(times - 1, 10), RECONNECT_MAX_MS),
    // A demoted master answers READONLY: leave it, and let the caller repeat what is safe (1 = without resend).
    reconnectOnError: (error) => (error.message.startsWith("READONLY") ? 1 : false),
    ...target.options,
    ...given,
  };
  if (target.topology !== "cluster") return new Redis(options);
  const { enableOfflineQueue, enableAutoPipelining, lazyConnect, ...redisOptions } = options;
  return new Cluster(target.nodes, {
    redisOptions,
    maxRedirections: CLUSTER_REDIRECTIONS_MAX,
    retryDelayOnFailover: CLUSTER_FAILOVER_DELAY_MS,
    retryDelayOnClusterDown: CLUSTER_FAILOVER_DELAY_MS,
    slotsRefreshTimeout: CONNECT_TIMEOUT_MS,
    slotsRefreshInterval: 5_000,
    clusterRetryStrategy: (times) => Math.min(20 * 2 ** Math.min(times - 1, 10), RECONNECT_MAX_MS),
    ...(enableOfflineQueue === undefined ? {} : { enableOfflineQueue }),
    ...(enableAutoPipelining === undefined ? {} : { enableAutoPipelining }),
    // ioredis takes a script's first argument, its number of keys, for the key, and so puts it into another node's pipeline.
    autoPipeliningIgnoredCommands: scriptNames(),
    ...(lazyConnect === undefined ? {} : { lazyConnect }),
  });
}

/**
 * Commands under way end with their connection. ioredis without resend forgets them when it reconnects at once: they would
 * never settle, and a forgotten pipeline would hold up all auto-pipelined commands behind it for ever. The nodes of a Cluster
 * are ended by ioredis itself.
 */
function endUnansweredOnClose(client: RedisClient): void {
  if (client instanceof Cluster) return;
  client.on("close", () => {
    for (let item = client.commandQueue.shift(); item; item = client.commandQueue.shift()) {
      item.command.reject(new Error("Connection is closed."));
    }
  });
}

/**
 * A connection ends by our `disconnect` alone. ioredis gives one up for ever, too, when the Sentinel tells of a new master while it is
 * being asked for the master: its detector of failovers takes the connecting for the connection, and no retry follows.
 */
function reopenUnlessClosed(client: RedisClient, onClosed: () => void): void {
  let isClosed = false;
  const disconnect = client.disconnect.bind(client);
  client.disconnect = (reconnect = false) => {
    isClosed ||= !reconnect;
    disconnect(reconnect);
  };
  client.on("end", () => {
    if (isClosed) return onClosed();
    setTimeout(() => {
      if (!isClosed) client.connect().catch(() => undefined);
    }, REOPEN_MS);
  });
}

/** Errors repeat with every reconnect: the first of a row is logged, the rest only at debug. */
function reportErrors(client: RedisClient, kind: string, log: Log): void {
  let isDown = false;
  client.on("error", (error: Error) => {
    log[isDown ? "debug" : "warn"]({ connection: kind, reason: error.message }, "redis connection error");
    isDown = true;
  });
  client.on("ready", () => {
    if (isDown) log.info({ connection: kind }, "redis connection is back");
    isDown = false;
  });
}

function whenReady(client: RedisClient, withinMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let reason = "no answer";
    const onError = (error: Error) => {
      reason = error.message;
    };
    const timer = setTimeout(() => {
      client.disconnect();
      reject(new AppError("OVERLOADED", `Redis was not ready within ${withinMs} ms: ${reason}`));
    }, withinMs);
    client.on("error", onError);
    client.once("ready", () => {
      clearTimeout(timer);
      client.off("error", onError);
      resolve();
    });
    client.connect().catch(onError);
  });
}

const HOSTS_PATTERN = /^redis\+(sentinel|cluster):\/\/(?:([^:@/]*)(?::([^@/]*))?@)?([^/?]+)(?:\/([^?]*))?$/;

/** Reads a Redis URL. Throws AppError INVALID that names what is missing, never the password. */
export function parseRedisUrl(url: string): Target {
  const hosts = HOSTS_PATTERN.exec(url);
  if (hosts) {
    const [, kind, username, password, list, path] = hosts;
    const nodes = list!.split(",").map((node) => {
      const { hostname, port } = new URL(`redis://${node}`);
      return { host: hostname, port: Number(port || (kind === "sentinel" ? 26_379 : 6_379)) };
    });
    const credentials = {
      ...(username ? { username } : {}),
      ...(password ? { password: decodeURIComponent(password) } : {}),
    };
    if (kind === "cluster") return { topology: "cluster", nodes, options: credentials };
    if (!path) throw new AppError("INVALID", "SKEIN_REDIS_URL: redis+sentinel:// needs the master's name as its path");
    return {
      topology: "sentinel",
      nodes,
      options: { ...credentials, sentinels: nodes, name: path, failoverDetector: true },
    };
  }
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw new AppError("INVALID", "SKEIN_REDIS_URL is not a URL");
  }
  const credentials = {
    ...(parsed.username ? { username: decodeURIComponent(parsed.username) } : {}),
    ...(parsed.password ? { password: decodeURIComponent(parsed.password) } : {}),
  };
  if (parsed.protocol === "redis+unix:") {
    return { topology: "single", nodes: [], options: { ...credentials, path: decodeURIComponent(parsed.pathname) } };
  }
  const host = parsed.hostname.replace(/^\[|\]$/g, "");
  const port = Number(parsed.port || 6_379);
  const db = parsed.pathname.length > 1 ? { db: Number(parsed.pathname.slice(1)) } : {};
  const tls = parsed.protocol === "rediss:" ? { tls: {} } : {};
  return { topology: "single", nodes: [{ host, port }], options: { host, port, ...credentials, ...db, ...tls } };
}
