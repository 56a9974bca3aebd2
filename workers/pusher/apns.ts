/**
 * Apple's push service: HTTP/2, a token of our own signed with ES256 that lives for an hour, one connection for all devices. As
 * the outbound client does with its hosts, Apple is left alone for a while when it does not answer (lib/http/circuit.ts).
 * Apple's document "Sending notification requests to APNs" names the headers, statuses and reasons used here.
 */

import { type ClientHttp2Session, connect } from "node:http2";
import { importPKCS8, SignJWT } from "jose";
import type { Clock } from "../../lib/clock.ts";
import { Circuits } from "../../lib/http/outbound.ts";
import { collapseKeyOf, type PushOutcome, type PushProvider, ttlSeconds } from "./provider.ts";

export interface ApnsOptions {
  /** `https://api.push.apple.com`, or the sandbox's. */
  readonly origin: string;
  readonly teamId: string;
  readonly keyId: string;
  /** The .p8 file's text. */
  readonly privateKey: string;
  /** The app's bundle id, for devices that name none. */
  readonly topic: string;
  readonly clock: Clock;
}

export interface ApnsAddress {
  readonly token: string;
  /** Of another app of the same team. */
  readonly topic?: string | undefined;
}

interface Token {
  readonly text: Promise<string>;
  readonly madeMs: number;
}

export interface Apns extends PushProvider<ApnsAddress> {
  close(): void;
}

/** Apple refuses tokens older than an hour, and complains of ones renewed more often than every 20 minutes. */
const TOKEN_MS = 40 * 60_000;
const TIMEOUT_MS = 10_000;
/** Retry-After: up to a day, as long as a notification is of use. */
const SECONDS = /^\d{1,5}$/;
const REPLY_CHARACTERS_MAX = 4_096;
const PAYLOAD_BYTES_MAX = 4_096;

/** The device token will never do: malformed, or the app is gone. One of another topic is not: that may be our setting. */
const GONE = new Set(["BadDeviceToken", "Unregistered", "ExpiredToken"]);
const STALE_TOKEN = new Set(["ExpiredProviderToken", "InvalidProviderToken", "MissingProviderToken"]);

export function createApns(options: ApnsOptions): Apns {
  const { origin, teamId, keyId, privateKey, topic, clock } = options;
  const circuits = new Circuits();
  let session: ClientHttp2Session | undefined;
  let token: Token | undefined;

  function open(): ClientHttp2Session {
    if (session && !session.closed && !session.destroyed) return session;
    const opened = connect(origin);
    const forget = () => {
      if (session === opened) session = undefined;
    };
    // What was under way on it ends by itself, each with an error of its own.
    opened.on("error", forget);
    opened.on("goaway", forget);
    opened.on("close", forget);
    session = opened;
    return opened;
  }

  function currentToken(): Token {
    if (!token || clock.now() - token.madeMs > TOKEN_MS) token = { text: sign(), madeMs: clock.now() };
    return token;
  }

  async function sign(): Promise<string> {
    const key = await importPKCS8(privateKey, "ES256");
    const issued = Math.floor(clock.now() / 1_000);
    return new SignJWT()
      .setProtectedHeader({ alg: "ES256", kid: keyId })
      .setIssuer(teamId)
      .setIssuedAt(issued)
      .sign(key);
  }

  return {
    async send({ token: deviceToken, topic: ownTopic }, notification, signal) {
      const payload = JSON.stringify({
        aps: {
          alert: { title: notification.title, body: notification.text },
          badge: notification.unread,
          "thread-id": notification.conversation,
        },
        conversation: notification.conversation,
        seq: notification.seq,
        id: notification.id,
      });
      const bytes = Buffer.byteLength(payload);
      if (bytes > PAYLOAD_BYTES_MAX)
        return { kind: "refused", reason: `${bytes} bytes; the limit is ${PAYLOAD_BYTES_MAX}` };
      const used = currentToken();
      const headers = {
        ":method": "POST",
        ":path": `/3/device/${encodeURIComponent(deviceToken)}`,
        authorization: `bearer ${await used.text}`,
        "apns-topic": ownTopic ?? topic,
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": String(Math.floor(clock.now() / 1_000) + ttlSeconds(notification, clock.now())),
        "apns-collapse-id": collapseKeyOf(notification),
      };
      const slot = await circuits.enter(origin, signal);
      if (typeof slot === "number") return { kind: "later", afterMs: slot };
      const connection = open();
      let answer: Answer | undefined;
      try {
        answer = await exchange(connection, headers, payload, signal);
      } catch (error) {
        signal.throwIfAborted();
        // A connection that has gone dead answers nobody; others under way on it end, and come again.
        if (error instanceof NoAnswer) connection.destroy();
        return { kind: "later", afterMs: undefined };
      } finally {
        // Our own haste says nothing of Apple.
        slot.release(answer !== undefined || signal.aborted);
      }
      const outcome = outcomeOf(answer);
      // Not the next one, which another answer may have made by now: Apple complains of many.
      if (outcome.kind === "expired" && token === used) token = undefined;
      return outcome;
    },
    close() {
      session?.close();
    },
  };
}

class NoAnswer extends Error {}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly retryAfter: string | undefined;
}

function exchange(
  session: ClientHttp2Session,
  headers: Record<string, string>,
  body: string,
  signal: AbortSignal,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers);
    const answer = { status: 0, body: "", retryAfter: undefined as string | undefined };
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    };
    const fail = (error: Error) => {
      end();
      stream.close();
      reject(error);
    };
    const abort = () => fail(new Error("the process is stopping"));
    const timer = setTimeout(() => fail(new NoAnswer(`no answer within ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
    signal.addEventListener("abort", abort, { once: true });
    stream.setEncoding("utf8");
    stream.on("response", (received) => {
      answer.status = Number(received[":status"]);
      answer.retryAfter = received["retry-after"];
    });
    stream.on("data", (chunk: string) => {
      answer.body = (answer.body + chunk).slice(0, REPLY_CHARACTERS_MAX);
    });
    stream.on("error", fail);
    stream.on("end", () => {
      end();
      if (answer.status === 0) reject(new Error("the stream ended without an answer"));
      else resolve(answer);
    });
    stream.end(body);
  });
}

function outcomeOf({ status, body, retryAfter }: Answer): PushOutcome {
  if (status === 200) return { kind: "sent" };
  const reason = reasonOf(body);
  if (status === 410 || GONE.has(reason)) return { kind: "gone" };
  if (STALE_TOKEN.has(reason)) return { kind: "expired" };
  if (status === 429 || status >= 500) {
    return { kind: "later", afterMs: SECONDS.test(retryAfter ?? "") ? Number(retryAfter) * 1_000 : undefined };
  }
  return { kind: "refused", reason: `APNs answered ${status} ${reason}`.trim() };
}

function reasonOf(body: string): string {
  try {
    const { reason } = JSON.parse(body) as { reason?: unknown };
    return typeof reason === "string" ? reason : "";
  } catch (error) {
    if (error instanceof SyntaxError) return "";
    throw error;
  }
}
