/**
 * Push by a signed webhook: for products that have a notification service of their own. Standard Webhooks, like every call of
 * ours.
 */

import type { Clock } from "../../lib/clock.ts";
import { type Outbound, signWebhook } from "../../lib/http/outbound.ts";
import { type Notification, type PushProvider, payloadOf } from "./provider.ts";

export interface WebhookAddress {
  readonly url: string;
  /** Whom it is for: the receiver serves many. */
  readonly user: string;
  readonly device: string;
  /** The device's own. */
  readonly secret: string;
}

export interface PushWebhookOptions {
  readonly outbound: Outbound;
  readonly clock: Clock;
}

export function createPushWebhook({ outbound, clock }: PushWebhookOptions): PushProvider<WebhookAddress> {
  return {
    async send({ url, user, device, secret }, notification: Notification, signal) {
      const body = JSON.stringify({ type: "im.push", user, device, ...JSON.parse(payloadOf(notification)) });
      const id = `${notification.id}.${device}`;
      const headers = {
        "content-type": "application/json",
        ...signWebhook({ id, nowMs: clock.now(), body, secrets: [secret] }),
      };
      const result = await outbound.call({ url, headers, body }, signal);
      if (result.kind === "refused" || result.kind === "later") return result;
      if (result.kind === "failed") return { kind: "later", afterMs: undefined };
      const { status, retryAfterMs } = result;
      if (status >= 200 && status < 300) return { kind: "sent" };
      if (status === 410) return { kind: "gone" };
      // A receiver's fault or ours is mended by people, and then the same is taken: it is tried again until it expires.
      return { kind: "later", afterMs: retryAfterMs };
    },
  };
}
