/**
 * One user of a chaos run: a WebSocket that reconnects with back-off to any gateway, and requests whose outcome is always one
 * of ok, failed or unknown. What is repeated, and under which id, is the caller's business.
 *
 *   connecting ──session.open──► ready ──closed──► waiting ──back-off──► connecting
 */

import { type Backoff, backoffMs } from "../../lib/clock.ts";

/** As a client should: soon at first, and not all at once after a gateway's death. */
const RECONNECT: Backoff = { firstMs: 50, maxMs: 1_000, jitter: 0.5 };
/** Above the gateway's own deadline of a send. */
const REPLY_MS = 6_000;
const OPEN_MS = 5_000;
/** Close codes from here to 4999 tell the client to stay away (protocol.md). */
const FINAL_CLOSE = 4_500;

export type Outcome =
  | { readonly kind: "ok"; readonly result: unknown }
  /** Certainly not executed, or refused. */
  | {
      readonly kind: "failed";
      readonly code: string;
      readonly isRetryable: boolean;
      readonly retryAfterMs: number;
    }
  | { readonly kind: "unknown"; readonly reason: string };

export interface ClientOptions {
  readonly user: string;
  readonly token: string;
  /** ws://host:port/v1/ws of each gateway. */
  readonly urls: readonly string[];
  /** Which of them first. */
  readonly first: number;
  onReady(): void;
  onNotification(method: string, params: Record<string, unknown>): void;
  /** The server said not to come back. */
  onRefused(reason: string): void;
}

export interface Client {
  readonly isReady: boolean;
  /** Sends at once. Without a connection: failed, for nothing was sent. */
  request(method: string, params: object): Promise<Outcome>;
  close(): void;
}

interface Frame {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  readonly result?: unknown;
  readonly error?: {
    readonly message: string;
    readonly data?: { readonly code: string; readonly retryable: boolean; readonly retryAfterMs?: number };
  };
}

/** Codes that say that the outcome is not known; every other error says that nothing was committed. */
const UNKNOWN_CODES = new Set(["UNKNOWN_OUTCOME", "DEADLINE_EXCEEDED", "INTERNAL"]);

export function createClient(options: ClientOptions): Client {
  const waiting = new Map<number, (outcome: Outcome) => void>();
  let socket: WebSocket | undefined;
  let isReady = false;
  let isClosed = false;
  let attempts = 0;
  let turn = options.first;
  let requests = 0;

  function connect(): void {
    if (isClosed) return;
    const opened = new WebSocket(options.urls[turn++ % options.urls.length]!);
    socket = opened;
    let isOver = false;
    const patience = setTimeout(() => opened.close(), OPEN_MS);
    const over = (code: number, reason: string) => {
      if (isOver) return;
      isOver = true;
      clearTimeout(patience);
      if (socket !== opened) return;
      isReady = false;
      for (const settle of [...waiting.values()]) settle({ kind: "unknown", reason: "connection closed" });
      if (isClosed) return;
      if (code >= FINAL_CLOSE) options.onRefused(`closed with ${code} ${reason}`);
      else setTimeout(connect, backoffMs(++attempts, RECONNECT));
    };
    opened.onopen = async () => {
      const outcome = await ask(opened, "session.open", { token: options.token });
      if (outcome.kind !== "ok" || isOver) {
        opened.close();
        return;
      }
      clearTimeout(patience);
      attempts = 0;
      isReady = true;
      options.onReady();
    };
    opened.onmessage = (event) => receive(JSON.parse(event.data as string) as Frame);
    opened.onclose = (event) => over(event.code, event.reason);
    opened.onerror = () => over(1006, "error");
  }

  function receive(frame: Frame): void {
    if (frame.method !== undefined) {
      options.onNotification(frame.method, frame.params ?? {});
      return;
    }
    const settle = frame.id === undefined ? undefined : waiting.get(frame.id);
    if (!settle) return;
    if (!frame.error) {
      settle({ kind: "ok", result: frame.result });
      return;
    }
    const { code = "INTERNAL", retryable = false, retryAfterMs = 0 } = frame.error.data ?? {};
    if (UNKNOWN_CODES.has(code)) settle({ kind: "unknown", reason: code });
    else settle({ kind: "failed", code, isRetryable: retryable, retryAfterMs });
  }

  function ask(through: WebSocket, method: string, params: object): Promise<Outcome> {
    const id = ++requests;
    return new Promise((resolve) => {
      const settle = (outcome: Outcome) => {
        clearTimeout(timer);
        waiting.delete(id);
        resolve(outcome);
      };
      const timer = setTimeout(() => settle({ kind: "unknown", reason: "no reply" }), REPLY_MS);
      waiting.set(id, settle);
      through.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  connect();
  return {
    get isReady() {
      return isReady;
    },
    request(method, params) {
      if (!isReady || socket?.readyState !== WebSocket.OPEN) {
        return Promise.resolve({ kind: "failed", code: "NOT_CONNECTED", isRetryable: true, retryAfterMs: 0 });
      }
      return ask(socket, method, params);
    },
    close() {
      isClosed = true;
      socket?.close();
    },
  };
}
