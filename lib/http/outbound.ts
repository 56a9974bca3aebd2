/**
 * The one client for calls to the outside: webhooks, check-backs, push. What may be called is public-address.ts' to say, whether a host
 * is called now circuit.ts'. A name is resolved once, all its addresses are judged, and the connection goes to the judged address
 * while the certificate must be the name's, so a name that changes its mind in between gains nothing. Redirects are
 * answers, not orders. 10 s in all, 64 KiB of reply.
 *
 *   const outbound = createOutbound({ allowPrivate: config.outboundPrivate });
 *   const result = await outbound.call({ url, headers: signWebhook({ … }), body }, signal);
 *
 * A door of its own beside index.ts: who calls outside needs nothing of serving.
 */

import { lookup } from "node:dns/promises";
import { type ClientRequest, Agent as HttpAgent, type IncomingMessage, request as requestHttp } from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { AppError } from "../errors.ts";
import { Circuits } from "./circuit.ts";
import { addressOf, checkOutboundUrl, isPublicAddress } from "./public-address.ts";

export { Circuits } from "./circuit.ts";
export { checkOutboundUrl, isPublicAddress, isPushService } from "./public-address.ts";
export { signWebhook } from "./webhook-signature.ts";

const TIMEOUT_MS = 10_000;
const REPLY_BYTES_MAX = 64 * 1_024;
/** Of all hosts together: each holds a socket. */
const UNDER_WAY_MAX = 512;
/** What we say when there are too many. */
const CROWD_MS = 500;
/** Kept open between calls, per address and name. */
const IDLE_SOCKETS_MAX = 4;
const IDLE_MS = 4_000;
/** A receiver that asks for more patience than this is asked again anyway. */
const RETRY_AFTER_MAX_MS = 3_600_000;

export interface OutboundCall {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Posted. */
  readonly body: string | Uint8Array;
}

export type OutboundResult =
  /** The host answered, whatever. `body` is undefined when it was too long, too slow or broke off. */
  | {
      readonly kind: "answer";
      readonly status: number;
      readonly body: string | undefined;
      readonly retryAfterMs: number | undefined;
    }
  /** It may have arrived or not: no connection, no answer in time, no HTTP. */
  | { readonly kind: "failed"; readonly reason: string }
  /** Not called, for the URL or its address is not allowed. */
  | { readonly kind: "refused"; readonly reason: string }
  /** Not called: too many calls, or the host did not answer of late. */
  | { readonly kind: "later"; readonly afterMs: number };

export interface Outbound {
  /** Posts. Rejects only with `signal`'s reason. */
  call(call: OutboundCall, signal: AbortSignal): Promise<OutboundResult>;
  /** Ends what is under way, and the idle connections. */
  close(): void;
}

export interface OutboundOptions {
  /** SKEIN_OUTBOUND_PRIVATE: also http, any port and private addresses. */
  readonly allowPrivate: boolean;
  /** All addresses of a name. Default: the system's. */
  readonly resolve?: (name: string) => Promise<readonly string[]>;
  /** PEM of further certificate authorities. */
  readonly ca?: string;
  /** For one call in all; default 10 s. */
  readonly timeoutMs?: number;
  /** Calls that one host may hold at once; default 16. */
  readonly underWayPerHost?: number;
}

