/**
 * The secrets of an installation. What the settings do not give is generated once in the data dir, readable by its owner
 * only (0600), and found again at every later start. Two processes that start at once agree: the file is created exclusively.
 */

import { createECDH, createHmac, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "./config.ts";

export interface Secrets {
  /** Signs user tokens (HS256). */
  readonly jwtSecret: string;
  /** The bootstrap service key, all scopes. */
  readonly serviceKey: string;
  /** Signs calls between our own processes. */
  readonly internalSecret: string;
  /** Of the embedded Redis. */
  readonly redisPassword: string;
  /**
   * Signs calls to browsers' push services (VAPID): the 32 bytes of a P-256 key in base64url. Subscriptions are bound to it.
   */
  readonly vapidKey: string;
}

/** Length of a P-256 private key. */
const VAPID_KEY_BYTES = 32;

/** Reads or creates the secrets. Throws the file system's error when the data dir cannot be written. */
export function loadSecrets(
  config: Pick<Config, "dataDir" | "jwtSecret" | "serviceKey" | "internalSecret" | "vapidKey">,
): Secrets {
  const folder = join(config.dataDir, "secrets");
  const stored = (name: string, make: () => string) => readOrCreate(folder, name, make);
  const key = () => randomBytes(32).toString("base64url");
  return {
    jwtSecret: config.jwtSecret ?? stored("jwt-secret", key),
    serviceKey: config.serviceKey ?? stored("service-key", () => `sk_root_${key()}`),
    internalSecret: config.internalSecret ?? stored("internal-secret", key),
    redisPassword: stored("redis-password", key),
    vapidKey: config.vapidKey ?? stored("vapid-key", newVapidKey),
  };
}

/**
 * A secret for one purpose, the same in all processes of the installation: 32 bytes that tell nothing of what they are made of.
 */
export function deriveSecret({ internalSecret }: Pick<Secrets, "internalSecret">, purpose: string): Uint8Array {
  return createHmac("sha256", internalSecret).update(purpose).digest();
}

/** Signs the calls that ask members of a producer group what became of their transactions; in the form of Standard Webhooks. */
export function checkSecretOf(secrets: Pick<Secrets, "internalSecret">, producerGroup: string): string {
  return `whsec_${Buffer.from(deriveSecret(secrets, `checks of ${producerGroup}`)).toString("base64")}`;
}

/** The public half of a VAPID key, as browsers take it: an uncompressed point in base64url. Throws when it is no key. */
export function vapidPublicKey(privateKey: string): string {
  const ecdh = createECDH("prime256v1");
  ecdh.setPrivateKey(privateKey, "base64url");
  return ecdh.getPublicKey("base64url");
}

/**
 * Signs the webhook of one registration of a device; in the form of Standard Webhooks. Nobody else's, and not of the one
 * before.
 */
export function pushSecretOf(secrets: Pick<Secrets, "internalSecret">, user: string, registration: string): string {
  return `whsec_${Buffer.from(deriveSecret(secrets, `push ${registration} of ${user}`)).toString("base64")}`;
}

function newVapidKey(): string {
  const ecdh = createECDH("prime256v1");
  ecdh.generateKeys();
  const bytes = ecdh.getPrivateKey();
  // Leading zeros are left out of it.
  return Buffer.concat([Buffer.alloc(VAPID_KEY_BYTES - bytes.length), bytes]).toString("base64url");
}

function readOrCreate(folder: string, name: string, make: () => string): string {
  const path = join(folder, name);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  try {
    writeFileSync(path, make(), { flag: "wx", mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  return readFileSync(path, "utf8");
}
