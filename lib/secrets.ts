/**
 * The secrets of an installation. What the settings do not give is generated once in the data dir, readable by its owner
 * only (0600), and found again at every later start. Two processes that start at once agree: the file is created exclusively.
 */

import { createHmac, randomBytes } from "node:crypto";
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
}

/** Reads or creates the secrets. Throws the file system's error when the data dir cannot be written. */
export function loadSecrets(config: Pick<Config, "dataDir" | "jwtSecret" | "serviceKey" | "internalSecret">): Secrets {
  const folder = join(config.dataDir, "secrets");
  const stored = (name: string, make: () => string) => readOrCreate(folder, name, make);
  const key = () => randomBytes(32).toString("base64url");
  return {
    jwtSecret: config.jwtSecret ?? stored("jwt-secret", key),
    serviceKey: config.serviceKey ?? stored("service-key", () => `sk_root_${key()}`),
    internalSecret: config.internalSecret ?? stored("internal-secret", key),
    redisPassword: stored("redis-password", key),
  };
}

/** A secret for one purpose, the same in all processes of the installation: 32 bytes that tell nothing of what they are made of. */
export function deriveSecret({ internalSecret }: Pick<Secrets, "internalSecret">, purpose: string): Uint8Array {
  return createHmac("sha256", internalSecret).update(purpose).digest();
}

/** Signs the calls that ask members of a producer group what became of their transactions; in the form of Standard Webhooks. */
export function checkSecretOf(secrets: Pick<Secrets, "internalSecret">, producerGroup: string): string {
  return `whsec_${Buffer.from(deriveSecret(secrets, `checks of ${producerGroup}`)).toString("base64")}`;
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