export function createOutbound(options: OutboundOptions): Outbound {
  const { allowPrivate, resolve = resolveName, ca, timeoutMs = TIMEOUT_MS } = options;
  const circuits = new Circuits(options.underWayPerHost);
  const agentOptions = { keepAlive: true, maxFreeSockets: IDLE_SOCKETS_MAX, timeout: IDLE_MS };
  const agents = { http: new HttpAgent(agentOptions), https: new HttpsAgent(agentOptions) };
  const closing = new AbortController();
  let underWay = 0;

  /** The address to connect to. */
  async function judge(url: URL, signal: AbortSignal): Promise<string | { readonly refused: string }> {
    const given = addressOf(url);
    const addresses = given === undefined ? await orAbort(resolve(url.hostname), signal) : [given];
    if (addresses.length === 0) throw new Error("the name has no address");
    // One private address among public ones is how a check is talked past.
    if (!allowPrivate && !addresses.every(isPublicAddress)) return { refused: "the host's address is not public" };
    return addresses.find((address) => !address.includes(":")) ?? addresses[0]!;
  }

  async function send(url: URL, call: OutboundCall, signal: AbortSignal): Promise<OutboundResult> {
    const address = await judge(url, signal);
    if (typeof address !== "string") return { kind: "refused", reason: address.refused };
    const isHttps = url.protocol === "https:";
    const name = addressOf(url) === undefined ? url.hostname : undefined;
    const open = () =>
      (isHttps ? requestHttps : requestHttp)({
        method: "POST",
        host: address,
        port: url.port || (isHttps ? 443 : 80),
        path: url.pathname + url.search,
        agent: isHttps ? agents.https : agents.http,
        headers: {
          ...call.headers,
          host: url.host,
          "content-length": Buffer.byteLength(call.body),
          "accept-encoding": "identity",
        },
        ...(isHttps && name !== undefined ? { servername: name } : {}),
        ...(ca === undefined ? {} : { ca }),
        signal,
      });
    try {
      return await exchange(open(), call.body, signal);
    } catch (error) {
      // The receiver closed an idle connection as we took it: nothing was read of this call.
      if (!(error instanceof StaleConnection)) throw error;
      return await exchange(open(), call.body, signal);
    }
  }

  return {
    async call(call, signal) {
      let url: URL;
      try {
        url = checkOutboundUrl(call.url, { allowPrivate });
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        return { kind: "refused", reason: error.message };
      }
      if (underWay >= UNDER_WAY_MAX) return { kind: "later", afterMs: CROWD_MS };
      underWay += 1;
      try {
        const slot = await circuits.enter(url.host, signal);
        if (typeof slot === "number") return { kind: "later", afterMs: slot };
        const deadline = new AbortController();
        const timer = setTimeout(() => deadline.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
        // Our own haste says nothing of the host.
        let isAnswered = true;
        try {
          const ending = AbortSignal.any([signal, deadline.signal, closing.signal]);
          return await send(url, call, ending);
        } catch (error) {
          signal.throwIfAborted();
          isAnswered = false;
          return { kind: "failed", reason: deadline.signal.aborted ? deadline.signal.reason.message : reasonOf(error) };
        } finally {
          clearTimeout(timer);
          slot.release(isAnswered);
        }
      } finally {
        underWay -= 1;
      }
    },
    close() {
      closing.abort(new Error("the client was closed"));
      agents.http.destroy();
      agents.https.destroy();
    },
  };
}

async function resolveName(name: string): Promise<readonly string[]> {
  return (await lookup(name, { all: true, verbatim: true })).map(({ address }) => address);
}

/** The look-up of a name cannot be ended, only left behind. */
function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const leave = () => reject(signal.reason);
  signal.addEventListener("abort", leave, { once: true });
  return Promise.race([work, promise]).finally(() => signal.removeEventListener("abort", leave));
}

class StaleConnection extends Error {}

function exchange(request: ClientRequest, body: string | Uint8Array, signal: AbortSignal): Promise<OutboundResult> {
  return new Promise((resolve, reject) => {
    let hasAnswered = false;
    request.once("response", (response) => {
      hasAnswered = true;
      void readBody(response, signal).then((text) =>
        resolve({
          kind: "answer",
          status: response.statusCode ?? 0,
          body: text,
          retryAfterMs: parseRetryAfter(response.headers["retry-after"]),
        }),
      );
    });
    request.on("error", (error: NodeJS.ErrnoException) => {
      if (hasAnswered) return;
      const isStale = request.reusedSocket && (error.code === "ECONNRESET" || error.code === "EPIPE");
      reject(isStale ? new StaleConnection(error.message) : error);
    });
    request.end(body);
  });
}

/** Resolves with the text, or undefined when it is too long, broke off, or took too long; the connection is cut then. */
function readBody(response: IncomingMessage, signal: AbortSignal): Promise<string | undefined> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const cut = () => {
      response.destroy();
      resolve(undefined);
    };
    signal.addEventListener("abort", cut, { once: true });
    response.on("data", (chunk: Buffer) => {
      length += chunk.length;
      if (length > REPLY_BYTES_MAX) cut();
      else chunks.push(chunk);
    });
    response.on("end", () => resolve(Buffer.concat(chunks).toString()));
    response.on("error", cut);
    response.on("close", cut);
  });
}

/** Seconds or an HTTP date, as ms from now. */
function parseRetryAfter(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = /^\d{1,9}$/.test(text)
    ? Number(text) * 1_000
    : / GMT$/.test(text)
      ? Date.parse(text) - Date.now()
      : Number.NaN;
  return Number.isFinite(ms) ? Math.min(RETRY_AFTER_MAX_MS, Math.max(0, ms)) : undefined;
}

/** Error codes and our own words: never the URL. */
function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message;
}
