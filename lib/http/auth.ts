/**
 * Who calls. A user by a signed token, a service by its key, which may act for a user. Everything that does not check out is
 * UNAUTHENTICATED, with a reason that names the claim and never holds the token.
 *
 *   Authorization: Bearer <JWT>                      user = `sub`
 *   Authorization: Bearer sk_<id>_<secret>           service
 *   Skein-User: <id>                                 … acting for a user; needs scope chat
 *
 * Each key has one algorithm, and the token's header only picks between keys: `HS256` is checked with our secret and nothing
 * else; EdDSA, ES256 and RS256 with the JWKS, where the key's type leaves one of them. `kid` is looked up in the JWKS only;
 * `jku`, `x5u` and `iss` are never followed: the JWKS address is a setting. Web-standard APIs only.
 */

import {
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  type JWTVerifyGetKey,
  jwtVerify,
  SignJWT,
} from "jose";
import { assert } from "../assert.ts";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { USER_ID_PATTERN, type UserId } from "../id.ts";
import { ALL_SCOPES, hasScope, type Scope } from "./scopes.ts";

/** Two clocks may differ by so much. */
const SKEW_S = 60;
/** The largest time a JavaScript date can hold, in seconds: a later `exp` is not a time. */
const TIME_MAX_S = 8_640_000_000_000;
/** Longer ones are refused unread. With its request around it, it fits the 4 KiB of a frame before authentication. */
const TOKEN_CHARACTERS_MAX = 3_800;
/** RFC 7518 §3.2: as long as the hash. */
const SECRET_BYTES_MIN = 32;
const JWKS_TIMEOUT_MS = 5_000;
/** An unknown `kid` makes us ask the JWKS again, at most this often: tokens must not become a request generator. */
const JWKS_COOLDOWN_MS = 30_000;
const JWKS_CACHE_MS = 10 * 60_000;

const SERVICE_KEY_PATTERN = /^sk_([A-Za-z0-9]{1,32})_([A-Za-z0-9_-]{32,128})$/;
const EXPIRED = "The token has expired";

export interface TokenClaims {
  readonly user: UserId;
  /** When it ends, ms. */
  readonly expiresAt: number;
}

/** Which service key let somebody in: enough to see later whether it still would. */
export interface ServicePass {
  /** Its id. */
  readonly key: string;
  readonly digest: string;
}

export type Caller =
  | ({ readonly kind: "user" } & TokenClaims)
  /** `user`: whom it acts for. */
  | ({ readonly kind: "service"; readonly scopes: ReadonlySet<Scope>; readonly user?: UserId } & ServicePass);

/** What is kept of a service key: enough to know it again, not to make it. */
export interface ServiceKey {
  /** SHA-256 of the whole key, base64. */
  readonly digest: string;
  readonly scopes: readonly Scope[];
}

export interface Authenticator {
  /** A bare token, as `session.open` brings it. */
  verifyToken(token: string): Promise<TokenClaims>;
  /** Reads Authorization and Skein-User. Throws UNAUTHENTICATED, FORBIDDEN or INVALID; OVERLOADED when the JWKS cannot be had. */
  authenticate(headers: Headers): Promise<Caller>;
  /** Whether that service key has not been revoked since. Throws when it cannot tell. */
  isInForce(pass: ServicePass): Promise<boolean>;
  /** A user token signed with our secret. */
  mint(user: UserId, ttlSeconds: number): Promise<{ token: string; expiresAt: number }>;
}

export interface AuthenticatorOptions {
  readonly jwtSecret: string;
  readonly jwksUrl?: string | undefined;
  /** The bootstrap key, all scopes. */
  readonly serviceKey: string;
  /** Finds any other service key by its id; a revoked one soon not any more. Throws when it cannot tell: then nobody passes. */
  readonly findServiceKey?: (id: string) => Promise<ServiceKey | undefined>;
  /** Whether a user was erased: no token of his is good any more, and no service acts for him. Throws when it cannot tell. */
  readonly isErased?: (user: UserId) => Promise<boolean>;
  readonly clock: Clock;
}

