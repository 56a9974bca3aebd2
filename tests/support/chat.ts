/**
 * The chat with everything real, in this process: logic, archive and any number of gateways over the shared test Redis, each
 * role bound to its own queue and rpc as in a unit.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { type Config, readConfig } from "../../lib/config.ts";
import { imTopics } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { createMetrics, type Log, type Metrics, silentLog } from "../../lib/observability/index.ts";
import { createMetricSnapshots } from "../../lib/redis/index.ts";
import { type LocalServices, openRpcNode, type Role } from "../../lib/rpc/index.ts";
import { deriveSecret, loadSecrets } from "../../lib/secrets.ts";
import { type RunningServices, startServices } from "../../lib/service.ts";
import { worker as archive } from "../../workers/archive/main.ts";
import type { Worker, WorkerContext } from "../../workers/context.ts";
import { worker as gateway } from "../../workers/gateway/main.ts";
import type { GatewayServer } from "../../workers/gateway/upgrade.ts";
import { worker as logic } from "../../workers/logic/main.ts";
import { ChatClient } from "./chat-client.ts";
import type { TestStore } from "./redis.ts";

export interface TestGateway {
  readonly url: string;
  readonly port: number;
  readonly metrics: Metrics;
  stop(): Promise<void>;
}

export interface TestChat extends AsyncDisposable {
  readonly gateways: readonly TestGateway[];
  readonly url: string;
  readonly port: number;
  readonly serviceKey: string;
  readonly jwtSecret: string;
  startGateway(options?: ChatOptions): Promise<TestGateway>;
  /** Any other role, under an instance name of its own; stopped at the end. */
  startRole(worker: Worker, name: string): Promise<RunningServices>;
  stopLogic(): Promise<void>;
  token(user: string, ttlSeconds?: number): Promise<string>;
  /** A connection with an open session. */
  connect(user: string, on?: TestGateway): Promise<ChatClient>;
  /** A connection that has sent nothing. */
  dial(on?: TestGateway, headers?: Record<string, string>): Promise<ChatClient>;
  /** An HTTP call on behalf of `user`, with JSON as its body. */
  http(user: string, method: string, path: string, body?: unknown): Promise<Response>;
  /** A group whose owner is the first. */
  group(...users: string[]): Promise<string>;
}

export interface ChatOptions {
  readonly env?: Record<string, string>;
  readonly log?: Log;
  readonly clock?: Clock;
}

export async function openTestChat(
  store: TestStore,
  { gateways: count = 1, ...options }: ChatOptions & { gateways?: number } = {},
): Promise<TestChat> {
  const directory = mkdtempSync(join(tmpdir(), "skein-chat-"));
  const local: LocalServices = new Map();
  const secrets = loadSecrets({
    dataDir: directory,
    jwtSecret: undefined,
    serviceKey: undefined,
    internalSecret: undefined,
    vapidKey: undefined,
  });
  const configOf = (env: Record<string, string> = {}): Config =>
    readConfig({
      SKEIN_PORT: "0",
      SKEIN_DATA_DIR: directory,
      SKEIN_PREFIX: store.prefix,
      SKEIN_ACK_LEVEL: "memory",
      SKEIN_SEND_RATE: "100000",
      SKEIN_SEND_BURST: "100000",
      SKEIN_ALLOW_UNSAFE: "1",
      ...env,
    });

  function contextFor(
    role: Role,
    name: string,
    { env, log = silentLog, clock = systemClock }: ChatOptions,
  ): WorkerContext {
    const instance = `test.${name}`;
    const { redis, keys } = store;
    const metrics = createMetrics(instance);
    const shared = { redis, keys, clock, log, metrics };
    return {
      ...shared,
      config: configOf(env),
      secrets,
      instance,
      snapshots: createMetricSnapshots({ ...shared, unit: instance }),
      queue: openQueue({
        ...{ ...shared, member: instance, topics: imTopics },
        tokenSecret: deriveSecret(secrets, "pull tokens"),
      }),
      rpc: openRpcNode({
        ...shared,
        role,
        instance,
        secret: secrets.internalSecret,
        listen: { directory, host: "" },
        local,
      }),
      checks: [],
    };
  }

  async function start(worker: Worker, context: WorkerContext): Promise<RunningServices> {
    return startServices(await worker.build(context));
  }

  const archiveRunning = await start(archive, contextFor("archive", "archive", options));
  const logicRunning = await start(logic, contextFor("logic", "logic", options));
  const gateways: TestGateway[] = [];

  async function startGateway(own: ChatOptions = options): Promise<TestGateway> {
    const context = contextFor("gateway", `gateway${gateways.length}`, own);
    const services = await gateway.build(context);
    const server = services.find((service) => service.name === "gateway server") as GatewayServer;
    const running = await startServices(services);
    const { port } = server;
    const started = { url: `http://127.0.0.1:${port}`, port, metrics: context.metrics, stop: () => running.stop() };
    gateways.push(started);
    return started;
  }
  for (let i = 0; i < count; i++) await startGateway();

  const others: RunningServices[] = [];

  const first = gateways[0]!;
  const asService = { authorization: `Bearer ${secrets.serviceKey}`, "content-type": "application/json" };
  const dial = (on: TestGateway = first, headers: Record<string, string> = {}) =>
    ChatClient.connect(`${on.url.replace("http", "ws")}/v1/ws`, headers);
  const chat: TestChat = {
    gateways,
    url: first.url,
    port: first.port,
    serviceKey: secrets.serviceKey,
    jwtSecret: secrets.jwtSecret,
    startGateway,
    async startRole(worker, name) {
      const services = await start(worker, contextFor(worker.role, name, options));
      others.push(services);
      return services;
    },
    stopLogic: () => logicRunning.stop(),
    async token(user, ttlSeconds = 3_600) {
      const body = JSON.stringify({ user, ttlSeconds });
      const response = await fetch(`${first.url}/v1/tokens`, { method: "POST", headers: asService, body });
      return ((await response.json()) as { token: string }).token;
    },
    dial,
    async connect(user, on) {
      // First: a socket has 5 s to open its session.
      const token = await chat.token(user);
      const client = await dial(on);
      await client.request("session.open", { token });
      return client;
    },
    http(user, method, path, body) {
      const init = { method, headers: { ...asService, "skein-user": user } };
      return fetch(first.url + path, body === undefined ? init : { ...init, body: JSON.stringify(body) });
    },
    async group(owner, ...members) {
      const response = await chat.http(owner!, "POST", "/v1/conversations", { type: "group", members });
      return ((await response.json()) as { conversation: { id: string } }).conversation.id;
    },
    async [Symbol.asyncDispose]() {
      for (const started of gateways) await started.stop();
      for (const started of others) await started.stop();
      await logicRunning.stop();
      await archiveRunning.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  return chat;
}
