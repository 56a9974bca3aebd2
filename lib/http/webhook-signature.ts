/**
 * Standard Webhooks: how a receiver knows that a call is ours, whole, and new. The headers are
 *
 *   webhook-id         the same for every attempt of one message: what receivers remember to act once
 *   webhook-timestamp  seconds, of this attempt: receivers refuse what is older than 5 minutes
 *   webhook-signature  `v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`, one for each secret while one replaces the other
 *
 * A secret `whsec_…` is the key in base64; any other is taken as it is.
 */

import { createHmac } from "node:crypto";

export interface SignedCall {
  readonly id: string;
  readonly nowMs: number;
  readonly body: string;
  readonly secrets: readonly string[];
}

export function signWebhook({ id, nowMs, body, secrets }: SignedCall): Record<string, string> {
  const timestamp = String(Math.floor(nowMs / 1_000));
  const signatures = secrets.map((secret) => {
    const signature = createHmac("sha256", keyOf(secret)).update(`${id}.${timestamp}.${body}`).digest("base64");
    return `v1,${signature}`;
  });
  return { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures.join(" ") };
}

const PREFIX = "whsec_";

function keyOf(secret: string): Uint8Array {
  return secret.startsWith(PREFIX) ? Buffer.from(secret.slice(PREFIX.length), "base64") : Buffer.from(secret);
}
