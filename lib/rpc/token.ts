/**
 * The token by which one process of ours shows another its role: signed with the installation's internal secret, short-lived,
 * renewed at half its life. It proves that the caller holds the secret; which role may call what is the layer table's word.
 *
 *   <role>.<instance as base64url>.<expires ms>.<HMAC-SHA-256 as base64url>
 *
 * Web Crypto only. A verified token is remembered until it expires, so the hot path compares strings of a map.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { isRole, type Role } from "./layers.ts";

const TOKEN_LIFE_MS = 600_000;
/** What two machines' clocks may differ by. */
const SKEW_MS = 60_000;
/** Tokens remembered; more processes than this at once only cost a signature check per call. */
const VERIFIED_MAX = 1_024;
const TOKEN_PATTERN = /^([a-z]{1,32})\.([A-Za-z0-9_-]{0,256})\.(\d{1,15})\.([A-Za-z0-9_-]{43})$/;

export interface Caller {
  readonly role: Role;
  readonly instance: string;
}

export interface Tokens {
  /** This process's token, when a fresh one is at hand; else `issue` makes it. */
  current(): string | undefined;
  issue(): Promise<string>;
  /** The caller, when this very token was verified before and has not expired. */
  known(token: string): Caller | undefined;
  /** Throws AppError UNAUTHENTICATED. */
  verify(token: string): Promise<Caller>;
}

export function createTokens(secret: string, self: Caller, clock: Clock): Tokens {
  const encoder = new TextEncoder();
  const key = crypto.subtle.importKey("raw", encoder.encode(secret), { name: "HMAC", hash: "SHA-256" }, false, [
    "sign",
    "verify",
  ]);
  const verified = new Map<string, Caller & { readonly expiresMs: number }>();
  let own = { token: "", renewMs: 0 };
  return {
    current: () => (own.renewMs > clock.now() ? own.token : undefined),
    async issue() {
      const nowMs = clock.now();
      const instance = encoder.encode(self.instance).toBase64({ alphabet: "base64url", omitPadding: true });
      const claims = `${self.role}.${instance}.${nowMs + TOKEN_LIFE_MS}`;
      const signature = new Uint8Array(await crypto.subtle.sign("HMAC", await key, encoder.encode(claims)));
      const token = `${claims}.${signature.toBase64({ alphabet: "base64url", omitPadding: true })}`;
      own = { token, renewMs: nowMs + TOKEN_LIFE_MS / 2 };
      return token;
    },
    known(token) {
      const caller = verified.get(token);
      return caller && caller.expiresMs > clock.now() ? caller : undefined;
    },
    async verify(token) {
      const match = TOKEN_PATTERN.exec(token);
      if (!match) throw new AppError("UNAUTHENTICATED", "The internal token is missing or malformed");
      const [, role, instance, expires, signature] = match as unknown as [string, string, string, string, string];
      const claims = encoder.encode(token.slice(0, token.lastIndexOf(".")));
      const bytes = Uint8Array.fromBase64(signature, { alphabet: "base64url" });
      // crypto.subtle.verify compares in constant time.
      if (!(await crypto.subtle.verify("HMAC", await key, bytes, claims)) || !isRole(role)) {
        throw new AppError("UNAUTHENTICATED", "The internal token is not signed by this installation");
      }
      const expiresMs = Number(expires) + SKEW_MS;
      if (expiresMs <= clock.now()) throw new AppError("UNAUTHENTICATED", "The internal token has expired");
      const name = new TextDecoder().decode(Uint8Array.fromBase64(instance, { alphabet: "base64url" }));
      const caller = { role, instance: name, expiresMs };
      if (verified.size >= VERIFIED_MAX) verified.clear();
      verified.set(token, caller);
      return caller;
    },
  };
}
