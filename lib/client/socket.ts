/**
 * One session over as many sockets as it takes: opens, authenticates by the first frame, notices a dead peer, and comes
 * back with a jittered back-off until it is closed by us or for good by the server.
 *
 *   connecting ──open──► opening ──session.open answered──► open ──┐
 *       ▲                    │                                      │ lost, close code 1000..4499, silent
 *       └──── back-off ◄─────┴──────────────────────────────────────┘
 *   closed: close() was called, or close code 4500..4999, or the token was refused
 */

import { askedMs, backoffMs } from "./backoff.ts";
import { ClientError } from "./error.ts";
import type { Answer, ClosingNotice, Notification, Session } from "./wire.ts";

/** From asking for a token to the answered session.open. The server gives 5 s to authenticate. */
const OPEN_MS_MAX = 10_000;
/** A ping unanswered for so long: the peer is gone or frozen, although the socket looks open. */
const PING_ANSWER_MS_MAX = 10_000;
const RECONNECT_FIRST_MS = 250;
/** Long enough to spare a server that is down, short enough that nobody reaches for the reload button. */
const RECONNECT_MAX_MS = 10_000;
/** Waits that the server asks for are believed up to this. */
const RECONNECT_ASKED_MAX_MS = 60_000;
/** Used until the server names its own. */
const HEARTBEAT_MS = 25_000;
/** The ids of requests are positive numbers; these two are the socket's own. */
const OPEN_ID = "open";
const PING_ID = "ping";

/** The token was valid once but has expired: with `getToken` there is a new one. */
const CLOSE_TOKEN_EXPIRED = 4502;
/** So many tokens of `getToken` refused in a row are no leftovers of its cache: the user is not welcome. */
const TOKENS_REFUSED_MAX = 2;
const FINAL_CLOSE_FIRST = 4500;
const FINAL_CLOSE_LAST = 4999;

export interface SocketOptions {
  /** One address or several of the same Skein: the next is tried when one does not answer. */
  readonly url: string | readonly string[];
  readonly token?: string;
  /** Asked before every connection, and so again when a token expires; takes the place of `token`. */
  readonly getToken?: () => string | Promise<string>;
  readonly device?: string;
}

export interface SocketEvents {
  onOpen(session: Session): void;
  onAnswer(answer: Answer): void;
  onNotification(notification: Notification): void;
  onClosing(notice: ClosingNotice): void;
  /** There is no session, or it is lost; another attempt follows. */
  onDown(reason: string): void;
  /** No further socket. */
  onEnd(error: ClientError): void;
}

export interface Socket {
  isOpen(): boolean;
  /** False when there is no open session; then nothing was sent. */
  send(frame: string): boolean;
  close(): void;
}

