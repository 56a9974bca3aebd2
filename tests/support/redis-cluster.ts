/** Real Redis topologies for tests: a Cluster of three masters, and a master with a replica and a Sentinel. Loopback only. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "../../lib/free-port.ts";
import { eventually } from "./eventually.ts";
import { startTestRedis, type TestRedis } from "./redis-server.ts";

export interface TestTopology extends AsyncDisposable {
  /** For SKEIN_REDIS_URL. */
  readonly url: string;
  readonly servers: readonly TestRedis[];
}

const SLOTS = 16_384;
const MASTERS = 3;
const SENTINEL_NAME = "skein";
/** On a busy machine a server may stand still for seconds: no reason for the others to take it for dead. */
const NODE_TIMEOUT_MS = 6_000;

/**
 * Three masters, each a third of the slots, ready to serve. By hand instead of `redis-cli --cluster create`: that waits a
 * second between polls. Two seconds remain, for which a new cluster node refuses writes.
 */
export async function startTestCluster(): Promise<TestTopology> {
  const buses: number[] = [];
  const servers = await Promise.all(
    Array.from({ length: MASTERS }, (_, i) => {
      buses[i] = freePort();
      return startTestRedis({
        args: [
          "--cluster-enabled",
          "yes",
          "--cluster-port",
          String(buses[i]),
          "--cluster-node-timeout",
          String(NODE_TIMEOUT_MS),
        ],
      });
    }),
  );
  const clients = servers.map(({ port }) => new Redis(port, "127.0.0.1"));
  try {
    await Promise.all(
      clients.map(async (client, i) => {
        const first = Math.ceil((SLOTS * i) / MASTERS);
        const last = Math.ceil((SLOTS * (i + 1)) / MASTERS) - 1;
        await client.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1);
        await client.call("CLUSTER", "ADDSLOTSRANGE", first, last);
      }),
    );
    for (let i = 1; i < MASTERS; i++) {
      await clients[0]!.call("CLUSTER", "MEET", "127.0.0.1", servers[i]!.port, buses[i]!);
    }
    await Promise.all(
      clients.map((client) =>
        eventually(async () => {
          const info = await client.cluster("INFO");
          if (!info.includes("cluster_state:ok") || !info.includes(`cluster_known_nodes:${MASTERS}`)) {
            throw new Error(`the cluster is not ready: ${info}`);
          }
        }),
      ),
    );
  } finally {
    for (const client of clients) client.disconnect();
  }
  return {
    url: `redis+cluster://${servers.map(({ port }) => `127.0.0.1:${port}`).join(",")}`,
    servers,
    [Symbol.asyncDispose]: async () => void (await Promise.all(servers.map((server) => server.stop()))),
  };
}

/** A master, its replica in sync, and one Sentinel that knows both and may fail over after a second. `servers[0]` is the master. */
export async function startTestSentinel(): Promise<TestTopology> {
  const master = await startTestRedis();
  const replica = await startTestRedis({ args: ["--replicaof", "127.0.0.1", String(master.port)] });
  const directory = mkdtempSync(join(tmpdir(), "skein-test-sentinel-"));
  const port = freePort();
  const file = join(directory, "sentinel.conf");
  const lines = [
    `port ${port}`,
    "bind 127.0.0.1",
    `dir ${directory}`,
    `sentinel monitor ${SENTINEL_NAME} 127.0.0.1 ${master.port} 1`,
    `sentinel down-after-milliseconds ${SENTINEL_NAME} 1000`,
    `sentinel failover-timeout ${SENTINEL_NAME} 5000`,
  ];
  writeFileSync(file, `${lines.join("\n")}\n`);
  const binary = Bun.which("redis-server") ?? Bun.which("valkey-server")!;
  const sentinel = Bun.spawn([binary, file, "--sentinel"], { stdout: "ignore", stderr: "ignore", stdin: "ignore" });
  const client = new Redis(port, "127.0.0.1", { retryStrategy: () => 20, maxRetriesPerRequest: null });
  client.on("error", () => undefined);
  try {
    await eventually(async () => {
      const replicas = (await client.call("SENTINEL", "REPLICAS", SENTINEL_NAME)) as unknown[];
      if (replicas.length !== 1) throw new Error("the Sentinel does not know the replica yet");
    });
  } finally {
    client.disconnect();
  }
  return {
    url: `redis+sentinel://127.0.0.1:${port}/${SENTINEL_NAME}`,
    servers: [master, replica],
    async [Symbol.asyncDispose]() {
      sentinel.kill("SIGKILL");
      await sentinel.exited;
      rmSync(directory, { recursive: true, force: true });
      await Promise.all([master.stop(), replica.stop()]);
    },
  };
}
