/**
 * The HTTP API: the users' methods (methods.ts) as routes, tokens for services, and what operators look at. Each route names
 * its input once; validation and /openapi.json follow from it.
 */

import type { Context } from "hono";
import { cors } from "hono/cors";
import { generateSpecs } from "hono-openapi";
import * as v from "valibot";
import type { Clock } from "../../lib/clock.ts";
import {
  type App,
  type AppEnv,
  type Authenticator,
  actingUser,
  CHAT_BODY_BYTES_MAX,
  createApp,
  describeInput,
  type InputSchema,
  invalid,
  readInput,
  requireScope,
} from "../../lib/http/index.ts";
import type { UserId } from "../../lib/id.ts";
import { UserIdSchema } from "../../lib/im/index.ts";
import { type Check, type Log, type Metrics, readiness } from "../../lib/observability/index.ts";
import { describeSocket } from "./async-api.ts";
import { serveDocs } from "./docs.ts";
import { type Limiters, type Logic, type Method, methods } from "./methods.ts";
import type { ServiceRoute, Verb } from "./service-route.ts";
import { mountServiceRoutes } from "./service-routes.ts";
import { WEB_SOCKET_PATH } from "./upgrade.ts";

const DAY_S = 24 * 3_600;
/** Tokens cannot be called back, so they end. */
const TOKEN_TTL_MAX_S = 30 * DAY_S;

const TokenParams = v.strictObject({
  user: UserIdSchema,
  ttlSeconds: v.optional(
    v.pipe(
      v.number(`must be a whole number from 1 to ${TOKEN_TTL_MAX_S}`),
      v.integer(`must be a whole number from 1 to ${TOKEN_TTL_MAX_S}`),
      v.minValue(1, "must be at least 1"),
      v.maxValue(TOKEN_TTL_MAX_S, `must be at most ${TOKEN_TTL_MAX_S}`),
    ),
    DAY_S,
  ),
});
const TokenReply = v.strictObject({ user: UserIdSchema, token: v.string(), expiresAt: v.number() });

export interface RoutesParts {
  readonly logic: Logic;
  readonly auth: Authenticator;
  readonly limiters: Limiters;
  /** What services may do beside what users may. */
  readonly serviceRoutes: readonly ServiceRoute[];
  readonly origins: readonly string[];
  /** What must be well for this gateway to take traffic. */
  readonly checks: readonly Check[];
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

type RouteContext = Context<AppEnv>;

export function createRoutes(parts: RoutesParts): App {
  const { logic, auth, limiters, serviceRoutes, origins, checks, clock, log, metrics } = parts;
  const app = createApp({ log, clock });
  if (origins.length > 0)
    app.use("/v1/*", cors({ origin: [...origins], exposeHeaders: ["x-request-id", "retry-after"] }));

  /** A method as a route. `answer` picks the status; by default 200 and the reply as it is. */
  function route<S extends InputSchema, R>(
    verb: Verb,
    path: string,
    summary: string,
    method: Method<S, R>,
    answer: (c: RouteContext, reply: R) => Response = (c, reply) => c.json(reply as object),
    statuses: readonly number[] = [200],
  ): void {
    const names = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name!);
    const mayLackBody = Object.keys(method.params.entries).every((name) => names.includes(name));
    const replies = Object.fromEntries(statuses.map((status) => [status, status === 204 ? undefined : method.reply]));
    app.on(
      verb.toUpperCase(),
      path,
      describeInput({ method: verb, summary, input: method.params, path: names, mayLackBody, replies }),
      async (c) => {
        const user = actingUser(await auth.authenticate(c.req.raw.headers));
        const params = await readInput(c, method.params, {
          path: names,
          mayLackBody,
          bodyBytesMax: CHAT_BODY_BYTES_MAX,
        });
        if (method.limit) limiters[method.limit].take(user, clock.now());
        return answer(c, await method.call(logic, user, params));
      },
    );
  }

  const noContent = (c: RouteContext) => c.body(null, 204);
  const one = "/v1/conversations/:conversation";

