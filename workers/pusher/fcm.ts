/**
 * Firebase Cloud Messaging, HTTP v1: an OAuth token for our service account (RFC 7523: we sign an assertion, Google returns a
 * token for an hour), then one call a message. Google's "FCM error codes" names the codes used here.
 */

import { importPKCS8, SignJWT } from "jose";
import type { Clock } from "../../lib/clock.ts";
import type { Outbound, OutboundResult } from "../../lib/http/outbound.ts";
import { collapseKeyOf, type Notification, type PushOutcome, type PushProvider, ttlSeconds } from "./provider.ts";

/** Of the service account's JSON file. */
export interface ServiceAccount {
  readonly project_id: string;
  readonly client_email: string;
  readonly private_key: string;
  readonly token_uri: string;
}

export interface FcmOptions {
  readonly account: ServiceAccount;
  /** `https://fcm.googleapis.com`. */
  readonly origin: string;
  readonly outbound: Outbound;
  readonly clock: Clock;
}

export interface FcmAddress {
  readonly token: string;
}

const SCOPE = "https://www.googleapis.com/auth/firebase.messaging";
const ASSERTION_S = 3_600;
/** A token is renewed so long before its end: a call under way must not outlive it. */
const TOKEN_SPARE_MS = 60_000;
const NEVER = new AbortController().signal;

interface Token {
  readonly text: string;
  readonly untilMs: number;
}

export function createFcm({ account, origin, outbound, clock }: FcmOptions): PushProvider<FcmAddress> {
  let token: Token | undefined;
  let asking: Promise<Token | PushOutcome> | undefined;

  /** Resolves to a token, or to what keeps us from having one. Asked for once, however many wait. */
  async function authorise(): Promise<Token | PushOutcome> {
    if (token && clock.now() < token.untilMs - TOKEN_SPARE_MS) return token;
    asking ??= ask().finally(() => {
      asking = undefined;
    });
    return asking;
  }

  /** By no caller's signal: who stops must not fail the others. The outbound client bounds its time. */
  async function ask(): Promise<Token | PushOutcome> {
    const issued = Math.floor(clock.now() / 1_000);
    const assertion = await new SignJWT({ scope: SCOPE })
      .setProtectedHeader({ alg: "RS256", typ: "JWT" })
      .setIssuer(account.client_email)
      .setAudience(account.token_uri)
      .setIssuedAt(issued)
      .setExpirationTime(issued + ASSERTION_S)
      .sign(await importPKCS8(account.private_key, "RS256"));
    const body = new URLSearchParams({
      grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer",
      assertion,
    }).toString();
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    const result = await outbound.call({ url: account.token_uri, headers, body }, NEVER);
    if (result.kind !== "answer") return unanswered(result);
    const reply = parse(result.body);
    if (result.status !== 200 || typeof reply.access_token !== "string") {
      if (result.status === 429 || result.status >= 500) return { kind: "later", afterMs: result.retryAfterMs };
      return { kind: "refused", reason: `the token endpoint answered ${result.status}` };
    }
    token = { text: reply.access_token, untilMs: clock.now() + Number(reply.expires_in ?? 0) * 1_000 };
    return token;
  }

  return {
    async send({ token: deviceToken }, notification, signal) {
      const used = await authorise();
      if ("kind" in used) return used;
      const url = `${origin}/v1/projects/${encodeURIComponent(account.project_id)}/messages:send`;
      const headers = { "content-type": "application/json", authorization: `Bearer ${used.text}` };
      const body = JSON.stringify({ message: messageOf(deviceToken, notification, clock.now()) });
      const outcome = outcomeOf(await outbound.call({ url, headers, body }, signal));
      // Not the next one, which another answer may have asked for by now.
      if (outcome.kind === "expired" && token === used) token = undefined;
      return outcome;
    },
  };
}

function messageOf(token: string, notification: Notification, nowMs: number): object {
  const { id, conversation, seq, title, text, unread } = notification;
  // FCM takes strings only.
  const given = Object.entries({ id, conversation, seq, unread }).filter(([, value]) => value !== undefined);
  const data = Object.fromEntries(given.map(([name, value]) => [name, String(value)]));
  return {
    token,
    notification: { title, body: text },
    data,
    android: {
      priority: "high",
      collapse_key: collapseKeyOf(notification),
      ttl: `${ttlSeconds(notification, nowMs)}s`,
    },
  };
}

function unanswered(result: Exclude<OutboundResult, { kind: "answer" }>): PushOutcome {
  return result.kind === "failed" ? { kind: "later", afterMs: undefined } : result;
}

function outcomeOf(result: OutboundResult): PushOutcome {
  if (result.kind !== "answer") return unanswered(result);
  const { status, retryAfterMs } = result;
  if (status === 200) return { kind: "sent" };
  const code = errorCodeOf(result.body);
  // Any other 404 may be of a wrong project: our setting.
  if (code === "UNREGISTERED" || code === "SENDER_ID_MISMATCH") return { kind: "gone" };
  if (status === 401) return { kind: "expired" };
  if (status === 429 || status >= 500) return { kind: "later", afterMs: retryAfterMs };
  return { kind: "refused", reason: `FCM answered ${status} ${code}`.trim() };
}

/** The FCM code in the error's details, else the status word. */
function errorCodeOf(body: string | undefined): string {
  const { error } = parse(body) as { error?: { status?: string; details?: readonly { errorCode?: string }[] } };
  const detail = Array.isArray(error?.details)
    ? error.details.find(({ errorCode }) => errorCode !== undefined)
    : undefined;
  return detail?.errorCode ?? error?.status ?? "";
}

function parse(body: string | undefined): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(body ?? "{}");
    return typeof parsed === "object" && parsed !== null ? (parsed as Record<string, unknown>) : {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}
