/** A contract to call, nodes to call it with, and a server in a process of its own that can be killed. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/observability/index.ts";
import {
  type Client,
  type Handlers,
  type Listen,
  type LocalServices,
  openRpcNode,
  type Role,
  type RpcNode,
} from "../../lib/rpc/index.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

export const SECRET = "a secret of this test installation only";

const Text = v.strictObject({ text: v.pipe(v.string(), v.maxLength(64, "must be at most 64 characters")) });

/** Served by "logic", so that "gateway" may call it. */
export const testContract = {
  service: "logic",
  methods: {
    echo: { input: Text, output: v.strictObject({ text: v.string(), by: v.string() }), idempotent: true },
    /** Not idempotent: a call that may have run is never repeated. */
    count: { input: Text, output: v.strictObject({ total: v.number() }), idempotent: false },
    append: {
      input: Text,
      output: v.strictObject({ place: v.number() }),
      idempotent: true,
      batchable: true,
      affinity: (input: { text: string }) => input.text.split(" ")[0]!,
    },
  },
} as const;
export type TestContract = typeof testContract;

export interface TestRpc extends AsyncDisposable {
  readonly store: TestStore;
  readonly listen: Listen;
  /** A node as a process of its own would have: it shares nothing but Redis and the socket folder. */
  node(role: Role, options?: { instance?: string; local?: LocalServices; host?: string; secret?: string }): RpcNode;
  /** Serves with the given handlers (the rest of the methods echo) until the test ends or `stop`. */
  serve(
    node: RpcNode,
    handlers?: Partial<Handlers<TestContract>>,
  ): Promise<{ stop(signal?: AbortSignal): Promise<void> }>;
  client(): Client<TestContract>;
}

export async function openTestRpc(name: string, url?: string): Promise<TestRpc> {
  const store = await openTestStore(name, url === undefined ? {} : { url });
  const directory = mkdtempSync(join(tmpdir(), "skein-rpc-"));
  const running: { stop(signal?: AbortSignal): Promise<void> }[] = [];
  const rpc: TestRpc = {
    store,
    listen: { directory, host: "" },
    node: (role, { instance = `${role}-1`, local = new Map(), host = "", secret = SECRET } = {}) =>
      openRpcNode({
        ...{ role, instance, redis: store.redis, keys: store.keys, secret, clock: systemClock, log: silentLog },
        ...{ metrics: store.metrics, listen: { directory, host }, local },
      }),
    async serve(node, handlers = {}) {
      const service = node.serve(testContract, { ...echoHandlers(), ...handlers });
      await service.start();
      const server = { stop: (signal = AbortSignal.timeout(5_000)) => service.stop(signal) };
      running.push(server);
      return server;
    },
    client: () => rpc.node("gateway").client(testContract),
    async [Symbol.asyncDispose]() {
      for (const server of running) await server.stop(AbortSignal.abort());
      await store[Symbol.asyncDispose]();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  return rpc;
}

export function echoHandlers(by = "here"): Handlers<TestContract> {
  let total = 0;
  return {
    echo: async ({ text }) => ({ text, by }),
    count: async () => ({ total: ++total }),
    append: async (inputs) => inputs.map(() => ({ ok: true, value: { place: ++total } })),
  };
}

/** A server process under the given instance name; serves testContract with echoHandlers. */
export async function spawnServer(rpc: TestRpc, instance: string) {
  const settings = { instance, url: rpc.store.url, prefix: rpc.store.prefix, directory: rpc.listen.directory };
  const script = join(import.meta.dir, "server-process.ts");
  const child = Bun.spawn([process.execPath, script, JSON.stringify(settings)], { stdout: "pipe", stderr: "inherit" });
  const reader = child.stdout.getReader();
  await reader.read();
  reader.releaseLock();
  return child;
}
