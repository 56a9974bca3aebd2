/**
 * The Hono app that every HTTP surface begins with: a request id, a log line per request without query, body or credentials,
 * and errors as RFC 9457 problems. Web-standard APIs only.
 *
 *   const app = createApp({ log, clock });
 *   app.get("/v1/things", (c) => …);       // throw AppError: the status, code and issues follow from it
 */

import { Hono } from "hono";
import type { Clock } from "../clock.ts";
import { AppError, ERRORS, toErrorBody } from "../errors.ts";
import { ID_PATTERN, newId } from "../id.ts";
import type { Log } from "../observability/index.ts";

/** What the server gives with each request, and what the app adds. */
export interface AppEnv {
  Bindings: {
    /** The peer's address as the server sees it; no header can change it. */
    readonly address?: string | undefined;
    /** How long the connection may be silent from now on, seconds: for answers that stream. */
    readonly idleTimeout?: (seconds: number) => void;
  };
  Variables: { requestId: string };
}

export type App = Hono<AppEnv>;

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"];

export function createApp({ log, clock }: { log: Log; clock: Clock }): App {
  const app: App = new Hono<AppEnv>();

  app.use(async (c, next) => {
    const given = c.req.header("x-request-id");
    const requestId = given !== undefined && ID_PATTERN.test(given) ? given : newId(clock.now());
    const startedMs = performance.now();
    c.set("requestId", requestId);
    await next();
    c.header("x-request-id", requestId);
    c.header("cache-control", "no-store");
    c.header("x-content-type-options", "nosniff");
    const status = c.res.status;
    const tookMs = Math.round(performance.now() - startedMs);
    log[status >= 500 ? "warn" : "debug"](
      { requestId, method: c.req.method, path: c.req.path, status, tookMs },
      "request",
    );
  });

  app.onError((error, c) => {
    if (!(error instanceof AppError) || error.code === "INTERNAL") {
      log.error({ requestId: c.get("requestId"), error }, "request failed");
    }
    return problem(error);
  });

  app.notFound((c) => {
    const allowed = METHODS.filter((method) => hasRoute(app, method, c.req.path));
    if (allowed.length === 0) return problem(new AppError("NOT_FOUND"));
    const response = problem(new AppError("METHOD_NOT_ALLOWED", `Allowed here: ${allowed.join(", ")}`));
    response.headers.set("allow", allowed.join(", "));
    return response;
  });

  return app;
}

/** Whether a handler, not only middleware for all paths, is routed there. */
function hasRoute(app: App, method: string, path: string): boolean {
  const [matched] = app.router.match(method, path);
  return matched.some(([[, route]]) => route.method === method);
}

/** Any thrown value as an RFC 9457 answer. What is not an AppError shows as INTERNAL, without its text. */
export function problem(error: unknown): Response {
  const body = toErrorBody(error);
  const { status, title } = ERRORS[body.code];
  const headers = new Headers({ "content-type": "application/problem+json" });
  if (status === 401) headers.set("www-authenticate", "Bearer");
  if (body.retryAfterMs !== undefined) headers.set("retry-after", String(Math.ceil(body.retryAfterMs / 1_000)));
  const type = `urn:skein:error:${body.code.toLowerCase().replaceAll("_", "-")}`;
  return new Response(JSON.stringify({ type, title, status, ...body }), { status, headers });
}
