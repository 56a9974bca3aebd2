/**
 * The public port: WebSocket upgrades and sockets by Bun's native handlers, everything else by the Hono app. The only file of
 * the gateway's HTTP side that knows Bun.
 *
 * An upgrade is refused with an HTTP problem: a foreign Origin 403, bad credentials 401, no room 503. Credentials come in the
 * Authorization header or, from browsers, in the first frame; never in the query.
 */

import { AppError } from "../../lib/errors.ts";
import { type App, type Authenticator, actingUser, invalid, problem } from "../../lib/http/index.ts";
import { LIMITS } from "../../lib/im/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import { createService, type Service } from "../../lib/service.ts";
import { OUTBOX_BYTES_MAX } from "./outbox.ts";
import type { Session, SessionClaims } from "./session.ts";
import type { Sessions } from "./sessions.ts";

export const WEB_SOCKET_PATH = "/v1/ws";
/** A socket that is silent for so long, pongs included, is gone. Pings come every 25 s. */
const IDLE_TIMEOUT_S = 60;
/** Bun's own buffer may pass our limit by one reply before we look; beyond it Bun closes. */
const BACKPRESSURE_BYTES_MAX = OUTBOX_BYTES_MAX + 768 * 1_024;
/** Outer guard: our reader refuses from 64 KiB, 256 KiB and, of batches, 1 MiB. Bun's own refusal has no body. */
const REQUEST_BYTES_MAX = 2 * 1024 * 1_024;
/** A request silent for so long is cut. */
const HTTP_IDLE_TIMEOUT_S = 15;
/** RFC 6455: the server met a condition that it did not expect. */
const CLOSE_INTERNAL = 1011;
/** After the drain, for requests that are being answered. */
const STOP_TIMEOUT_MS = 2_000;

const KEY_PATTERN = /^[A-Za-z0-9+/]{22}==$/;

export interface ServerParts {
  readonly host: string;
  readonly port: number;
  /** Exact; empty: the origin of the request's own host. */
  readonly origins: readonly string[];
  readonly app: App;
  readonly auth: Authenticator;
  readonly sessions: Sessions;
  readonly log: Log;
}

export interface GatewayServer extends Service {
  /** The port in use, once started. */
  readonly port: number;
}

export function createServer({ host, port, origins, app, auth, sessions, log }: ServerParts): GatewayServer {
  let server: Bun.Server<Session> | undefined;

  async function upgrade(request: Request, on: Bun.Server<Session>): Promise<Response | undefined> {
    try {
      checkHandshake(request);
      checkOrigin(request.headers, origins);
      const hasCredentials = request.headers.has("authorization");
      const session = sessions.create(hasCredentials ? await claimsOf(request.headers) : undefined);
      if (on.upgrade(request, { data: session })) return undefined;
      throw invalid("Upgrade", "the handshake is not a WebSocket's");
    } catch (error) {
      if (!(error instanceof AppError)) log.error({ error }, "upgrade failed");
      return problem(error);
    }
  }

  /** A bug that one socket meets ends that socket, not the process with all the others. */
  function guarded<A extends unknown[]>(handle: (ws: Bun.ServerWebSocket<Session>, ...rest: A) => void) {
    return (ws: Bun.ServerWebSocket<Session>, ...rest: A): void => {
      try {
        handle(ws, ...rest);
      } catch (error) {
        log.error({ connection: ws.data.id, error }, "socket handler failed");
        ws.close(CLOSE_INTERNAL, "internal error");
      }
    };
  }

  async function claimsOf(headers: Headers): Promise<SessionClaims> {
    const caller = await auth.authenticate(headers);
    if (caller.kind === "user") return caller;
    const { key, digest } = caller;
    return { user: actingUser(caller), expiresAt: Number.POSITIVE_INFINITY, pass: { key, digest } };
  }

  function listen(): Bun.Server<Session> {
    try {
      return Bun.serve<Session>({
        hostname: host,
        port,
        idleTimeout: HTTP_IDLE_TIMEOUT_S,
        maxRequestBodySize: REQUEST_BYTES_MAX,
        development: false,
        // Without development Bun shares a taken port by default: two Skeins would each get half of the other's clients.
        reusePort: false,
        fetch(request, on) {
          if (isWebSocketPath(request.url) && request.method === "GET" && request.headers.has("upgrade")) {
            return upgrade(request, on);
          }
          return app.fetch(request, {
            address: on.requestIP(request)?.address,
            idleTimeout: (seconds: number) => on.timeout(request, seconds),
          });
        },
        error: (error) => {
          log.error({ error }, "request failed outside the app");
          return problem(error);
        },
        websocket: {
          maxPayloadLength: LIMITS.frameBytes,
          idleTimeout: IDLE_TIMEOUT_S,
          sendPings: false,
          // 64 KB of zeros compress to nothing: a bomb for us, and memory per socket.
          perMessageDeflate: false,
          backpressureLimit: BACKPRESSURE_BYTES_MAX,
          closeOnBackpressureLimit: true,
          open: guarded((ws) => {
            sessions.add(ws.data);
            ws.data.opened(ws);
          }),
          message: guarded((ws, frame: string | Uint8Array) => ws.data.received(frame)),
          drain: guarded((ws) => ws.data.outbox.drained()),
          close: guarded((ws) => ws.data.ended()),
        },
      });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EADDRINUSE" && code !== "EACCES") throw error;
      const reason = code === "EADDRINUSE" ? "is taken by another process" : "needs more rights";
      throw new AppError("CONFLICT", `port ${port} of ${host} ${reason}: set SKEIN_PORT to another one`, {
        cause: error,
      });
    }
  }

  const service = createService(
    "gateway server",
    async () => {
      server = listen();
      sessions.start();
      log.info({ host, port: server.port }, "gateway listens");
    },
    async (signal) => {
      await sessions.drain(signal);
      await Promise.race([server?.stop(), Bun.sleep(STOP_TIMEOUT_MS)]);
      await server?.stop(true);
    },
  );
  return {
    ...service,
    get port() {
      return server?.port ?? port;
    },
  };
}

function isWebSocketPath(url: string): boolean {
  // http://host/v1/ws, with a query or without.
  const pathAt = url.indexOf("/", url.indexOf("://") + 3);
  if (!url.startsWith(WEB_SOCKET_PATH, pathAt)) return false;
  const end = url.charAt(pathAt + WEB_SOCKET_PATH.length);
  return end === "" || end === "?";
}

function checkHandshake(request: Request): void {
  const { headers } = request;
  if (headers.get("upgrade")?.toLowerCase() !== "websocket") throw invalid("Upgrade", "must be websocket");
  if (headers.get("sec-websocket-version") !== "13") throw invalid("Sec-WebSocket-Version", "must be 13");
  if (!KEY_PATTERN.test(headers.get("sec-websocket-key") ?? "")) {
    throw invalid("Sec-WebSocket-Key", "must be 16 bytes in base 64");
  }
  if (new URL(request.url).search !== "") throw invalid("", "no query: a token travels in a header or the first frame");
}

/** Browsers send Origin and other clients do not: a page of a foreign site must not use its visitor's network or cookies. */
export function checkOrigin(headers: Headers, origins: readonly string[]): void {
  const origin = headers.get("origin");
  if (origin === null) return;
  const host = headers.get("host");
  const isAllowed =
    origins.length > 0 ? origins.includes(origin) : origin === `https://${host}` || origin === `http://${host}`;
  if (!isAllowed) throw new AppError("FORBIDDEN", "Origin: is not allowed here (SKEIN_ORIGINS)");
}
