/** Credentials that must and must not be believed: reliability.md §3, rows 71-83. */

import { expect, test } from "bun:test";
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from "jose";
import { AppError } from "../../lib/errors.ts";
import { type Authenticator, actingUser, createAuthenticator, isExpired, requireScope } from "../../lib/http/index.ts";
import type { UserId } from "../../lib/id.ts";
import { createFakeClock } from "../support/fake-clock.ts";

const SECRET = "a secret of more than thirty-two bytes";
const SERVICE_KEY = `sk_root_${"k".repeat(43)}`;
const clock = createFakeClock();
const NOW_S = Math.floor(clock.now() / 1_000);
const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");

const open = (jwksUrl?: string) => createAuthenticator({ jwtSecret: SECRET, serviceKey: SERVICE_KEY, jwksUrl, clock });

const sign = (claims: JWTPayload, secret = SECRET, header: Record<string, unknown> = {}) =>
  new SignJWT(claims).setProtectedHeader({ alg: "HS256", ...header }).sign(new TextEncoder().encode(secret));

async function refusal(promise: Promise<unknown>): Promise<AppError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(AppError);
  return error as AppError;
}

const withHeaders = (auth: Authenticator, headers: Record<string, string>) => auth.authenticate(new Headers(headers));

test("a minted token names its user until it ends", async () => {
  const auth = await open();
  const { token, expiresAt } = await auth.mint("ada" as UserId, 60);
  expect(await auth.verifyToken(token)).toEqual({ user: "ada" as UserId, expiresAt });
  const caller = await withHeaders(auth, { authorization: `Bearer ${token}` });
  expect(actingUser(caller)).toBe("ada" as UserId);
});

const base = { sub: "ada", exp: NOW_S + 60 };

test.each<[string, JWTPayload, string]>([
  ["exp missing", { sub: "ada" }, "exp"],
  ["exp as a string", { sub: "ada", exp: String(NOW_S + 60) as unknown as number }, "exp"],
  ["exp 1e20", { sub: "ada", exp: 1e20 }, "exp"],
  ["expired by 61 s", { sub: "ada", exp: NOW_S - 61 }, "expired"],
  ["nbf 61 s ahead", { ...base, nbf: NOW_S + 61 }, "nbf"],
  ["iat 61 s ahead", { ...base, iat: NOW_S + 61 }, "iat"],
  ["sub missing", { exp: base.exp }, "sub"],
  ["sub an object", { ...base, sub: { a: 1 } as unknown as string }, "sub"],
  ["sub an array", { ...base, sub: ["ada"] as unknown as string }, "sub"],
  ["sub empty", { ...base, sub: "" }, "sub"],
  ["sub with braces", { ...base, sub: "{0}" }, "sub"],
  ["sub with a colon", { ...base, sub: "a:b" }, "sub"],
  ["sub of 129 characters", { ...base, sub: "a".repeat(129) }, "sub"],
])("a token with %s is refused", async (_, claims, named) => {
  const auth = await open();
  const error = await refusal(auth.verifyToken(await sign(claims)));
  expect(error.code).toBe("UNAUTHENTICATED");
  expect(error.message).toContain(named);
});

test.each<[string, JWTPayload]>([
  ["nbf 59 s ahead", { ...base, nbf: NOW_S + 59 }],
  ["iat 59 s ahead", { ...base, iat: NOW_S + 59 }],
  ["expired 59 s ago", { sub: "ada", exp: NOW_S - 59 }],
])("a token with %s is within the tolerance", async (_, claims) => {
  const auth = await open();
  const { expiresAt } = await auth.verifyToken(await sign(claims));
  expect(expiresAt).toBeGreaterThan(clock.now());
});

test("an expired token is told apart from a bad one", async () => {
  const auth = await open();
  expect(isExpired(await refusal(auth.verifyToken(await sign({ sub: "ada", exp: NOW_S - 100 }))))).toBe(true);
  expect(isExpired(await refusal(auth.verifyToken("nonsense")))).toBe(false);
});