/** No attempt is made before `ready`. */
export function openSocket(
  options: SocketOptions & { ready?: Promise<void> | undefined },
  events: SocketEvents,
): Socket {
  const urls = typeof options.url === "string" ? [options.url] : options.url;
  // A wrong address is the caller's mistake: told now, not in a loop.
  for (const url of urls) new URL(url);
  let socket: WebSocket | undefined;
  let isOpen = false;
  let isEnded = false;
  let attempt = 0;
  let tokensRefused = 0;
  let urlIndex = 0;
  let askedWaitMs: number | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let heartbeat: ReturnType<typeof setInterval> | undefined;

  function end(error: ClientError): void {
    if (isEnded) return;
    isEnded = true;
    drop();
    events.onEnd(error);
  }

  /** Lets go of the current socket: whatever it still says is not heard. */
  function drop(code?: number): void {
    clearTimeout(timer);
    clearInterval(heartbeat);
    const old = socket;
    socket = undefined;
    isOpen = false;
    if (!old) return;
    old.onopen = old.onmessage = old.onclose = null;
    old.close(code);
  }

  function lost(reason: string): void {
    if (!isOpen) urlIndex += 1;
    drop();
    if (isEnded) return;
    events.onDown(reason);
    const waitMs = askedWaitMs ?? backoffMs(attempt, RECONNECT_FIRST_MS, RECONNECT_MAX_MS);
    askedWaitMs = undefined;
    attempt += 1;
    timer = setTimeout(connect, waitMs);
  }

  async function connect(): Promise<void> {
    const deadline = setTimeout(() => lost("no session within the deadline"), OPEN_MS_MAX);
    timer = deadline;
    let token: string;
    try {
      await options.ready;
      token = await (options.getToken ? options.getToken() : (options.token ?? ""));
    } catch (error) {
      // Whoever mints tokens may be down for a moment, as the server may be.
      if (timer === deadline) lost(`getToken failed: ${messageOf(error)}`);
      return;
    }
    // Closed meanwhile, or given up: then another attempt is under way.
    if (isEnded || timer !== deadline) return;
    try {
      open(new WebSocket(urls[urlIndex % urls.length]!), token);
    } catch (error) {
      // A page that came by TLS may not open ws:// and the like: no attempt will be better.
      end(new ClientError("INVALID", messageOf(error)));
    }
  }

  function open(current: WebSocket, token: string): void {
    socket = current;
    current.onopen = () => {
      const params = { token, ...(options.device === undefined ? {} : { device: options.device }) };
      current.send(JSON.stringify({ jsonrpc: "2.0", id: OPEN_ID, method: "session.open", params }));
    };
    current.onmessage = (event) => receive(event.data as string);
    current.onerror = () => undefined;
    current.onclose = (event) => closed(event.code, event.reason);
  }

  function closed(code: number, reason: string): void {
    const isFinal = code >= FINAL_CLOSE_FIRST && code <= FINAL_CLOSE_LAST;
    if (isFinal && !(code === CLOSE_TOKEN_EXPIRED && options.getToken)) {
      end(new ClientError("UNAUTHENTICATED", `closed by the server: ${code} ${reason}`));
    } else lost(`closed: ${code} ${reason}`);
  }

  function receive(data: string): void {
    let frame: (Answer & { method?: undefined }) | Notification;
    try {
      frame = JSON.parse(data);
      if (typeof frame !== "object" || frame === null) throw new TypeError("not an object");
    } catch (error) {
      // Not our server, or something between that is broken.
      lost(`a frame that is not JSON-RPC: ${messageOf(error)}`);
      return;
    }
    if (frame.method === undefined) answered(frame);
    else if (frame.method === "session.closing") {
      askedWaitMs = Math.min(frame.params.reconnectInMs ?? 0, RECONNECT_ASKED_MAX_MS);
      events.onClosing(frame.params);
    } else events.onNotification(frame);
  }

  function answered(answer: Answer): void {
    if (answer.id === OPEN_ID) opened(answer);
    else if (answer.id === PING_ID) clearTimeout(timer);
    else events.onAnswer(answer);
  }

  function opened({ result, error }: Answer): void {
    if (error) {
      const { code = "INTERNAL", retryable = true, retryAfterMs } = error.data ?? {};
      askedWaitMs = retryAfterMs === undefined ? undefined : askedMs(retryAfterMs);
      if (code === "UNAUTHENTICATED") tokensRefused += 1;
      const mayRenew = code === "UNAUTHENTICATED" && options.getToken && tokensRefused < TOKENS_REFUSED_MAX;
      if (retryable || mayRenew) lost(error.message);
      else end(new ClientError(code, error.message));
      return;
    }
    clearTimeout(timer);
    const session = result as Session;
    isOpen = true;
    attempt = 0;
    tokensRefused = 0;
    askedWaitMs = undefined;
    const everyMs = session.heartbeatMs > 0 ? session.heartbeatMs : HEARTBEAT_MS;
    heartbeat = setInterval(() => beat(Math.min(everyMs, PING_ANSWER_MS_MAX)), everyMs);
    // Last, for it may close us.
    events.onOpen(session);
  }

  function beat(answerMs: number): void {
    clearTimeout(timer);
    timer = setTimeout(() => lost("a ping was not answered"), answerMs);
    socket?.send(`{"jsonrpc":"2.0","id":"${PING_ID}","method":"session.ping","params":{}}`);
  }

  void connect();
  return {
    isOpen: () => isOpen,
    send(frame) {
      if (!isOpen || socket?.readyState !== WebSocket.OPEN) return false;
      socket.send(frame);
      return true;
    },
    close() {
      isEnded = true;
      drop(1000);
    },
  };
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
