/**
 * The HTTP API: what users may (user-routes.ts), what services may (service-routes.ts), tokens, and what operators look at. Each
 * route names its input once; validation and /openapi.json follow from it.
 */

import { cors } from "hono/cors";
import { generateSpecs } from "hono-openapi";
import * as v from "valibot";
import type { Clock } from "../../lib/clock.ts";
import {
  type App,
  type Authenticator,
  createApp,
  describeInput,
  invalid,
  readInput,
  requireScope,
} from "../../lib/http/index.ts";
import type { UserId } from "../../lib/id.ts";
import { UserIdSchema } from "../../lib/im/index.ts";
import { type Check, EXPOSITION_CONTENT_TYPE, type Log, readiness } from "../../lib/observability/index.ts";
import type { MetricSnapshots } from "../../lib/redis/index.ts";
import { describeSocket } from "./async-api.ts";
import { serveDocs } from "./docs.ts";
import type { Limiters, Logic } from "./methods.ts";
import type { ServiceRoute } from "./service-route.ts";
import { mountServiceRoutes } from "./service-routes.ts";
import { WEB_SOCKET_PATH } from "./upgrade.ts";
import { mountUserRoutes } from "./user-routes.ts";

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
  readonly snapshots: MetricSnapshots;
}

export function createRoutes(parts: RoutesParts): App {
  const { logic, auth, limiters, serviceRoutes, origins, checks, clock, log, snapshots } = parts;
  const app = createApp({ log, clock });
  if (origins.length > 0)
    app.use("/v1/*", cors({ origin: [...origins], exposeHeaders: ["x-request-id", "retry-after"] }));

  mountUserRoutes(app, { logic, auth, limiters, clock });

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
    return c.text(await snapshots.tell(), 200, { "content-type": EXPOSITION_CONTENT_TYPE });
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