/** Imports the keys. Fails (assertion) when the secret is too short or the service key has no form. */
export async function createAuthenticator(options: AuthenticatorOptions): Promise<Authenticator> {
  const { jwtSecret, jwksUrl, serviceKey, findServiceKey, isErased = async () => false, clock } = options;
  const encoder = new TextEncoder();
  const secret = encoder.encode(jwtSecret);
  assert(secret.length >= SECRET_BYTES_MIN, `the JWT secret must be at least ${SECRET_BYTES_MIN} bytes`);
  const own = SERVICE_KEY_PATTERN.exec(serviceKey);
  assert(own, "the service key must be sk_<id>_<secret of 32 to 128 characters>");
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", secret, hmac, false, ["sign", "verify"]);
  const jwks = jwksUrl === undefined ? undefined : openJwks(jwksUrl);
  const ownKey: ServiceKey = { digest: await serviceKeyDigest(serviceKey), scopes: ALL_SCOPES };

  async function verifyToken(token: string): Promise<TokenClaims> {
    if (token.length > TOKEN_CHARACTERS_MAX) {
      throw unauthenticated(`The token is longer than ${TOKEN_CHARACTERS_MAX} characters`);
    }
    const currentDate = new Date(clock.now());
    try {
      const { payload } =
        jwks && decodeProtectedHeader(token).alg !== "HS256"
          ? await jwtVerify(token, jwks, { ...CHECKS, algorithms: ["EdDSA", "ES256", "RS256"], currentDate })
          : await jwtVerify(token, key, { ...CHECKS, algorithms: ["HS256"], currentDate });
      const claims = readClaims(payload, clock.now());
      await refuseErased(claims.user);
      return claims;
    } catch (error) {
      throw toAuthError(error);
    }
  }

  async function refuseErased(user: UserId): Promise<void> {
    if (await isErased(user)) throw unauthenticated("The user was erased");
  }

  /** The service key of this id, if it has that digest. */
  async function knownKey({ key: id, digest }: ServicePass): Promise<ServiceKey | undefined> {
    const known = id === own![1] ? ownKey : await findServiceKey?.(id);
    // Digests are of equal length and tell an attacker nothing by how early they differ.
    return known !== undefined && isEqual(digest, known.digest) ? known : undefined;
  }

  async function verifyServiceKey(given: string): Promise<ServicePass & { scopes: ReadonlySet<Scope> }> {
    const [, id] = SERVICE_KEY_PATTERN.exec(given) ?? [];
    const pass = id === undefined ? undefined : { key: id, digest: await serviceKeyDigest(given) };
    const known = pass && (await knownKey(pass));
    if (!known) throw unauthenticated("The service key is not valid");
    return { ...pass!, scopes: new Set(known.scopes) };
  }

  return {
    verifyToken,
    async authenticate(headers) {
      const credential = readBearer(headers.get("authorization"));
      const actsFor = headers.get("skein-user");
      if (!credential.startsWith("sk_")) {
        if (actsFor !== null) throw new AppError("FORBIDDEN", "Skein-User: only a service key may act for a user");
        return { kind: "user", ...(await verifyToken(credential)) };
      }
      const service = { kind: "service", ...(await verifyServiceKey(credential)) } as const;
      if (actsFor === null) return service;
      if (!hasScope(service, "chat")) throw new AppError("FORBIDDEN", "Skein-User: needs a key with scope chat");
      if (!USER_ID_PATTERN.test(actsFor)) {
        const message = "must be 1..128 of [A-Za-z0-9_.@|+=-]";
        throw new AppError("INVALID", `Skein-User: ${message}`, { issues: [{ path: "Skein-User", message }] });
      }
      await refuseErased(actsFor as UserId);
      return { ...service, user: actsFor as UserId };
    },
    isInForce: async (pass) => (await knownKey(pass)) !== undefined,
    async mint(user, ttlSeconds) {
      const nowS = Math.floor(clock.now() / 1_000);
      const expires = nowS + ttlSeconds;
      const token = await new SignJWT()
        .setProtectedHeader({ alg: "HS256", typ: "JWT" })
        .setSubject(user)
        .setIssuedAt(nowS)
        .setExpirationTime(expires)
        .sign(key);
      return { token, expiresAt: expires * 1_000 };
    },
  };
}