const body = encode(base);
test.each<[string, string]>([
  ["empty", ""],
  ["not a JWT", "nonsense"],
  ["two parts", `${encode({ alg: "HS256" })}.${body}`],
  ["alg none", `${encode({ alg: "none" })}.${body}.`],
  ["alg None", `${encode({ alg: "None" })}.${body}.`],
  ["alg nOnE with a signature", `${encode({ alg: "nOnE" })}.${body}.AAAA`],
  ["no alg", `${encode({})}.${body}.AAAA`],
  ["alg of another kind", `${encode({ alg: ["HS256"] })}.${body}.AAAA`],
  ["header not an object", `${encode([])}.${body}.AAAA`],
  ["header not JSON", `AAAA.${body}.AAAA`],
  ["longer than any of ours", `${encode({ alg: "HS256" })}.${"A".repeat(1_000_000)}.AAAA`],
  ["a NUL", "\u0000"],
])("a token that is %s is refused", async (_, token) => {
  for (const auth of [await open(), await open("http://127.0.0.1:9/jwks")]) {
    expect((await refusal(auth.verifyToken(token))).code).toBe("UNAUTHENTICATED");
  }
});

test("a token of another secret, and one whose key the header proposes, are refused", async () => {
  const auth = await open();
  for (const token of [
    await sign(base, "another secret, thirty-two bytes long"),
    await sign(base, "x".repeat(32), { kid: "../../dev/null", jku: "http://127.0.0.1:9/", x5u: "http://127.0.0.1:9/" }),
    await sign(base, "x".repeat(32), { kid: "' OR 1=1 --" }),
    await sign(base, "x".repeat(32), { jwk: { kty: "oct", k: Buffer.from("x".repeat(32)).toString("base64url") } }),
  ]) {
    expect((await refusal(auth.verifyToken(token))).code).toBe("UNAUTHENTICATED");
  }
  // A kid changes nothing for our own secret.
  expect((await auth.verifyToken(await sign(base, SECRET, { kid: "../etc/passwd" }))).user).toBe("ada" as UserId);
});

test("JWKS tokens: one algorithm per key, and the public key is never a secret", async () => {
  const rsa = await generateKeyPair("RS256", { extractable: true });
  const ed = await generateKeyPair("EdDSA", { extractable: true });
  const ec = await generateKeyPair("ES256", { extractable: true });
  // Without `alg`, as CVE-2026-22817 had it: the key's type alone must leave one algorithm.
  const keys = [
    { ...(await exportJWK(rsa.publicKey)), kid: "rsa" },
    { ...(await exportJWK(ed.publicKey)), kid: "ed" },
    { ...(await exportJWK(ec.publicKey)), kid: "ec" },
    { kty: "oct", k: Buffer.from("s".repeat(32)).toString("base64url"), kid: "oct" },
  ];
  let asked = 0;
  using server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => {
      asked += 1;
      return Response.json({ keys });
    },
  });
  const auth = await open(`http://127.0.0.1:${server.port}/jwks`);
  const signWith = (alg: string, kid: string, key: Parameters<SignJWT["sign"]>[0]) =>
    new SignJWT(base).setProtectedHeader({ alg, kid }).sign(key);

  for (const [alg, kid, key] of [
    ["RS256", "rsa", rsa.privateKey],
    ["EdDSA", "ed", ed.privateKey],
    ["ES256", "ec", ec.privateKey],
  ] as const) {
    expect((await auth.verifyToken(await signWith(alg, kid, key))).user).toBe("ada" as UserId);
  }
  const pem = new TextEncoder().encode(JSON.stringify(keys[0]));
  for (const token of [
    await signWith("HS256", "rsa", pem),
    await signWith("HS256", "oct", new TextEncoder().encode("s".repeat(32))),
    await signWith("EdDSA", "rsa", ed.privateKey),
    await signWith("EdDSA", "unknown", ed.privateKey),
    await new SignJWT(base).setProtectedHeader({ alg: "PS256", kid: "rsa" }).sign(await asPss(rsa.privateKey)),
  ]) {
    expect((await refusal(auth.verifyToken(token))).code).toBe("UNAUTHENTICATED");
  }
  expect((await auth.verifyToken(await sign(base))).user).toBe("ada" as UserId);
  // Unknown kids do not make us a request generator.
  for (let i = 0; i < 20; i++) await refusal(auth.verifyToken(await signWith("EdDSA", `k${i}`, ed.privateKey)));
  expect(asked).toBeLessThanOrEqual(2);
});

