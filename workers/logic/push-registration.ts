/**
 * Registering a device for push: whether this installation can push to it at all, and to where its address leads. What is
 * called later is judged again then (lib/http/outbound.ts); here the client is told at once.
 */

import type { Config } from "../../lib/config.ts";
import { AppError } from "../../lib/errors.ts";
import { checkOutboundUrl, isPushService } from "../../lib/http/outbound.ts";
import type { PushAddress, PushDevices, RegisterPushParams, RegisterPushReply } from "../../lib/im/index.ts";
import { pushSecretOf, type Secrets } from "../../lib/secrets.ts";

export interface PushRegistrationParts {
  readonly pushDevices: PushDevices;
  readonly secrets: Pick<Secrets, "internalSecret">;
  readonly config: Pick<Config, "outboundPrivate" | "apns" | "fcmAccountFile">;
}

/** Registers a device of `user`. Throws INVALID with the field: a kind that is not set up, an address that is not called. */
export async function registerPush(
  { pushDevices, secrets, config }: PushRegistrationParts,
  user: string,
  { device, ...address }: RegisterPushParams,
): Promise<RegisterPushReply> {
  checkAddress(address, config);
  const { id } = await pushDevices.register(user, device, address);
  return address.kind === "webhook" ? { secret: pushSecretOf(secrets, user, id) } : {};
}

function checkAddress(address: PushAddress, config: PushRegistrationParts["config"]): void {
  const { outboundPrivate: allowPrivate } = config;
  switch (address.kind) {
    case "webpush": {
      const { endpoint } = address.subscription;
      checkUrl("subscription.endpoint", endpoint, allowPrivate);
      if (!allowPrivate && !isPushService(endpoint)) {
        throw refusal("subscription.endpoint", "must be a known push service's: FCM, Mozilla, WNS or Apple");
      }
      return;
    }
    case "webhook":
      checkUrl("url", address.url, allowPrivate);
      return;
    case "apns":
      if (!config.apns) throw refusal("kind", "apns is not set up here (SKEIN_APNS_KEY_FILE)");
      return;
    case "fcm":
      if (!config.fcmAccountFile) throw refusal("kind", "fcm is not set up here (SKEIN_FCM_ACCOUNT_FILE)");
  }
}

function checkUrl(path: string, url: string, allowPrivate: boolean): void {
  try {
    checkOutboundUrl(url, { allowPrivate });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    throw refusal(path, error.issues?.[0]?.message ?? error.message);
  }
}

function refusal(path: string, message: string): AppError {
  return new AppError("INVALID", `${path}: ${message}`, { issues: [{ path, message }] });
}