/** The user on whose behalf the call is made: a token's own, or whom a service acts for. */
export function actingUser(caller: Caller): UserId {
  if (caller.user !== undefined) return caller.user;
  const message = "is required: the user for whom the service acts";
  throw new AppError("INVALID", `Skein-User: ${message}`, { issues: [{ path: "Skein-User", message }] });
}

/** As ServiceKey.digest. A key's secret is random and long, so its plain hash gives nothing away. */
export async function serviceKeyDigest(key: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key));
  return btoa(String.fromCharCode(...new Uint8Array(digest)));
}

/** Whether the error of verifyToken says that the token was good and is over: the client should fetch a new one. */
export function isExpired(error: unknown): boolean {
  return error instanceof AppError && error.code === "UNAUTHENTICATED" && error.message === EXPIRED;
}

/** The JWKS was had, and has no one key for the token. */
const KEY_FAULTS = new Set(["ERR_JWKS_NO_MATCHING_KEY", "ERR_JWKS_MULTIPLE_MATCHING_KEYS", "ERR_JOSE_NOT_SUPPORTED"]);

const CHECKS = { clockTolerance: SKEW_S, requiredClaims: ["exp", "sub"] };

function openJwks(url: string): JWTVerifyGetKey {
  const lookUp = createRemoteJWKSet(new URL(url), {
    timeoutDuration: JWKS_TIMEOUT_MS,
    cooldownDuration: JWKS_COOLDOWN_MS,
    cacheMaxAge: JWKS_CACHE_MS,
  });
  return (header, token) =>
    lookUp(header, token).catch((cause: unknown) => {
      if (cause instanceof errors.JOSEError && KEY_FAULTS.has(cause.code)) throw cause;
      // Not the token's fault: refused all the same, and worth another try.
      throw new AppError("OVERLOADED", "The keys of the token issuer cannot be had", { retryAfterMs: 1_000, cause });
    });
}

function readBearer(header: string | null): string {
  if (header === null) throw unauthenticated("Authorization: is required, as Bearer <token>");
  const space = header.indexOf(" ");
  if (header.slice(0, space).toLowerCase() !== "bearer") {
    throw unauthenticated("Authorization: the scheme must be Bearer");
  }
  return header.slice(space + 1).trim();
}

/** What jose does not judge: that `sub` is one of our user ids, and that the times are times. */
function readClaims({ sub, exp, iat }: JWTPayload, nowMs: number): TokenClaims {
  if (typeof sub !== "string" || !USER_ID_PATTERN.test(sub)) {
    throw unauthenticated("The token's sub must be 1..128 of [A-Za-z0-9_.@|+=-]");
  }
  if (exp === undefined || exp > TIME_MAX_S) throw unauthenticated("The token's exp must be a time in seconds");
  if (iat !== undefined && iat * 1_000 > nowMs + SKEW_S * 1_000) {
    throw unauthenticated("The token's iat lies in the future");
  }
  // One that is already within the tolerance is good to its end; any other one to its own time.
  const expiresAt = exp * 1_000 > nowMs ? exp * 1_000 : (exp + SKEW_S) * 1_000;
  return { user: sub as UserId, expiresAt };
}

function toAuthError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof errors.JWTExpired) return unauthenticated(EXPIRED);
  if (error instanceof errors.JWTClaimValidationFailed) {
    return unauthenticated(`The token's ${error.claim} is missing or not acceptable`);
  }
  if (error instanceof errors.JOSEAlgNotAllowed) return unauthenticated("The token's algorithm is not accepted");
  if (error instanceof errors.JWSSignatureVerificationFailed) return unauthenticated("The token's signature is wrong");
  if (error instanceof errors.JOSEError && KEY_FAULTS.has(error.code)) {
    return unauthenticated("The token's key is not known");
  }
  return unauthenticated("The token is malformed");
}

function unauthenticated(detail: string): AppError {
  return new AppError("UNAUTHENTICATED", detail);
}

function isEqual(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}
