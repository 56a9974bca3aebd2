/**
 * Web Push (RFC 8030, 8291, 8292): the browser's push service is posted an encrypted payload, signed with our VAPID key. Its
 * URL comes from the browser, so it is called through the outbound client, and only when its host is a push service's.
 */

import webPush from "web-push";
import type { Clock } from "../../lib/clock.ts";
import { isPushService, type Outbound, type OutboundResult } from "../../lib/http/outbound.ts";
import {
  collapseKeyOf,
  type Notification,
  type PushOutcome,
  type PushProvider,
  payloadOf,
  ttlSeconds,
} from "./provider.ts";

export interface WebPushSubscription {
  readonly endpoint: string;
  readonly keys: { readonly p256dh: string; readonly auth: string };
}

export interface VapidKeys {
  /** `mailto:` or `https:`: whom a push service may write to when we misbehave. */
  readonly subject: string;
  readonly publicKey: string;
  readonly privateKey: string;
}

/** RFC 8291: 4096 bytes encrypted, of which the header and the tag take 103. */
const PAYLOAD_BYTES_MAX = 3_993;
const TOPIC_CHARACTERS = 32;

export interface WebPushOptions {
  readonly outbound: Outbound;
  readonly vapid: VapidKeys;
  readonly clock: Clock;
  /** Any host, for operators with a push service of their own and for tests. */
  readonly allowAnyHost: boolean;
}

export function createWebPush({
  outbound,
  vapid,
  clock,
  allowAnyHost,
}: WebPushOptions): PushProvider<WebPushSubscription> {
  return {
    async send(subscription, notification, signal) {
      if (!allowAnyHost && !isPushService(subscription.endpoint)) {
        return { kind: "refused", reason: "the endpoint is not a known push service's" };
      }
      const payload = payloadOf(notification);
      const bytes = Buffer.byteLength(payload);
      if (bytes > PAYLOAD_BYTES_MAX)
        return { kind: "refused", reason: `${bytes} bytes; the limit is ${PAYLOAD_BYTES_MAX}` };
      let request: ReturnType<typeof webPush.generateRequestDetails>;
      try {
        request = webPush.generateRequestDetails(subscription, payload, {
          vapidDetails: vapid,
          TTL: ttlSeconds(notification, clock.now()),
          contentEncoding: "aes128gcm",
          urgency: "high",
          topic: topicOf(notification),
        });
      } catch {
        // Its keys are none: no later try can encrypt for it. The library's text may repeat them.
        return { kind: "gone" };
      }
      const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
      return outcomeOf(await outbound.call({ url: request.endpoint, headers, body: request.body! }, signal));
    },
  };
}

/** A later one of the same conversation replaces an earlier one that still waits at the push service (RFC 8030 §5.4). */
function topicOf(notification: Notification): string {
  return new Bun.CryptoHasher("sha256")
    .update(collapseKeyOf(notification))
    .digest("base64url")
    .slice(0, TOPIC_CHARACTERS);
}

function outcomeOf(result: OutboundResult): PushOutcome {
  if (result.kind === "refused") return result;
  if (result.kind === "failed") return { kind: "later", afterMs: undefined };
  if (result.kind === "later") return result;
  const { status, retryAfterMs } = result;
  if (status >= 200 && status < 300) return { kind: "sent" };
  // RFC 8030 §7.3: gone; some services say 404 of an endpoint that they no longer know.
  if (status === 404 || status === 410) return { kind: "gone" };
  if (status === 429 || status >= 500) return { kind: "later", afterMs: retryAfterMs };
  return { kind: "refused", reason: `the push service answered ${status}` };
}
