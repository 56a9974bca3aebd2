/** The push providers of this installation, by the kind of a device's registration. */

import { readFileSync } from "node:fs";
import * as v from "valibot";
import type { Clock } from "../../lib/clock.ts";
import type { Config } from "../../lib/config.ts";
import { AppError } from "../../lib/errors.ts";
import type { Outbound } from "../../lib/http/outbound.ts";
import type { PushRegistration } from "../../lib/im/index.ts";
import { pushSecretOf, type Secrets, vapidPublicKey } from "../../lib/secrets.ts";
import { createApns } from "./apns.ts";
import { createFcm } from "./fcm.ts";
import type { Notification, PushOutcome } from "./provider.ts";
import { createWebPush } from "./web-push.ts";
import { createPushWebhook } from "./webhook.ts";

const FCM_ORIGIN = "https://fcm.googleapis.com";

/** What is used of a service account's file; the rest of it is Google's. */
const ServiceAccount = v.object({
  project_id: v.string(),
  client_email: v.string(),
  private_key: v.string(),
  token_uri: v.pipe(v.string(), v.url()),
});

/** A device of a user. */
export interface Target {
  readonly user: string;
  readonly device: string;
  readonly registration: PushRegistration;
}

export interface Providers {
  /** Never rejects but with `signal`'s reason. */
  send(target: Target, notification: Notification, signal: AbortSignal): Promise<PushOutcome>;
  close(): void;
}

export interface ProvidersParts {
  readonly config: Pick<Config, "outboundPrivate" | "pushContact" | "apns" | "fcmAccountFile">;
  readonly secrets: Pick<Secrets, "internalSecret" | "vapidKey">;
  readonly clock: Clock;
  readonly outbound: Outbound;
}

/** Throws INVALID that names the setting when a key file cannot be read or is none. */
export function createProviders({ config, secrets, clock, outbound }: ProvidersParts): Providers {
  const { vapidKey: privateKey } = secrets;
  const webPush = createWebPush({
    ...{ outbound, clock, allowAnyHost: config.outboundPrivate },
    vapid: { subject: config.pushContact, privateKey, publicKey: vapidPublicKey(privateKey) },
  });
  const webhook = createPushWebhook({ outbound, clock });
  const apns =
    config.apns &&
    createApns({ ...config.apns, clock, privateKey: readSetting("SKEIN_APNS_KEY_FILE", config.apns.keyFile) });
  const { fcmAccountFile } = config;
  const fcm =
    fcmAccountFile === undefined
      ? undefined
      : createFcm({ account: readAccount(fcmAccountFile), origin: FCM_ORIGIN, outbound, clock });
  return {
    async send({ user, device, registration: { id, address } }, notification, signal) {
      switch (address.kind) {
        case "webpush":
          return webPush.send(address.subscription, notification, signal);
        case "webhook": {
          const secret = pushSecretOf(secrets, user, id);
          return webhook.send({ url: address.url, user, device, secret }, notification, signal);
        }
        case "apns":
          return apns?.send(address, notification, signal) ?? NOT_SET_UP;
        case "fcm":
          return fcm?.send(address, notification, signal) ?? NOT_SET_UP;
      }
    },
    close: () => apns?.close(),
  };
}

/** It was when the device registered. */
const NOT_SET_UP: PushOutcome = { kind: "refused", reason: "its provider is not set up any more" };

function readAccount(path: string) {
  const name = "SKEIN_FCM_ACCOUNT_FILE";
  let parsed: unknown;
  try {
    parsed = JSON.parse(readSetting(name, path));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new AppError("INVALID", `${name}: ${path} is not JSON`);
  }
  const account = v.safeParse(ServiceAccount, parsed);
  if (!account.success) throw new AppError("INVALID", `${name}: ${path} is no service account's file`);
  return account.output;
}

function readSetting(name: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new AppError("INVALID", `${name}: ${path} cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
}