async function asPss(key: CryptoKey): Promise<CryptoKey> {
  const jwk = await crypto.subtle.exportKey("jwk", key);
  const { alg, ...rest } = jwk;
  return crypto.subtle.importKey("jwk", rest, { name: "RSA-PSS", hash: "SHA-256" }, false, ["sign"]);
}

test("while the JWKS cannot be had, its tokens are refused as retryable and ours go on", async () => {
  const auth = await open("http://127.0.0.1:9/jwks");
  const { privateKey } = await generateKeyPair("EdDSA");
  const token = await new SignJWT(base).setProtectedHeader({ alg: "EdDSA", kid: "ed" }).sign(privateKey);
  const error = await refusal(auth.verifyToken(token));
  expect(error.code).toBe("OVERLOADED");
  expect(error.retryable).toBe(true);
  expect((await auth.verifyToken(await sign(base))).user).toBe("ada" as UserId);
});

test.each<[string, Record<string, string>, string]>([
  ["no header", {}, "UNAUTHENTICATED"],
  ["Basic", { authorization: "Basic YWRhOnB3" }, "UNAUTHENTICATED"],
  ["token scheme", { authorization: "token abc" }, "UNAUTHENTICATED"],
  ["bare token", { authorization: "abc" }, "UNAUTHENTICATED"],
  ["Bearer alone", { authorization: "Bearer" }, "UNAUTHENTICATED"],
  ["a wrong service key", { authorization: `Bearer sk_root_${"x".repeat(43)}` }, "UNAUTHENTICATED"],
  ["a prefix of the service key", { authorization: `Bearer ${SERVICE_KEY.slice(0, -1)}` }, "UNAUTHENTICATED"],
  ["the service key and more", { authorization: `Bearer ${SERVICE_KEY}x` }, "UNAUTHENTICATED"],
  ["Skein-User that is no id", { authorization: `Bearer ${SERVICE_KEY}`, "skein-user": "a:b" }, "INVALID"],
  ["Skein-User empty", { authorization: `Bearer ${SERVICE_KEY}`, "skein-user": "" }, "INVALID"],
])("credentials: %s", async (_, headers, code) => {
  const error = await refusal(withHeaders(await open(), headers));
  expect(error.code).toBe(code as AppError["code"]);
  expect(error.message).not.toContain(SERVICE_KEY);
});

test("a service acts for whom it names; a user may not name another", async () => {
  const auth = await open();
  const service = await withHeaders(auth, { authorization: `Bearer ${SERVICE_KEY}`, "skein-user": "bob" });
  expect(actingUser(service)).toBe("bob" as UserId);
  requireScope(service, "chat");

  const bare = await withHeaders(auth, { authorization: `bearer ${SERVICE_KEY}` });
  expect(() => actingUser(bare)).toThrow("Skein-User");

  const { token } = await auth.mint("ada" as UserId, 60);
  const user = { authorization: `Bearer ${token}` };
  expect((await refusal(withHeaders(auth, { ...user, "skein-user": "bob" }))).code).toBe("FORBIDDEN");
  expect(() => requireScope({ kind: "user", user: "ada" as UserId, expiresAt: 0 }, "chat")).toThrow("scope chat");
});

test("a secret under 32 bytes stops the start", async () => {
  const promise = createAuthenticator({ jwtSecret: "too short", serviceKey: SERVICE_KEY, clock });
  await expect(promise).rejects.toThrow("32 bytes");
});