  route(
    "post",
    "/v1/conversations",
    "Create a conversation",
    methods.create,
    (c, { created, conversation }) => c.json({ conversation }, created ? 201 : 200),
    [201, 200],
  );
  route("get", "/v1/conversations", "List conversations, newest activity first", methods.list);
  route("get", one, "Details of a conversation", methods.get);
  route("patch", one, "Change the title or who may join", methods.update);
  route("delete", one, "Dissolve the conversation", methods.dissolve, noContent, [204]);
  route("post", `${one}/members`, "Add members, or join", methods.addMembers);
  route("delete", `${one}/members/:user`, "Remove a member, or leave", methods.removeMember, noContent, [204]);
  route(
    "patch",
    `${one}/members/:user`,
    "Change a member's role or mute, or give ownership away",
    methods.updateMember,
  );
  route("put", `${one}/mute`, "Take no notice of it until a time", methods.muteConversation);
  route("get", "/v1/me/devices", "One's devices, online or not", methods.listDevices);
  route(
    "delete",
    "/v1/me/devices/:device",
    "Forget a device and close its connections",
    methods.removeDevice,
    noContent,
    [204],
  );
  route("get", "/v1/me/blocks", "Users whose direct messages are not taken", methods.listBlocks);
  route("put", "/v1/me/blocks/:user", "Block a user", methods.addBlock);
  route("delete", "/v1/me/blocks/:user", "Unblock a user", methods.removeBlock, noContent, [204]);
  route(
    "post",
    `${one}/messages`,
    "Send a message, once per clientId",
    methods.send,
    (c, reply) => c.json(reply, reply.duplicate ? 200 : 201),
    [201, 200],
  );
  const message = `${one}/messages/:seq`;
  route("patch", message, "Edit one's own message", methods.edit);
  route("delete", message, "Recall a message, or with for=me delete it for oneself", methods.recall, noContent, [204]);
  route("put", `${message}/reactions/:emoji`, "React to a message", methods.addReaction);
  route("delete", `${message}/reactions/:emoji`, "Take a reaction back", methods.removeReaction, noContent, [204]);
  route("get", `${one}/messages`, "History, ascending by seq", methods.history);
  route("put", `${one}/delivered`, "Move forward what has reached a device", methods.deliver);
  route("get", `${one}/receipts`, "How far the members have come", methods.receipts);
  route("put", `${one}/read`, "Move the read cursor forward", methods.read);
  route("get", "/v1/search", "Search one's own conversations, newest first", methods.search);
  route("post", "/v1/sync", "What was missed since the cursors", methods.sync);

  app.post(
    "/v1/tokens",
    describeInput({
      method: "post",
      summary: "Mint a user token (service key)",
      input: TokenParams,
      replies: { 201: TokenReply },
    }),
    async (c) => {
      requireScope(await auth.authenticate(c.req.raw.headers), "chat");
      const { user, ttlSeconds } = await readInput(c, TokenParams, { path: [] });
      return c.json({ user, ...(await auth.mint(user as UserId, ttlSeconds)) }, 201);
    },
  );

  mountServiceRoutes(app, auth, serviceRoutes);

  app.get(WEB_SOCKET_PATH, () => {
    throw invalid("Upgrade", "must be websocket");
  });

  // For operators

  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", async (c) => {
    const result = await readiness(checks);
    const ackLevel = result.checks.redis?.facts?.ackLevel;
    return c.json({ ready: result.ready, ackLevel, checks: result.checks }, result.ready ? 200 : 503);
  });
  app.get("/metrics", async (c) => {
    if (!isLoopback(c.env.address)) requireScope(await auth.authenticate(c.req.raw.headers), "admin");
    return c.text(await metrics.registry.metrics(), 200, { "content-type": metrics.registry.contentType });
  });

  serveDocs(app);
  app.get("/asyncapi.json", (c) => c.json(describeSocket()));

  let document: Promise<object> | undefined;
  app.get("/openapi.json", async (c) => {
    document ??= describeApi(app);
    return c.json(await document);
  });
  return app;
}

/** By the socket's own address, which no header can forge. */
function isLoopback(address: string | undefined): boolean {
  return address !== undefined && /^(127\.|::1$|::ffff:127\.)/.test(address);
}

function describeApi(app: App): Promise<object> {
  return generateSpecs(app, {
    excludeStaticFile: false,
    documentation: {
      info: { title: "Skein", version: "1", description: "Chat over a message queue. WebSocket: GET /v1/ws." },
      components: { securitySchemes: { bearer: { type: "http", scheme: "bearer" } } },
      security: [{ bearer: [] }],
    },
  });
}
